"""What can be known to fail is found before the first costly stage."""

import contextlib
import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from seggen_hf.pipelines import ColormapCodec

from ..arms import adapts_base, check_arms, list_folders, reads_unlabelled, used_generators
from ..config import SCENES, Recipe, load_recipe
from ..config.presets import MEMORY
from ..data.schema import labels_of, read_map
from ..data.sources.map_decoder import read_label_file
from ..data.sources.unlabelled import check_images
from ..labels import LabelSet, differing_labels
from ..miniature.architecture import resolve_base
from ..plan.gpus import CPU_SPEED, Gpu, efficiency
from ..plan.run_plan import RunPlan, plan_recipe
from ..segmenter.build import find_config
from ..segmenter.eomt import check_seen_size, side_of_crops
from ..segmenter.sizes import SEGMENTER_NAMES, SHIPPED
from ..storage.content_digests import records_digest
from ..storage.files import write_json
from ..trainers.families.choice import read_family
from ..trainers.families.flux2 import Flux2
from ..trainers.optimizer import check_optimizer
from ..trainers.trackers import list_trackers
from .folder import RunFolder
from .records import data_digest, image_digests, load_test_records, load_train_records, load_unlabelled_images
from .scores import recipe_hash
from .stages import Stage
from .work import read_planned

LONG = 2_000  # steps of all trainings: a shorter run is over before its plan, which takes seconds, is of use


def check_run(recipe: Recipe, out: str | os.PathLike) -> dict:
    """Check that every stage of `recipe` has what it needs; log/checked.json remembers what was looked through.

    Returns: counts for a line of summary: `records`, `labels` and `tests` ({split: records}); `warnings`.

    Raises: `ValueError`, one line: arms that the data cannot serve, a source that cannot be read, broken records,
        labels that differ between splits, test images that are trained on, colors that collide, absent models,
        generators of another size than the data.
    """
    check_arms(recipe)
    _check_trainings(recipe)
    _check_models(recipe)
    data = recipe.data
    if recipe.synthesis.density_share and ("density" not in recipe.caption.attributes or data.task == "semantic"):
        raise ValueError(
            "synthesis.density_share asks for other numbers of things: it needs caption.attributes with `density` and "
            f"segments to count (data.task is {data.task})."
        )
    if data.train_split in data.test_splits:
        raise ValueError(
            f"data.test_splits names {data.train_split!r}, which is trained on; scores would say nothing."
        )
    records = load_train_records(recipe)
    labels = labels_of(records)
    tests = {}
    for split in data.test_splits:
        test_records = load_test_records(recipe, split)
        theirs = labels_of(test_records)
        if differing := differing_labels(theirs, labels):
            raise ValueError(
                f"{data.dataset_name}: the labels of {data.train_split!r} and {split!r} differ, in {differing}. Give "
                "both splits the same labels with data.labels."
            )
        tests[split] = test_records
    ColormapCodec(labels)  # refuses two labels of one color, with their names
    warnings = [warning] if (warning := recipe.segmenter.batch_warning(1)) else []
    warnings += _look_through(recipe, records, labels, tests, RunFolder(out).checked)
    counts = {split: len(test_records) for split, test_records in tests.items()}
    return {"records": len(records), "labels": labels.num_labels, "tests": counts, "warnings": warnings}


def plan_run(recipe: Recipe, processes: int = 1, num_records: int | None = None) -> tuple[RunPlan, LabelSet]:
    """What the run takes, and its labels; the data is read only where the recipe names no labels.

    Args:
        processes: of each training and synthesis, a card each.
        num_records: of the real training data, where it is not at hand; read, if it is read, and known for ADE20K and
            COCO.
    """
    data, num_tests = recipe.data, 0
    if data.labels and not Path(data.dataset_name).is_dir():
        labels = read_label_file(data.labels).labels
        num_records = num_records or data.max_train_records
    else:
        records = load_train_records(recipe)
        labels, num_records = labels_of(records), num_records or len(records)
        num_tests = sum(len(load_test_records(recipe, split)) for split in data.test_splits)
    return plan_recipe(recipe, labels, num_records, processes, num_tests=num_tests), labels


def plan_work(recipe: Recipe, run: RunFolder, stages: list[Stage]) -> None:
    """Keep how long each kind of stage takes beside the others, by the plan, in log/work.json: once, and only if the
    trainings among `stages`, which are to be made, have `LONG` steps or more."""
    sections = {"adapt": recipe.adapt, "text2mask": recipe.text2mask, "mask2img": recipe.mask2img}
    sections["segmenter"] = recipe.segmenter
    steps = sum(sections[stage.kind].max_train_steps for stage in stages if stage.kind in sections)
    digest = recipe_hash(recipe)
    if steps < LONG or len(stages) < 2 or read_planned(run).get("recipe_hash") == digest:
        return
    planned: dict[str, float] = defaultdict(float)
    with contextlib.suppress(ValueError, OSError):  # nothing but this estimate depends on it
        for stage in plan_run(recipe)[0].stages:
            speed = efficiency(stage) if torch.cuda.is_available() else CPU_SPEED[stage.kind]
            planned[stage.name.split(" ")[0]] += stage.samples * stage.flops / speed
    write_json(run.work, {"recipe_hash": digest, "work": planned})


def preset_that_fits(
    recipe: str | Path, settings: Sequence[str], planned: RunPlan, labels: LabelSet, card: Gpu
) -> str | None:
    """The largest preset with which the run fits the card, where it does not fit as it is; None if there is none.

    Args:
        recipe, settings: as for `load_recipe`.
        planned, labels: of the run as it is.
    """
    if planned.fits(card):
        return None
    names = [name for name, size in MEMORY.items() if size <= card.memory * 1.1]
    for name in sorted(names, key=lambda name: MEMORY[name], reverse=True):
        changed = load_recipe(recipe, [*settings, f"preset={name}"])
        # What fits already fits with smaller batches too: planning all of it again would take as long again.
        kinds = {stage.kind for stage in planned.stages if stage.peak > card.room}
        if changed.synthesis.batch_size > load_recipe(recipe, settings).synthesis.batch_size:
            kinds.add("synthesize")
        if plan_recipe(changed, labels, planned.num_records, planned.processes, kinds=kinds).fits(card):
            return name
    return None


def _look_through(
    recipe: Recipe, records: Dataset, labels: LabelSet, tests: dict[str, Dataset], checked: Path
) -> list[str]:
    """Warnings: labels that no training map shows, unlabelled images that are left out. It takes a look at every file:
    once, while they stay equal.

    Args:
        checked: the file that remembers it.
    Raises: `ValueError` if a test image is also trained on, byte for byte.
    """
    looked_at = {split: data_digest(recipe, r) for split, r in {recipe.data.train_split: records, **tests}.items()}
    images, shared = load_unlabelled_images(recipe) if reads_unlabelled(recipe) else (None, [])
    if images is not None:
        looked_at["unlabelled"] = records_digest(images, ["image"])
    looked_at = {"looked_at": looked_at, "labels": labels.to_dict()}
    known = json.loads(checked.read_text()) if checked.is_file() else {}
    if recipe.data.dataset_name != SCENES and known.get("of") == looked_at and "warnings" in known:
        return known["warnings"]
    data = recipe.data
    whole = dataclasses.replace(recipe, data=dataclasses.replace(data, tiles=1))  # as test images are
    learnt = load_train_records(whole)
    trained = dict(zip(image_digests(learnt), learnt["image_id"][:], strict=True))
    if images is not None:
        check_images(images.cast_column("image", Image(decode=False)), f"data.unlabelled {data.unlabelled}")
    for split, test_records in tests.items():
        for digest, image_id in zip(image_digests(test_records), test_records["image_id"][:], strict=True):
            if digest and digest in trained:
                raise ValueError(
                    f"{data.dataset_name}: {image_id} of the test split {split!r} is the same image as "
                    f"{trained[digest]} of {data.train_split!r}; scores would say nothing. `seggen doctor` lists them "
                    "all."
                )
    seen: set[int] = set()
    with ThreadPoolExecutor(max_workers=4) as pool:
        maps = records.select_columns("segmentation_map").cast_column("segmentation_map", Image(decode=False))
        # By number: the pool takes all that it is to work on at once, and not every picture's bytes fit in memory.
        for ids in pool.map(lambda i: np.unique(read_map(maps[i]["segmentation_map"])).tolist(), range(len(maps))):
            seen.update(ids)
    warnings = []
    if absent := [labels.id2label[i] for i in range(labels.num_labels) if i not in seen]:
        warnings.append(f"{data.train_split} never shows {', '.join(absent)}: no model can learn what it never sees")
    if shared:
        told = "1 image is" if len(shared) == 1 else f"{len(shared)} images are"
        warnings.append(f"{told} left out of data.unlabelled, being in a test split too, first {shared[0]}")
    write_json(checked, {"of": looked_at, "warnings": warnings})
    return warnings


def _check_trainings(recipe: Recipe) -> None:
    trained = list_folders(recipe)
    for name in ("adapt", "text2mask", "mask2img", "segmenter"):
        section = getattr(recipe, name)
        if section.dry_run:
            raise ValueError(f"{name}.dry_run is set, and a run trains. `seggen plan RECIPE` plans it instead.")
        is_run = name == "segmenter" or name in trained or (name == "adapt" and adapts_base(recipe))
        if is_run:
            check_optimizer(section)
            list_trackers(section.report_to)
        if name == "segmenter" or not is_run:
            continue
        size, wanted = (section.height, section.width), (recipe.data.height, recipe.data.width)
        if size != wanted:
            raise ValueError(
                f"{name} would be trained at {size[0]} x {size[1]}, but data.height and data.width, at which it "
                f"draws, are {wanted[0]} x {wanted[1]}. Drop {name}.height and {name}.width."
            )

    adapt, mask2img = recipe.adapt.image_gamma, recipe.mask2img.image_gamma
    if adapts_base(recipe) and "mask2img" in trained and adapt != mask2img:
        raise ValueError(
            f"adapt.image_gamma is {adapt} and mask2img.image_gamma {mask2img}: Mask2Img starts from a base that has "
            f"learnt images of another brightness. Drop adapt.image_gamma."
        )


def _check_models(recipe: Recipe) -> None:
    """The models that will be loaded: a folder with the right file, or a Hub id that has it."""
    for name in used_generators(recipe):
        if given := getattr(recipe.synthesis, f"{name}_model"):
            _check_file(f"synthesis.{name}_model", given, "model_index.json", None)
            continue
        section = getattr(recipe, name)
        try:
            base = resolve_base(section.base_model)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
        _check_file(f"{name}.base_model", base, "model_index.json", section.revision)
        family = read_family(section)
        family.check_config(section)
        if name == "mask2img" and family is Flux2 and recipe.synthesis.conditioning_scale != 1:
            raise ValueError(
                f"synthesis.conditioning_scale is {recipe.synthesis.conditioning_scale}; {section.base_model} is a "
                "FLUX.2, which is shown the map as a picture and has no ControlNet: set it to 1."
            )
        if controlnet := getattr(section, "controlnet_model", None):
            _check_file(f"{name}.controlnet_model", controlnet, "config.json", None)
        if segmenter := getattr(section, "validation_segmenter", None):
            _check_segmenter(f"{name}.validation_segmenter", segmenter, None)
    _check_segmenter("segmenter.model", recipe.segmenter.model, recipe.segmenter.model_revision)
    if recipe.segmenter.backbone_model:
        _check_file("segmenter.backbone_model", recipe.segmenter.backbone_model, "config.json", None)
    segmenter = recipe.segmenter
    if segmenter.model in SHIPPED and recipe.data.dataset_name == SCENES:
        raise ValueError(
            f"segmenter.model {segmenter.model} has learnt the built-in scenes from more maps than a recipe may see; "
            "name `miniature`, which has random weights."
        )
    config, _ = find_config(segmenter.model, segmenter.model_revision, segmenter.backbone_model)
    if side := side_of_crops(config, (segmenter.crop_height, segmenter.crop_width)):
        check_seen_size(side, segmenter.inference_size or side, recipe.data.task)
    if recipe.caption.captioner != "template":
        _check_file("caption.captioner", recipe.caption.captioner, "config.json", None)
    if recipe.synthesis.style_writer:
        _check_file("synthesis.style_writer", recipe.synthesis.style_writer, "config.json", None)


def _check_segmenter(setting: str, model: str, revision: str | None) -> None:
    if model.endswith(".json"):
        if not Path(model).is_file():
            raise ValueError(f"{setting} is {model}, which does not exist.")
    elif model not in SEGMENTER_NAMES:
        _check_file(setting, model, "config.json", revision)


def _check_file(setting: str, name_or_path: str, file: str, revision: str | None) -> None:
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / file).is_file():
            raise ValueError(f"{setting} is {name_or_path}, a folder without {file}; it is no model of that kind.")
        return
    try:
        hf_hub_download(name_or_path, file, revision=revision)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{setting} is {name_or_path!r}, which is neither a folder nor a Hub id that can be read now: {reason}"
        ) from error
