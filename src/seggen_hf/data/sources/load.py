"""`load_records`: any source -> a `datasets.Dataset` of records, every broken file named before anything starts."""

import itertools
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets.config
import numpy as np
from datasets import Dataset, Features, Image

from ...config import SCENES, DataConfig
from ...labels import LabelSet
from ...storage.files import write_json
from ..held_out import HELD_OUT, draw_held_out, find_held_out
from ..scenes.records import SCENE_SPLITS, scene_records
from ..schema import (
    allow_megapixels,
    attach_labels,
    encode_image,
    encode_map,
    labels_of,
    open_image,
    picture_files,
    record_features,
)
from ..tiles import tile_records
from .ade20k import SPLITS as ADE20K_SPLITS
from .ade20k import ade20k_root, ade20k_splits, read_ade20k
from .checks import (
    UNREADABLE,
    Source,
    drop_exif,
    explain,
    explain_missing_label,
    explain_no_label,
    fingerprint_of,
    inspect_rows,
    name_of,
    raise_problems,
    turn_upright,
)
from .cityscapes import cityscapes_splits, read_cityscapes
from .coco_instances import ALIASES, instance_splits, read_coco_instances
from .coco_panoptic import YEAR as COCO_YEAR
from .coco_panoptic import coco_splits, read_coco
from .folder import explain_missing_splits, folder_splits, list_images, read_folder
from .hub import HUB_ID, dataset_splits, is_imagefolder, is_saved, parquet_files, read_dataset, rows_of
from .map_decoder import LabelFile, label_file_of, read_label_file
from .roots import Roots
from .voc import read_voc, voc_root, voc_splits

MASKED = {"ade20k": read_ade20k, "voc": read_voc, "cityscapes": read_cityscapes}  # layouts of images and masks
FORMAT = 3  # raised when conversion changes, so that older caches are left alone


def reading_of(data: DataConfig) -> dict:
    """What `data` says about how its source is read, under the names that `load_records` has."""
    return {
        "image_column": data.image_column,
        "mask_column": data.mask_column,
        "zero_is_void": data.zero_is_void,
        "void_ids": data.void_ids,
        "mask_suffix": data.mask_suffix,
        "config_name": data.dataset_config_name,
        "revision": data.dataset_revision,
        "media_roots": data.media_roots,
        "max_megapixels": data.max_megapixels,
    }


def load_split(data: DataConfig, split: str, max_records: int | None) -> Dataset:
    """The records of one split as `data` describes their source, cut into tiles if it says so; scenes are drawn at its
    height and width. `max_records` counts images.

    With `data.held_out` or `data.held_out_names` the training split is without its part `held-out`, which is a split
    of its own. Of the training split `data.train_records_seed` draws the records, instead of the first.

    Raises: see `load_records`; `ValueError` if `data.held_out_names` leave nothing in one of the two parts, and see
        `LabelSet.with_own_palette` if `data.palette` asks for the labels' own colors.
    """
    is_parted = (data.held_out > 0 or bool(data.held_out_names)) and split in (data.train_split, HELD_OUT)
    is_drawn = data.train_records_seed is not None and split == data.train_split
    records = load_records(
        data.dataset_name,
        data.train_split if is_parted else split,
        labels=data.labels,
        max_records=None if is_parted or is_drawn else max_records,
        **reading_of(data),
        size=(data.height, data.width) if data.dataset_name == SCENES else None,
    )
    if is_parted:
        held_out = _held_out(records["image_id"][:], data)
        kept = [index for index in range(len(records)) if (index in held_out) == (split == HELD_OUT)]
        records = records.select(kept[: None if is_drawn else max_records])
    if is_drawn:
        order = np.random.default_rng(data.train_records_seed).permutation(len(records))
        records = records.select(sorted(order[:max_records].tolist()))
    if data.palette == "dataset":
        records = attach_labels(records, labels_of(records).with_own_palette())
    return tile_records(records, data.tiles)


def _held_out(image_ids: list[str], data: DataConfig) -> set[int]:
    if not data.held_out_names:
        return set(draw_held_out(image_ids, data.held_out, data.held_out_seed))
    found = set(find_held_out(image_ids, data.held_out_names))
    if len(found) in (0, len(image_ids)):
        raise ValueError(
            f"data.held_out_names {data.held_out_names} fit {'all' if found else 'none'} of the {len(image_ids)} ids "
            f"of {data.train_split}, such as {image_ids[0]!r}."
        )
    return found


def load_records(
    source: str | Path,
    split: str = "train",
    *,
    image_column: str | None = None,
    mask_column: str | None = None,
    labels: LabelSet | dict | str | Path | None = None,
    max_records: int | None = None,
    check: bool = True,
    zero_is_void: bool = False,
    void_ids: Sequence[int] | None = None,
    mask_suffix: str | None = None,
    size: tuple[int, int] | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    media_roots: Sequence[str | Path] | None = None,
    max_megapixels: float | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Read one split of a source as records (`data.schema.record_features`), with its labels attached.

    Pictures stay where they are and are decoded on access. Where masks must change (colors, ids with gaps, panoptic
    PNGs) or EXIF rotation would part image and mask, a converted copy is kept in the cache and used again while the
    source's files stay the same.

    Args:
        source (`str`): a folder (SPLIT/images + SPLIT/masks + classes.json; COCO panoptic or instances; ADE20K; Pascal
            VOC or CVAT; Cityscapes; `save_to_disk`; Parquet), a Hub id, or `scenes`.
        image_column, mask_column (`str`): of a `datasets` source; guessed if not given.
        labels: a label file, the name of a built-in set (`ade20k`, `coco`, `cityscapes`, `voc`) or a `LabelSet`; read
            from the source if not given.
        max_records (`int`): only the first records, in the order of their names.
        check (`bool`): look at every pixel of every record first; the result is remembered while the files stay equal.
        zero_is_void (`bool`): the masks hold ids 1..C with 0 as void (ADE20K's annotations on the Hub).
        void_ids: more ids of void in the masks.
        mask_suffix (`str`): what the names of masks have after those of their images, in folders of both.
        size (`tuple` of `int`): height and width of the built-in scenes.
        config_name, revision (`str`): of a Hub id.
        media_roots: folders that the source's files may lie in beside its own; links and names that lead elsewhere are
            refused.
        max_megapixels: of the largest picture that this process opens from now on; Pillow's 179 if not given.
        cache_dir (`str`): for converted copies; the `datasets` cache if not given.
    Raises: `ValueError` for a source that is no known layout, a split that it lacks, missing labels, and broken
        records: file and reason of the first 20, and their number; and a record whose files lie elsewhere.
    """
    if str(source) == SCENES and labels is None:
        _check_split(SCENES, split, list(SCENE_SPLITS))
        drawn: dict[str, Any] = {"size": tuple(size)} if size else {}
        return scene_records(split, num_records=max_records, **drawn)
    where = f"{source} ({split})"
    found = open_source(
        source, split, image_column, mask_column, labels, zero_is_void, config_name, revision, media_roots,
        void_ids, mask_suffix, max_megapixels,
    )  # fmt: skip
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    if max_records is not None:
        found.rows = found.rows.select(range(min(max_records, len(found.rows))))
    if len(found.rows) == 0:
        raise_problems(where, found.problems, len(found.problems))
        raise ValueError(f"{where} has no records.")
    fingerprint = _fingerprint(found)
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf")
    plan = _plan(found, where, check, folder / f"{fingerprint}.json")
    return attach_labels(_to_records(found, plan, folder, fingerprint), found.labels)


def open_source(
    source: str | Path,
    split: str = "train",
    image_column: str | None = None,
    mask_column: str | None = None,
    labels=None,
    zero_is_void: bool = False,
    config_name: str | None = None,
    revision: str | None = None,
    media_roots: Sequence[str | Path] | None = None,
    void_ids: Sequence[int] | None = None,
    mask_suffix: str | None = None,
    max_megapixels: float | None = None,
) -> Source:
    """List a split's records without reading a picture. Arguments as in `load_records`.

    Raises: `ValueError` for a record whose files lie outside the source and `media_roots`.
    """
    if max_megapixels:
        allow_megapixels(max_megapixels)
    root, label_file = Path(source), _label_file(labels)
    kind = _kind(source)
    if mask_suffix and kind != "folder":
        raise ValueError(f"{source} holds no folders of images and masks; leave data.mask_suffix (--mask_suffix) out.")
    _check_split(source, split, splits_of(source, config_name, revision), kind)
    if kind == SCENES:
        return rows_of(scene_records(split), SCENES, split, label_file)
    roots = Roots(source, media_roots)
    if kind == "coco-instances":
        return read_coco_instances(root, split, label_file, roots)
    if kind == "folder":
        found = read_folder(root, split, label_file, roots, mask_suffix)
    elif kind == "coco":
        found = read_coco(root, split, label_file, roots)
    elif kind in MASKED:
        found = MASKED[kind](root, split, label_file, roots)
    else:
        columns = (image_column, mask_column)
        found = read_dataset(str(source), split, label_file, *columns, config_name, revision, roots)
    roots.check_rows(found.rows, f"{source} ({split})")
    if zero_is_void and kind != "coco":
        found.decoder = found.decoder.with_zero_void()
    if void_ids:
        found.decoder = found.decoder.with_void(void_ids)
    return found


def splits_of(source: str | Path, config_name: str | None = None, revision: str | None = None) -> list[str]:
    """Names of the splits that a source has."""
    kind, root = _kind(source), Path(source)
    if kind == SCENES:
        return list(SCENE_SPLITS)
    listing = {
        "folder": folder_splits,
        "coco": coco_splits,
        "coco-instances": instance_splits,
        "ade20k": ade20k_splits,
        "voc": voc_splits,
        "cityscapes": cityscapes_splits,
    }
    return listing[kind](root) if kind in listing else dataset_splits(str(source), config_name, revision)


def _kind(source: str | Path) -> str:
    """Which reader a source needs, by what lies in it."""
    root = Path(source)
    if str(source) == SCENES:
        return SCENES
    if root.is_dir():
        if is_saved(root):
            return "datasets"
        if folder_splits(root):
            return "folder"
        if cityscapes_splits(root):
            return "cityscapes"
        if voc_root(root):
            return "voc"
        if ade20k_root(root):
            return "ade20k"
        if coco_splits(root):
            return "coco"
        if instance_splits(root):
            return "coco-instances"
        if is_imagefolder(root) or parquet_files(root):
            return "datasets"
        raise ValueError(
            explain_missing_splits(root)
            or _explain_tool(root)
            or _explain_images(root)
            or f"{source} is no layout that can be read. It needs SPLIT/images, SPLIT/masks and classes.json; or COCO "
            f"panoptic (panoptic_SPLIT.json, panoptic_SPLIT/, images/SPLIT/); or COCO instances "
            f"(instances_SPLIT.json, images/SPLIT/; SPLIT/_annotations.coco.json beside the images); or ADE20K "
            f"(images/training, annotations/training); or Pascal VOC and CVAT's masks (JPEGImages, SegmentationClass, "
            f"ImageSets); or Cityscapes (leftImg8bit, gtFine); or a `datasets` folder (save_to_disk, Parquet, "
            f"imagefolder with metadata). "
            f"It holds: {_listing(root)}."
        )
    if root.exists() or str(source).startswith((".", "/", "~")) or not HUB_ID.fullmatch(str(source)):
        reason = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"{source} {reason}; give the folder of a data set, a Hub id or `{SCENES}`.")
    return "datasets"


def _explain_tool(root: Path) -> str | None:
    """What to do with files of a tool that are not read; None where they are of no tool known here."""
    tool = None
    if (root / "meta.json").is_file() and any(root.glob("*/ann")):
        tool = "Supervisely's own format"
    elif any(root.glob("**/labels/*.txt")) and any(root.glob("*.y*ml")):
        tool = "YOLO's polygons in text files"
    elif any(_is_labelme(path) for path in itertools.islice(root.glob("**/*.json"), 5)):
        tool = "labelme's JSON files"
    if tool is None:
        return None
    return f"{root} holds {tool}, which are not read; let the tool export it as COCO, which keeps every polygon."


def _explain_images(root: Path) -> str | None:
    """What images without masks are good for; None where there are none, or folders that may hold masks."""
    images, _ = list_images(root)
    if not images or any((root / name).is_dir() for name in ("masks", "annotations")):
        return None
    return (
        f"{root} holds {len(images)} images and no masks. Beside a labelled data set they are its unlabelled images: "
        f"data.unlabelled={root}."
    )


def _is_labelme(path: Path) -> bool:
    head = path.read_text(errors="replace") if path.stat().st_size < 1_000_000 else ""
    return '"shapes"' in head and '"imagePath"' in head


def _listing(root: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"


def _check_split(source, split: str, splits: list[str], kind: str = "") -> None:
    coco = split.removesuffix(COCO_YEAR)
    aliases = {"ade20k": ADE20K_SPLITS.get(split), "coco": coco, "coco-instances": ALIASES.get(split, coco)}
    if split not in splits and aliases.get(kind) not in splits:
        hint = ""
        if len(splits) == 1 and kind != SCENES:
            hint = (
                f" To score on a part of {splits[0]} that is set apart: data.train_split={splits[0]} "
                f"data.held_out=0.2 data.test_splits=[{HELD_OUT}]."
            )
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(splits) or 'none'}.{hint}")


def _label_file(labels) -> LabelFile | None:
    if labels is None:
        return None
    if isinstance(labels, LabelSet):
        return label_file_of(labels)
    return read_label_file(labels)


def _fingerprint(found: Source) -> str:
    """Of the rows, the files behind them (size and time of change) and the way they are decoded."""
    stamps = []
    for name in ("image", "segmentation_map"):
        for path, has_bytes in picture_files(found.rows, name):
            if not has_bytes and path and os.path.exists(path):
                status = os.stat(path)
                stamps.append((path, status.st_size, status.st_mtime_ns))
    decoder = found.decoder
    colors = sorted((list(color), label) for color, label in decoder.colors.items())
    way = (FORMAT, decoder.num_labels, sorted(decoder.ids.items()), colors, decoder.panoptic)
    return fingerprint_of([found.origin, found.rows["image_id"][:], found.rows["caption"][:], stamps, way])


def _plan(found: Source, where: str, check: bool, stamp: Path) -> dict:
    """What has to be converted, as `{"maps": bool, "exif": [row, ...]}`; kept in `stamp` once all was checked.

    `uncertain` names the images that are read as EXIF says although their masks fit either way.
    """
    if stamp.is_file() and not (check and found.problems):
        plan = json.loads(stamp.read_text())
        _warn_of_exif(where, plan["uncertain"])
        return plan
    inspections = inspect_rows(found, pixels=check)
    if check:
        broken = found.problems + [entry.problem for entry in inspections if entry.problem]
        raise_problems(where, broken, len(inspections) + len(found.problems))
        missing = explain_missing_label(found, inspections) or explain_no_label(inspections)
        if missing:
            raise ValueError(f"{where}: {missing}.")
    plan = {
        "maps": any(entry.converts_map for entry in inspections),
        "exif": [index for index, entry in enumerate(inspections) if entry.drops_exif],
        "uncertain": [entry.image_id for entry in inspections if entry.uncertain_exif],
    }
    _warn_of_exif(where, plan["uncertain"])
    if check:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_json(stamp, plan)
    return plan


def _warn_of_exif(where: str, uncertain: list[str]) -> None:
    if uncertain:
        warnings.warn(
            f"{where}: {len(uncertain)} images are rotated by EXIF and fit their masks either way, first "
            f"{uncertain[0]}; they are read rotated, as viewers show them.",
            stacklevel=3,
        )


def _to_records(found: Source, plan: dict, folder: Path, fingerprint: str) -> Dataset:
    rows, features = found.rows, _features(found)
    if not plan["maps"] and not plan["exif"]:
        rows = rows.select_columns(list(features))
        for name, feature in features.items():
            if rows.features[name] != feature:
                rows = rows.cast_column(name, feature)  # pictures only change how they are decoded
        rows._fingerprint = fingerprint
        return rows
    folder.mkdir(parents=True, exist_ok=True)
    exif = set(plan["exif"])

    def convert(row: dict, index: int) -> dict:
        current = row["segmentation_map"]
        try:
            record = {name: row[name] for name in features if name in row}
            if plan["maps"]:
                with open_image(current) as mask:
                    upright = turn_upright(mask)
                    labels = found.decoder.decode(upright, row.get("segments_info"))
                    if found.decoder.panoptic:
                        record["segments_info"] = found.decoder.read_segments(upright, row["segments_info"])
                        whole = upright is mask
                        record["panoptic_map"] = row["segmentation_map"] if whole else encode_image(upright)
                record["segmentation_map"] = encode_map(labels, found.labels.num_labels, row["image_id"])
            if index in exif:
                current = row["image"]
                record["image"] = drop_exif(current)
        except UNREADABLE as error:
            raise ValueError(f"{name_of(current, row)}: {explain(error, current)}") from error
        return record

    return rows.map(
        convert,
        with_indices=True,
        features=features,
        remove_columns=[name for name in rows.column_names if name not in features],
        cache_file_name=str(folder / f"{fingerprint}.arrow"),
        load_from_cache_file=True,
        writer_batch_size=100,
        new_fingerprint=fingerprint,
        desc="Converting records",
    )


def _features(found: Source) -> Features:
    rows = found.rows
    panoptic = found.decoder.panoptic or "panoptic_map" in rows.column_names
    features = record_features(synthetic="kind" in rows.column_names, panoptic=panoptic)
    if "scores" in features and "scores" in rows.column_names:
        features["scores"] = rows.features["scores"]
    return Features(
        {
            name: feature
            for name, feature in features.items()
            if name in rows.column_names or isinstance(feature, Image)
        }
    )
