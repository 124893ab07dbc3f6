"""What fills the folder of each stage: models are trained, records captioned, made and filtered."""

import dataclasses
import gc
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate.state import AcceleratorState

from seggen_hf.pipelines import Mask2ImgPipeline, Text2MaskPipeline

from ..arms import ARMS, DRAWN, adapts_base, trained_generators
from ..config import SCENES, Recipe, SynthesisConfig, TrainingConfig
from ..data.captions import write_captions
from ..data.scenes.render import render_records
from ..data.schema import attach_labels, labels_of, load_saved
from ..data.tiles import tile_records
from ..synthesis import filter_records, load_synthetic, synthesize
from ..synthesis.agreement_filter import read_summary
from ..synthesis.generators import open_pipeline
from ..synthesis.pseudo_labels import pseudo_label
from ..trainers.adapt import AdaptTask
from ..trainers.checkpoints import CHECKPOINTS
from ..trainers.generator import build_panoptic_codec
from ..trainers.latents import CACHE
from ..trainers.loop import Run, train
from ..trainers.mask2img import Mask2ImgTask
from ..trainers.segmenter import SegmenterTask
from ..trainers.text2mask import Text2MaskTask
from .folder import RunFolder
from .records import load_train_records, load_unlabelled_images
from .scores import open_segmenter
from .stage_marker import DONE, STARTED, finished_marker, mark_stage
from .stages import Stage, repaint_config, segmenter_config, segmenter_of
from .status import read_status


def begins(stage: Stage, run: RunFolder) -> str:
    """A line that says so, and what is left of the run."""
    number, total = stage.place
    state = "goes on" if (stage.folder / STARTED).is_file() else "begins"
    left = read_status(run).tell_left()
    return f"stage {number} of {total}, {stage.name}: {state}" + (f"; {left}" if left else "")


def make_stage(stage: Stage, recipe: Recipe, run: RunFolder, command: str | None, data: dict[str, str] | None) -> str:
    """Make what is missing in the folder of `stage`, and mark it as done; a line that says what it took.

    Args:
        command: what the user typed, for the marker.
        data: `source_digests`, read where the stage reads the sources.
    """
    read = None if stage.inputs or data is None else data[stage.source]
    with mark_stage(stage.folder, stage.name, stage.settings, stage.fingerprint, command, read) as facts:
        facts |= _MAKERS.get(stage.name, _make_segmenter)(stage, recipe, run)
    if not recipe.evaluation.keep_checkpoints:
        for name in (CHECKPOINTS, CACHE):
            shutil.rmtree(stage.folder / name, ignore_errors=True)
    marker = finished_marker(stage.folder)
    return f"{stage.name}: done in {marker['seconds']:.0f} s, peak memory {marker['peak_memory_gb']:.1f} GB"


def filter_run(recipe: Recipe, out: str | os.PathLike, folder: str | os.PathLike) -> datasets.Dataset:
    """The run's synthetic records without what its first segmenter of real records disagrees with, in `folder`."""
    run = RunFolder(out)
    judge = run.segmenter("real", recipe.evaluation.seeds[0])
    for needed, kind in ((run.captions, "caption"), (judge, "segmenter"), (run.synthetic, "synthesize")):
        if not (needed / DONE).is_file():
            raise ValueError(f"{needed} is not finished; run the stage {kind} first.")
    records = load_saved(run.captions)
    model, processor = open_segmenter(judge, labels_of(records))
    return filter_records(run.synthetic, Path(folder), model, processor, records, recipe.filter, recipe.data.task)


def _make_captions(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    records = load_train_records(recipe)
    write_captions(records, recipe.caption, stage.folder)
    # Told now: later, and elsewhere, nobody can see whether the name was that of a folder or of the Hub.
    name = recipe.data.dataset_name
    source = SCENES if name == SCENES else "folder" if Path(name).exists() else "Hub"
    return {"records": len(records), "labels": labels_of(records).num_labels, "source": source}


def _make_unlabelled(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    images = attach_labels(load_unlabelled_images(recipe)[0], labels_of(load_train_records(recipe)))
    made = write_captions(images, recipe.caption, stage.folder)
    return {"images": len(made), "captions": sum(bool(caption) for caption in made["caption"][:])}


def _make_adapted(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    config = dataclasses.replace(recipe.adapt, output_dir=str(stage.folder))
    own, more = load_saved(run.captions), load_saved(run.unlabelled)
    more = tile_records(more, recipe.data.tiles)  # as large in the picture as the generators will see it
    columns = ["image", "caption", "image_id"]
    images = datasets.concatenate_datasets([own.select_columns(columns), more.select_columns(columns)])
    return train_task(AdaptTask, config, attach_labels(images, labels_of(own)))


def _make_generator(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    task_class = {"text2mask": Text2MaskTask, "mask2img": Mask2ImgTask}[stage.name]
    config = dataclasses.replace(getattr(recipe, stage.name), output_dir=str(stage.folder))
    if adapts_base(recipe):
        config = dataclasses.replace(config, base_model=str(run.adapted), revision=None)
    records = load_saved(run.captions)
    codec = build_panoptic_codec(recipe.data, labels_of(records))
    return train_task(task_class, config, records, panoptic_codec=codec)


def _make_synthetic(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    config = dataclasses.replace(recipe.synthesis, output_dir=str(stage.folder))
    return _synthesize(load_saved(run.captions), config, stage, recipe, run)


def _make_repainted(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    return _synthesize(load_saved(run.pseudo), repaint_config(recipe, run), stage, recipe, run)


def _synthesize(
    records: datasets.Dataset, config: SynthesisConfig, stage: Stage, recipe: Recipe, run: RunFolder
) -> dict:
    data = recipe.data
    models: dict[str, Any] = {"text2mask": config.text2mask_model, "mask2img": config.mask2img_model}
    models |= {name: str(run.stage(name)) for name in trained_generators(recipe)}
    uses_masksyn = config.masksyn_variants > 0
    made = synthesize(
        records,
        stage.folder,
        config,
        mask2img=open_pipeline(Mask2ImgPipeline, models["mask2img"], config),
        text2mask=open_pipeline(Text2MaskPipeline, models["text2mask"], config) if uses_masksyn else None,
        height=data.height,
        width=data.width,
        provenance=models | {"data": data.dataset_name},
    )
    kinds = made["kind"][:]
    return {"records": len(made)} | {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _make_renderer(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    render_records(load_saved(run.captions), recipe, stage.folder)
    return {"records": len(datasets.load_from_disk(stage.folder))}


def _make_filtered(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    kept = filter_run(recipe, run, stage.folder)
    return {"records": len(kept), "mean_alignment": round(read_summary(stage.folder)["mean_alignment"], 4)}


def _make_pseudo(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    images, data = load_saved(run.unlabelled), recipe.data
    labels = labels_of(images)
    model, processor = open_segmenter(run.segmenter("real", recipe.evaluation.seeds[0]), labels)
    made = pseudo_label(images, stage.folder, model, processor, labels, recipe.filter, data.task, data.tiles)
    return {"images": len(images), "records": len(made)}


def _make_segmenter(stage: Stage, recipe: Recipe, run: RunFolder) -> dict:
    trained = segmenter_of(stage)
    arm = ARMS[trained.arm]
    config = segmenter_config(recipe, run, arm, trained.seed)
    made, synthetic = None, config.synthetic_dataset
    if arm.reads in DRAWN and synthetic is not None:
        made = load_synthetic(synthetic, kinds=arm.kinds)
    elif synthetic is not None:
        made = load_saved(synthetic)
    data = recipe.data
    facts = train_task(
        SegmenterTask, config, load_saved(run.captions), synthetic_records=made, task=data.task, tiles=data.tiles
    )
    return facts | {"synthetic_records": 0 if made is None else len(made)}


# By the stage's name; every other one is the training of a segmenter.
_MAKERS = {
    "captions": _make_captions,
    "unlabelled": _make_unlabelled,
    "adapted": _make_adapted,
    "text2mask": _make_generator,
    "mask2img": _make_generator,
    "synthetic": _make_synthetic,
    "renderer": _make_renderer,
    "filtered": _make_filtered,
    "pseudo": _make_pseudo,
    "repainted": _make_repainted,
}


def train_task(task_class, config: TrainingConfig, records: datasets.Dataset, **more) -> dict:
    """Train `task_class` on `records`, which carry their labels, and let go of what it took; the facts of a marker."""
    # Accelerate keeps the precision of the process's first training; each stage has its own.
    AcceleratorState._reset_state()
    task = task_class.from_config(config, records, labels_of(records), **more)
    run: Run = train(task, config)
    trained = sum(p.numel() for p in task.trainable.parameters() if p.requires_grad)
    del task
    gc.collect()  # a prepared model refers to itself: it would stay beside the next stage's
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"seconds": run.seconds, "steps": run.steps, "records": len(records), "trained_parameters": trained}
