"""A recipe that fits a data set: what lies in it decides splits, sizes, steps and arms; every choice says why."""

import functools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from datasets import Image

from ..config import SCENES
from ..data.held_out import HELD_OUT, tell_groups
from ..data.schema import labels_of, open_image, read_image
from ..data.sources.folder import list_images
from ..data.sources.layout import splits_of
from ..data.sources.load import load_records
from ..pictures.spacing import spread

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")
UNLABELLED = ("unlabelled", "unlabeled")
OF_HUB = ("config_name", "revision")  # settings have them as dataset_config_name and dataset_revision
SURVEYED = 64  # images that are looked at
DARK = 32  # brightness, 0 to 255, below which the base sees images brightened
HELD_OUT_SHARE = 0.2
MANY, PER_TILE = 100, 25  # segments of one image that are cut into tiles, and those that a tile is to have
SDXL, FLUX2 = "stabilityai/stable-diffusion-xl-base-1.0", "black-forest-labs/FLUX.2-klein-base-4B"
BASES = {"sdxl": SDXL, "flux2": FLUX2}
FLUX2_PRESETS = ("24gb", "48gb", "80gb")  # where its text encoder and transformer, 8 GB each, lie beside each other
SEGMENTERS = {
    "semantic": "facebook/mask2former-swin-small-ade-semantic",
    "panoptic": "facebook/mask2former-swin-small-coco-panoptic",
    "instance": "facebook/mask2former-swin-small-coco-instance",
}


@dataclass(frozen=True)
class Survey:
    """What lies in a data set.

    Attributes:
        train_split, test_splits: as they are named there; no test split if it has one split alone.
        size: median (height, width) of training images; groups: patients or videos that names tell of.
        brightness: median of the means of training images, 0 to 255.
        segments: the most that one image has, 0 where they are not told; unlabelled, num_unlabelled: a folder of
            images without masks.
        reading: settings of section `data` that say how it is read.
    """

    source: str
    splits: tuple[str, ...]
    train_split: str
    test_splits: tuple[str, ...]
    num_records: int
    num_labels: int
    size: tuple[int, int]
    brightness: float
    task: str
    segments: int
    groups: int
    unlabelled: str | None
    num_unlabelled: int
    reading: dict[str, Any]


def survey(source: str | os.PathLike, task: str | None = None, reading: Mapping[str, Any] | None = None) -> Survey:
    """Look at the names of all files and at some images; no mask is read.

    Args:
        task: what the segmenter shall do; where it is not told, panoptic if the data has segments, else semantic.
        reading: arguments of `load_records` that say how it is read.
    Raises: `ValueError` for a folder that is no data set, with what it lacks.
    """
    source = os.fspath(source)
    reading = {name: value for name, value in (reading or {}).items() if value}
    splits = splits_of(source, reading.get("config_name"), reading.get("revision"))
    train = next((name for name in TRAIN if name in splits), splits[0])
    records = load_records(source, train, check=False, **reading)
    tests = [name for name in TEST if name in splits][:1]
    images = records.select_columns("image").cast_column("image", Image(decode=False))
    shapes, means = [], []
    for index in spread(len(images), SURVEYED):
        with open_image(images[index]["image"]) as image:
            shapes.append((image.height, image.width))
        means.append(float(read_image(images[index]["image"]).mean()))
    has_segments = "segments_info" in records.column_names
    segments = max(len(found) for found in records["segments_info"][:]) if has_segments else 0
    folder = next((str(Path(source) / name) for name in UNLABELLED if (Path(source) / name).is_dir()), None)
    return Survey(
        source=source,
        splits=tuple(splits),
        train_split=train,
        test_splits=tuple(tests),
        num_records=len(records),
        num_labels=labels_of(records).num_labels,
        size=(round(median(h for h, _ in shapes)), round(median(w for _, w in shapes))),
        brightness=median(means),
        task=task or ("panoptic" if has_segments else "semantic"),
        segments=segments,
        groups=tell_groups(records["image_id"][:]),
        unlabelled=folder,
        num_unlabelled=len(list_images(Path(folder))[0]) if folder else 0,
        reading={f"dataset_{name}" if name in OF_HUB else name: value for name, value in reading.items()},
    )


def write_first_recipe(found: Survey, name: str, preset: str | None, base: str | None = None) -> tuple[str, list[str]]:
    """The text of a recipe for `found`, and three lines on what was chosen and why.

    Args:
        preset: of the card; None is for a CPU and the miniature base.
        base: one of `BASES`, which need a card; SDXL if it is not given.
    Raises: `ValueError` for a base that no card of the preset holds.
    """
    if base is not None and preset is None:
        raise ValueError(f"--base {base} needs a card: give its --preset, such as 24gb. A CPU has the miniature base.")
    if base == "flux2" and preset not in FLUX2_PRESETS:
        raise ValueError(
            f"--base flux2 does not fit --preset {preset}: its text encoder and transformer take 17 GiB together. "
            f"Presets {', '.join(FLUX2_PRESETS)} hold it; sdxl fits {preset}."
        )
    base = base or ("sdxl" if preset else "miniature")
    num_train = found.num_records
    if not found.test_splits:
        num_train = round((1 - HELD_OUT_SHARE) * num_train)
    arms = ["real", "copy-paste", *(["self-training"] if found.unlabelled else []), "synthetic-copy-paste"]
    split, split_reason = _splits(found)
    more = [f"  {name}: {json.dumps(value)}" for name, value in found.reading.items()]
    more += [f"  unlabelled: {json.dumps(found.unlabelled)}"] if found.unlabelled else []
    tiles = min(8, math.ceil(math.sqrt(found.segments / PER_TILE))) if found.segments > MANY else 1
    size = _size(found.size if tiles == 1 else (1, 1), base)
    if tiles > 1:
        more.append(f"  tiles: {tiles}  # up to {found.segments} segments an image: learnt from about square parts")
    on_a_card = functools.partial(_on_a_card, base)
    trainings, steps_reason = (on_a_card if preset else _on_a_cpu)(found, num_train, size)
    lines = [
        f"# For {found.source}: {found.num_records} labelled images of about {found.size[0]} x {found.size[1]},",
        f"# {found.num_labels} labels, splits {', '.join(found.splits)}. By `seggen init`; change what you like.",
        f"name: {name}",
        *([f"preset: {preset}  # settings that fit the card; `seggen plan` checks it"] if preset else []),
        "data:",
        f"  dataset_name: {json.dumps(found.source)}",
        f"  task: {found.task}",
        *split,
        *more,
        f"  height: {size[0]}  # what the generators draw: the images' shape, at a size that the base is good at",
        f"  width: {size[1]}",
        *trainings,
        "evaluation:",
        f"  arms: [{', '.join(arms)}]  # copy-paste: what drawn data has to add to",
        "  seeds: [0, 1, 2]  # fewer cannot tell a gain from chance",
    ]
    drawn = f"{size[0]} x {size[1]}" + (f", tiles of {tiles} x {tiles}" if tiles > 1 else "")
    draws = {
        "sdxl": f"SDXL draws at {drawn}",
        "flux2": f"FLUX.2-klein draws at {drawn}, by LoRA",
        "miniature": f"The miniature base, which knows drawn scenes alone, draws at {drawn} (for photographs SDXL: "
        "--preset, on a card)",
    }
    told = [
        f"{found.num_records} labelled images of about {found.size[0]} x {found.size[1]}, {found.num_labels} labels, "
        f"task {found.task}" + (f"; {found.num_unlabelled} images without masks" if found.unlabelled else ""),
        split_reason,
        f"{draws[base]}; {steps_reason}; arms {', '.join(arms)}, 3 seeds",
    ]
    return "\n".join(lines) + "\n", told


def name_for(source: str | os.PathLike) -> str:
    """A recipe's name from a folder's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).resolve().name).strip("-_") or "data"


def _splits(found: Survey) -> tuple[list[str], str]:
    if found.test_splits:
        lines = [f"  train_split: {found.train_split}", f"  test_splits: [{', '.join(found.test_splits)}]"]
        return lines, f"Trains on {found.train_split}, scores on {', '.join(found.test_splits)}"
    together = f", whole groups of {found.groups} (patients, videos)" if found.groups else ""
    lines = [
        f"  train_split: {found.train_split}",
        f"  held_out: {HELD_OUT_SHARE}  # there is one split alone{together}",
        f"  test_splits: [{HELD_OUT}]",
    ]
    return lines, f"One split alone ({found.train_split}): a fifth of it is held out to score on{together}"


def _size(size: tuple[int, int], base: str) -> tuple[int, int]:
    """Height and width of the generators: the images' shape, with as many pixels as the base is good at (FLUX.2: as
    its recipe has, which draws each image beside a reference of its size)."""
    pixels, step = {"sdxl": (768 * 768, 64), "flux2": (512 * 512, 64), "miniature": (96 * 128, 32)}[base]
    scale = math.sqrt(pixels / (size[0] * size[1]))
    return _multiple(scale * size[0], step), _multiple(scale * size[1], step)


def _multiple(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def _between(value: float, least: int, most: int) -> int:
    """`value` with two digits, within its bounds."""
    digits = 10 ** max(0, len(str(round(value))) - 2)
    return min(max(round(value / digits) * digits, least), most)


def _variants(num_train: int) -> int:
    return 10 if num_train < 100 else 5 if num_train < 2_000 else 2


def _gamma(found: Survey) -> list[str]:
    """Of nuclei (a mean of 14) an autoencoder of other pictures keeps two thirds of what can be told apart, and nearly
    all of it with this gamma (benchmarks/studies/nuclei.yaml)."""
    if found.brightness >= DARK:
        return []
    return [
        f"  image_gamma: 0.5  # images are dark (means of {found.brightness:.0f} of 255): the base sees them brighter"
    ]


def _on_a_card(base: str, found: Survey, num_train: int, size: tuple[int, int]) -> tuple[list[str], str]:
    steps, longer = _between(20 * num_train, 3_000, 30_000), _between(10 * num_train, 4_000, 80_000)
    crop = min(512, _multiple(min(found.size) - 15, 32))
    start = [f"  base_model: {BASES[base]}"]
    training = ["  lr_warmup_steps: 100", "  ema_decay: 0.999", "  checkpointing_steps: 500"]
    drawn = ["  text2mask_steps: 50", "  mask2img_steps: 30"]
    if base == "flux2":
        start += ["  lora_rank: 32", "  learning_rate: 1.0e-4"]
        training += ["  validation_inference_steps: 28", "  validation_guidance_scale: 4.0"]
        drawn = ["  text2mask_steps: 50", "  text2mask_guidance: 4.0"]
        drawn += ["  mask2img_steps: 28", "  mask2img_guidance: 4.0"]
    adapted = [
        "adapt:  # the base learns the look of the unlabelled images before the generators start from it",
        *start,
        f"  max_train_steps: {_between(4 * found.num_unlabelled, 2_000, 10_000)}",
    ]
    lines = [
        "caption:",
        "  captioner: Salesforce/blip2-opt-2.7b",
        *(adapted if found.unlabelled else []),
        "text2mask:",
        *start,
        f"  max_train_steps: {steps}  # some 20 times the labels",
        *training,
        "mask2img:",
        *start,
        f"  max_train_steps: {steps}",
        *(training if base == "flux2" else training[::2]),
        *_gamma(found),
        *_synthesis(num_train, drawn),
        "segmenter:",
        f"  model: {SEGMENTERS[found.task]}",
        f"  max_train_steps: {longer}  # `seggen plan RECIPE --value` says whether that is enough",
        "  train_batch_size: 8",
        f"  crop_height: {crop}",
        f"  crop_width: {crop}",
        "  p_aug: 0.6  # the paper's share of synthetic samples",
    ]
    return lines, f"generators for {steps:,} steps and segmenters for {longer:,}, by the number of labels"


def _on_a_cpu(found: Survey, num_train: int, size: tuple[int, int]) -> tuple[list[str], str]:
    training = [
        "  train_batch_size: 8", "  lr_warmup_steps: 20", "  lr_scheduler: cosine", "  ema_decay: 0.99",
        "  size_conditioning: target", "  max_crop_zoom: 1.3", "  cache_variants: 8", "  checkpointing_steps: 100",
    ]  # fmt: skip
    adapted = [
        "adapt:",
        "  train_text_encoders: true  # they know the words of drawn scenes alone",
        "  max_train_steps: 800",
        "  learning_rate: 2.0e-4",
        *training,
    ]
    lines = [
        *(adapted if found.unlabelled else []),
        "text2mask:",
        "  max_train_steps: 800",
        "  learning_rate: 4.0e-4",
        *training,
        "mask2img:",
        "  max_train_steps: 800",
        "  learning_rate: 5.0e-4",
        "  train_base: true  # the base has seen drawn scenes only, no photograph",
        *training,
        *_gamma(found),
        *_synthesis(num_train, ["  text2mask_steps: 12", "  text2mask_guidance: 2.0", "  mask2img_steps: 8"]),
        "  mask2img_guidance: 1.0",
        "segmenter:",
        "  model: miniature  # with random weights: the shipped ones know the maps of these scenes"
        if found.source == SCENES
        else "  model: miniature-scenes  # its weights know drawn scenes: it learns faster than from random ones",
        "  max_train_steps: 1500",
        "  train_batch_size: 8",
        "  learning_rate: 2.0e-3",
        "  lr_warmup_steps: 50",
        "  backbone_lr_multiplier: 1.0  # they know no photograph: nothing to be careful with",
        "  max_grad_norm: 1.0",
        f"  crop_height: {size[0]}",
        f"  crop_width: {size[1]}",
        "  min_scale: 0.75",
        "  max_scale: 1.5",
        "  p_aug: 0.3",
        "  checkpointing_steps: 200",
    ]
    return lines, "`seggen plan` tells the hours"


def _synthesis(num_train: int, steps: Sequence[str]) -> list[str]:
    variants = _variants(num_train)
    return [
        "synthesis:",
        f"  imgsyn_variants: {variants}  # new images of each labelled map",
        f"  masksyn_variants: {variants}  # new maps of each caption, an image each",
        *steps,
    ]
