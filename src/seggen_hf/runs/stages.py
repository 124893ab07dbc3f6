"""Each stage once: settings in, folder out, done or not; the whole loop is a list of them.

caption -> text2mask, mask2img -> synthesize -> segmenter (every arm and seed) -> evaluate -> report

The stage filter comes after the segmenter of real records, where an arm reads it.
"""

import dataclasses
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
from accelerate.state import AcceleratorState

from ..config import HOW_ONLY, DataConfig, Recipe, TrainingConfig
from ..data.captions import add_captions
from ..data.schema import labels_of
from ..data.sources.load import load_split
from ..digests import digest_of, records_digest
from ..files import write_json
from ..pipelines import Mask2ImgPipeline, Text2MaskPipeline
from ..segmenter.build import load_segmenter
from ..synthesis import filter_records, load_synthetic, synthesize
from ..synthesis.agreement_filter import read_summary
from ..synthesis.generators import open_pipeline
from ..trainers.generator import build_panoptic_codec
from ..trainers.loop import Run, train
from ..trainers.mask2img import Mask2ImgTask
from ..trainers.segmenter import SegmenterTask
from ..trainers.text2mask import Text2MaskTask
from .arms import ARMS, SYNTHESIZED, Arm, arm_config, render_records, save_dataset
from .scores import Segmenter
from .stage_marker import DONE, fingerprint

STAGES = ("caption", "text2mask", "mask2img", "synthesize", "filter", "segmenter", "evaluate", "report")

# Of what each kind of stage makes; raised when a new version makes something else of the same settings.
FORMATS = {"caption": 1, "text2mask": 1, "mask2img": 1, "synthesize": 1, "filter": 1, "segmenter": 1}
_SOURCE = (
    "dataset_name", "dataset_config_name", "dataset_revision", "task", "image_column", "mask_column", "labels",
    "zero_is_void", "tiles",
)  # fmt: skip


@dataclass(eq=False)
class Stage:
    """One folder of a run: what it is made of, and how.

    `kind` is one of STAGES (a training of one arm and seed is a stage of kind `segmenter`); `inputs` are the stages
    whose folders it reads, `after` those that must be finished though none of their settings decides what it makes;
    `make` fills the folder and returns facts for its marker.
    """

    name: str
    kind: str
    folder: Path
    settings: dict
    make: Callable[[Path], dict]
    inputs: list["Stage"] = field(default_factory=list)
    after: list["Stage"] = field(default_factory=list)

    def __post_init__(self):
        self.settings = self.settings | {f"{self.kind}.format": FORMATS[self.kind]}

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.settings, {stage.name: stage.fingerprint for stage in self.inputs})

    @property
    def is_done(self) -> bool:
        return (self.folder / DONE).is_file()


def list_stages(recipe: Recipe, out: str | Path) -> list[Stage]:
    """The stages of `recipe` that leave a folder each, in order; evaluation and report only gather from them."""
    out = Path(out)
    data = recipe.data
    source = _settings("data", {name: getattr(data, name) for name in (*_SOURCE, "train_split", "max_train_records")})

    def make_captions(folder: Path) -> dict:
        records = load_train_records(recipe)
        labels = labels_of(records)
        progress = folder / "progress.jsonl"
        save_dataset(add_captions(records, labels, recipe.caption, progress_file=progress), folder)
        progress.unlink(missing_ok=True)
        # Told now: later, and elsewhere, nobody can see whether the name was that of a folder or of the Hub.
        is_folder = Path(data.dataset_name).exists()
        source = "scenes" if data.dataset_name == "scenes" else "folder" if is_folder else "Hub"
        return {"records": len(records), "labels": labels.num_labels, "source": source}

    def make_text2mask(folder: Path) -> dict:
        config = dataclasses.replace(recipe.text2mask, output_dir=str(folder))
        return _train_generator(Text2MaskTask, config, captions.folder, data)

    def make_mask2img(folder: Path) -> dict:
        config = dataclasses.replace(recipe.mask2img, output_dir=str(folder))
        return _train_generator(Mask2ImgTask, config, captions.folder, data)

    def make_synthetic(folder: Path) -> dict:
        config = dataclasses.replace(recipe.synthesis, output_dir=str(folder))
        made = synthesize(
            datasets.load_from_disk(captions.folder),
            folder,
            config,
            mask2img=open_pipeline(Mask2ImgPipeline, mask2img_model, config),
            text2mask=open_pipeline(Text2MaskPipeline, text2mask_model, config) if uses_masksyn else None,
            height=data.height,
            width=data.width,
            provenance={"text2mask": text2mask_model, "mask2img": mask2img_model, "data": data.dataset_name},
        )
        kinds = made["kind"][:]
        return {"records": len(made)} | {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def make_filtered(folder: Path) -> dict:
        kept = filter_run(recipe, out, folder)
        return {"records": len(kept), "mean_alignment": round(read_summary(folder)["mean_alignment"], 4)}

    def make_renderer(folder: Path) -> dict:
        render_records(datasets.load_from_disk(captions.folder), recipe, folder)
        return {"records": len(datasets.load_from_disk(folder))}

    at_size = _settings("data", {"height": data.height, "width": data.width})
    real = source | (at_size if data.dataset_name == "scenes" else {})
    settings = real | _settings("caption", vars(recipe.caption))
    captions = Stage("captions", "caption", out / "captions", settings, make_captions)

    # A generator that the recipe names is used as it is; one is trained otherwise.
    text2mask_model, mask2img_model = recipe.synthesis.text2mask_model, recipe.synthesis.mask2img_model
    uses_masksyn = recipe.synthesis.masksyn_variants > 0
    generators = []
    coded = {"panoptic_coding": data.panoptic_coding, "num_shades": data.num_shades}
    coded = _settings("data", coded if data.task != "semantic" else {})
    if uses_masksyn and not text2mask_model:
        settings = _settings("text2mask", vars(recipe.text2mask)) | coded
        generators.append(Stage("text2mask", "text2mask", out / "text2mask", settings, make_text2mask, [captions]))
        text2mask_model = str(out / "text2mask")
    if not mask2img_model:
        settings = _settings("mask2img", vars(recipe.mask2img)) | coded
        generators.append(Stage("mask2img", "mask2img", out / "mask2img", settings, make_mask2img, [captions]))
        mask2img_model = str(out / "mask2img")
    settings = _settings("synthesis", vars(recipe.synthesis)) | at_size
    settings |= {"synthesis.decoding": 2} if data.task != "semantic" else {}  # of segments
    inputs = [captions, *generators]
    synthetic = Stage("synthetic", "synthesize", out / "synthetic", settings, make_synthetic, inputs)
    copied = ("imgsyn_variants", "masksyn_variants", "caption_styles", "caption_style_share", "seed")
    settings = _settings("synthesis", {name: getattr(recipe.synthesis, name) for name in copied}) | at_size
    renderer = Stage("renderer", "synthesize", out / "renderer", settings, make_renderer, [captions])

    arms = [ARMS[name] for name in recipe.evaluation.arms]
    made_by = {"synthesize": synthetic, "renderer": renderer}
    read = {arm.reads for arm in arms}
    stages = [captions]
    stages += [*generators, synthetic] if read & SYNTHESIZED else []
    stages += [renderer] if "renderer" in read else []
    for arm in sorted(arms, key=lambda arm: arm.reads == "filter"):  # after the segmenter that filters
        if arm.reads == "filter":
            judge = f"segmenter-real/seed-{recipe.evaluation.seeds[0]}"
            inputs = [synthetic, *(stage for stage in stages if stage.name == judge)]
            settings = _settings("filter", vars(recipe.filter))
            made_by["filter"] = Stage("filtered", "filter", out / "filtered", settings, make_filtered, inputs)
            stages.append(made_by["filter"])
        for seed in recipe.evaluation.seeds:
            stages.append(_segmenter_stage(recipe, out, arm, seed, captions, made_by.get(arm.reads), real))
    return stages


def filter_run(recipe: Recipe, out: str | Path, folder: str | Path) -> datasets.Dataset:
    """The run's synthetic records without what its first segmenter of real records disagrees with, in `folder`."""
    out, captions = Path(out), Path(out) / "captions"
    judge = out / "segmenter-real" / f"seed-{recipe.evaluation.seeds[0]}"
    for needed, kind in ((captions, "caption"), (judge, "segmenter"), (out / "synthetic", "synthesize")):
        if not (needed / DONE).is_file():
            raise ValueError(f"{needed} is not finished; run the stage {kind} first.")
    records = datasets.load_from_disk(captions)
    model, processor = load_segmenter(judge, labels_of(records))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return filter_records(out / "synthetic", folder, model, processor, records, recipe.filter, recipe.data.task)


def _segmenter_stage(
    recipe: Recipe, out: Path, arm: Arm, seed: int, captions: Stage, synthetic: Stage | None, real: dict
) -> Stage:
    data, folder = recipe.data, out / f"segmenter-{arm.name}" / f"seed-{seed}"
    config = arm_config(arm, recipe.segmenter, seed, folder, synthetic.folder if synthetic else None)

    def make(folder: Path) -> dict:
        made = None
        if arm.reads in SYNTHESIZED:
            made = load_synthetic(synthetic.folder, kinds=arm.kinds)
        elif arm.reads == "renderer":
            made = datasets.load_from_disk(synthetic.folder)
        facts = _train(
            SegmenterTask, config, captions.folder, synthetic_records=made, task=data.task, tiles=data.tiles
        )
        return facts | {"synthetic_records": 0 if made is None else len(made)}

    # The place of synthetic records is no setting; what is in it comes as input.
    settings = _settings("segmenter", vars(config) | {"synthetic_dataset": None})
    settings |= {"segmenter.tiles": data.tiles} if data.tiles > 1 else {}  # of its inference
    name = f"segmenter-{arm.name}/seed-{seed}"
    if synthetic is None:  # it reads images and maps from the captions' folder: no setting of a caption decides them
        return Stage(name, "segmenter", folder, real | settings, make, after=[captions])
    return Stage(name, "segmenter", folder, settings, make, [captions, synthetic])


def segmenter_of(stage: Stage) -> Segmenter:
    """The finished training of a stage of kind `segmenter`."""
    arm, seed = stage.name.removeprefix("segmenter-").split("/seed-")
    return Segmenter(arm, int(seed), stage.folder, stage.fingerprint)


def _settings(section: str, values: dict) -> dict:
    """`section.name: value` of the settings that decide what a stage makes."""
    return {f"{section}.{name}": value for name, value in values.items() if name not in HOW_ONLY}


def _train_generator(task_class, config: TrainingConfig, captions: Path, data: DataConfig) -> dict:
    labels = labels_of(datasets.load_from_disk(captions))
    return _train(task_class, config, captions, panoptic_codec=build_panoptic_codec(data, labels))


def _train(task_class, config: TrainingConfig, captions: Path, **more) -> dict:
    # Accelerate keeps the precision of the process's first training; each stage has its own.
    AcceleratorState._reset_state()
    records = datasets.load_from_disk(captions)
    task = task_class.from_config(config, records, labels_of(records), **more)
    run: Run = train(task, config)
    trained = sum(p.numel() for p in task.trainable.parameters() if p.requires_grad)
    del task
    gc.collect()  # a prepared model refers to itself: it would stay beside the next stage's
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"seconds": run.seconds, "steps": run.steps, "records": len(records), "trained_parameters": trained}


def load_train_records(recipe: Recipe) -> datasets.Dataset:
    """The labelled records that the run may learn from."""
    return load_split(recipe.data, recipe.data.train_split, recipe.data.max_train_records)


def load_test_records(recipe: Recipe, split: str) -> datasets.Dataset:
    """The records of one test split: images are whole, also where segmenters learn from tiles."""
    return load_split(dataclasses.replace(recipe.data, tiles=1), split, recipe.data.max_test_records)


def data_digest(recipe: Recipe, records: datasets.Dataset) -> str:
    """Of what `records` hold: ids, labels, captions, and parts of every picture's bytes. Scenes follow from the code.

    Copies of a data set have the same digest whatever their times of change. Those (`_fingerprint`) only tell whether
    the digest of an earlier call still holds: a data set is not read anew each time.
    """
    if recipe.data.dataset_name == "scenes":
        return "scenes"
    known = Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf" / f"{records._fingerprint}.digest.json"
    if not known.is_file():
        columns = ("image_id", "image", "segmentation_map", "panoptic_map", "segments_info", "caption")
        contents = records_digest(records, [name for name in columns if name in records.column_names])
        known.parent.mkdir(parents=True, exist_ok=True)
        write_json(known, digest_of({"labels": labels_of(records).to_dict(), "records": contents}))
    return json.loads(known.read_text())
