"""Folders that are pushed as they are: weights linked, not copied; code, labels and card beside them."""

import io
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from hashlib import sha256
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image
from PIL import Image as PILImage

from seggen_hf.pipelines import ColormapCodec

from ..data.schema import read_map
from ..labels import LabelSet
from ..pictures.segments import paint_record
from ..storage.files import replacing, write_json
from ..storage.folders import REPOSITORY, SIGN, claim_folder
from ..storage.names import check_name
from ..synthesis.shards import PREFIX, ROWS_PER_GROUP, data_path, finished_shards, shard_features

# Where diffusers and transformers write the folder that something was loaded from.
ORIGINS = ("_name_or_path", "name_or_path", "tokenizer_file", "special_tokens_map_file")
PIPELINE_MODULES = {
    "Text2MaskPipeline": "pipeline_text2mask",
    "Mask2ImgPipeline": "pipeline_mask2img",
    "Flux2Text2MaskPipeline": "pipeline_flux2_text2mask",
    "Flux2Mask2ImgPipeline": "pipeline_flux2_mask2img",
}
SEGMENTER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "labels.json", "id2label.json")


def stage_pipeline(source: Path, target: Path) -> Path:
    """A repository that `DiffusionPipeline.from_pretrained(ID, trust_remote_code=True)` loads where this package is
    not installed, and the installed class without the flag.

    Args:
        source: folder of a saved Text2Mask or Mask2Img pipeline; what a training left beside it stays behind.
    Raises: `ValueError` if there is no such pipeline.
    """
    path = source / "model_index.json"
    index = json.loads(path.read_text()) if path.is_file() else {}
    name = index.get("_class_name")
    if name not in PIPELINE_MODULES:
        raise ValueError(f"{source} holds no Text2Mask or Mask2Img pipeline, but {name or 'no model_index.json'}.")
    empty_folder(target)
    components = [key for key, value in index.items() if isinstance(value, list) and value and value[0]]
    for component in components:
        _link_folder(source / component, target / check_name(component, f"A component in {path}"))
    code = _read_code(PIPELINE_MODULES[name])
    for file, text in code.items():
        (target / f"{file}.py").write_text(text, encoding="utf-8")
    index["_class_name"] = [next(iter(code)), name]
    write_json(target / "model_index.json", without_origins(index))
    return target


def _read_code(module: str) -> dict[str, str]:
    """{module name: source} of a pipeline and of all that it imports, the pipeline first.

    diffusers runs all repositories of a process in one flat namespace: of two modules of one name, of two versions of
    this package, the first would silently serve both repositories. So each name ends in a digest of the code.
    """
    folder, found, names = resources.files("seggen_hf.pipelines"), {}, {}

    def add(name: str) -> str:
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        for imported in dict.fromkeys(re.findall(r"^from \.(\w+) import", text, flags=re.MULTILINE)):
            new = names.get(imported) or add(imported)
            text = re.sub(rf"^from \.{imported} import", f"from .{new} import", text, flags=re.MULTILINE)
        if name == module:  # of a local folder diffusers copies only what the pipeline's own file imports
            hidden = [other for other in found if f"from .{other} import" not in text]
            text += "".join(f"\nfrom .{other} import __name__ as _  # noqa: E402, F401" for other in hidden) + "\n"
        names[name] = f"{name}_{_digest(text)}"
        found[names[name]] = text
        return names[name]

    add(module)
    return dict(reversed(found.items()))


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


def stage_segmenter(source: Path, target: Path) -> Path:
    """A repository that `AutoModelForUniversalSegmentation` and `AutoImageProcessor` load, with its labels beside it.

    Raises: `ValueError` if `source` holds no finished segmenter.
    """
    missing = [name for name in SEGMENTER_FILES if not (source / name).is_file()]
    if missing:
        raise ValueError(f"{source} is no finished segmenter: {', '.join(missing)} is missing.")
    empty_folder(target)
    for name in SEGMENTER_FILES:
        _stage_file(source / name, target / name)
    return target


def stage_lora(source: Path, target: Path) -> Path:
    """What `load_lora_weights` takes, from `source`/lora: of Text2Mask, and of Mask2Img on FLUX.2.

    Raises: `ValueError` if the training was no LoRA of the base.
    """
    if (source / "controlnet").is_dir():
        raise ValueError(f"{source} is a ControlNet; its base was not trained.")
    return _stage_lora(source, target, "lora_rank")


def stage_controlnet_lora(source: Path, target: Path) -> Path:
    """What `load_lora_adapter` of a ControlNet takes, from `source`/lora.

    Raises: `ValueError` if the training was no LoRA, or one of a new ControlNet, of which more was trained.
    """
    _check_controlnet(source)
    return _stage_lora(source, target, "lora_rank and mask2img.controlnet_model")


def _stage_lora(source: Path, target: Path, needed: str) -> Path:
    name = "pytorch_lora_weights.safetensors"
    if not (source / "lora" / name).is_file():
        raise ValueError(f"{source} has no LoRA that stands alone; with {source.name}.{needed} there is one.")
    empty_folder(target)
    _link(source / "lora" / name, target / name)
    return target


def _check_controlnet(source: Path) -> None:
    if not (source / "controlnet").is_dir():
        raise ValueError(f"{source} has no ControlNet: its base itself was trained to follow maps.")


def stage_controlnet(source: Path, target: Path) -> Path:
    """What `ControlNetModel.from_pretrained` takes, out of a Mask2Img pipeline.

    Raises: `ValueError` if there is none, or the base was trained with it, which then is no longer the one that
        others have.
    """
    _check_controlnet(source)
    settings = json.loads((source / "run_config.json").read_text())
    if settings.get("train_base"):
        raise ValueError(f"{source} was trained with its base (mask2img.train_base); its ControlNet fits no other.")
    empty_folder(target)
    _link_folder(source / "controlnet", target)
    return target


def stage_metric(source: Path, target: Path) -> Path:
    """A Space that `evaluate.load` takes, out of a folder of metrics/."""
    empty_folder(target)
    _link(source / f"{source.name}.py", target / f"{source.name}.py")
    title = f"<!doctype html><title>{source.name}</title><p>evaluate.load module; see the README."
    (target / "index.html").write_text(title + "\n", encoding="utf-8")
    return target


def published_features(panoptic: bool = False) -> Features:
    """Columns of a published shard: those of a record, and `color_map`, which a person can read in the viewer."""
    columns = {}
    for name, feature in shard_features(panoptic).items():
        columns[name] = feature
        if name == "segmentation_map":
            columns["color_map"] = Image(mode="RGB")
    return Features(columns)


def stage_shards(source: Path, target: Path) -> None:
    """Write every shard of the synthesis in `source` to `target`/train-*.parquet, with a `color_map` column.

    A hundred rows are in memory at once. A shard that is staged already is kept: shards never change.

    Raises: `ValueError` for a synthesis that is not finished.
    """
    manifest = source / "manifest.json"
    planned = json.loads(manifest.read_text())["shards"] if manifest.is_file() else []
    finished = finished_shards(source)
    missing = [name for name in planned if name not in finished]
    if not finished or missing:
        raise ValueError(
            f"{source} is not finished: {len(missing)} of {len(planned)} shards are missing. Run `seggen run` with "
            "the same recipe again, then push."
        )
    codec = ColormapCodec(LabelSet.from_file(source))
    target.mkdir(parents=True, exist_ok=True)
    first = data_path(source, min(finished))
    schema = published_features("panoptic_map" in pq.read_schema(first).names).arrow_schema
    for name in sorted(finished):
        path = target / f"{PREFIX}{name}.parquet"
        if path.is_file():
            continue
        with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for rows in _read_rows(source / "data" / path.name):
                for row in rows:
                    row["color_map"] = {"bytes": _png(paint_record(row, codec)), "path": f"{row['image_id']}.png"}
                writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=ROWS_PER_GROUP)


def _read_rows(path: Path) -> Iterator[list[dict]]:
    for batch in pq.ParquetFile(path).iter_batches(ROWS_PER_GROUP):
        yield batch.to_pylist()


def save_color_map(segmentation_map, codec: ColormapCodec, path: Path) -> None:
    """`segmentation_map` painted, as the PNG of a published record."""
    path.write_bytes(_png(codec.encode(read_map(segmentation_map))))


def _png(rgb) -> bytes:
    """A color map as a palette PNG: a fraction of its size as RGB, and the same pixels."""
    buffer = io.BytesIO()
    picture = PILImage.fromarray(rgb)
    few = picture.getcolors(256)
    picture = picture.convert("P", palette=PILImage.Palette.ADAPTIVE, colors=256) if few else picture
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def claim_repository(target: Path) -> Path:
    """`target` with the sign that it is filled to be pushed; what lies there stays if it has the sign.

    Raises: `ValueError` for a file or link of this name, and a folder without the sign that is not empty.
    """
    if target.is_symlink():
        raise ValueError(f"{target} is a link; what is pushed is written there. Move it away, or use another --name.")
    claim_folder(target, REPOSITORY)
    return target


def empty_folder(target: Path, keep: Collection[str] = ()) -> Path:
    """`claim_repository`, with nothing in it but the sign and what is to `keep`; the rest would be pushed.

    Raises: what `claim_repository` raises; nothing is removed then.
    """
    for path in sorted(claim_repository(target).iterdir()):
        if path.name in (SIGN, *keep):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return target


def _link_folder(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            _stage_file(path, target / path.relative_to(source))


def _stage_file(source: Path, target: Path) -> None:
    """Link a file; of a configuration write what does not tell from which folder it was loaded."""
    if source.name.endswith("config.json"):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, without_origins(json.loads(source.read_text(encoding="utf-8"))))
    else:
        _link(source, target)


def without_origins(config):
    """A configuration (JSON values) without the folders that its parts were loaded from."""
    if isinstance(config, list):
        return [without_origins(value) for value in config]
    if not isinstance(config, dict):
        return config
    return {key: without_origins(value) for key, value in config.items() if key not in ORIGINS}


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them: weights of gigabytes are not doubled. Nobody writes into them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
