"""The arms of a comparison: trainings of one segmenter that differ in nothing but the records they see."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..config import Recipe, SegmenterConfig
from ..data.scenes.records import (
    MAX_SPLIT_RECORDS,
    SCENE_CATEGORIES,
    SCENE_SPLITS,
    STYLES,
    draw_scene,
    scene_index,
)
from ..data.schema import attach_labels, encode_image, encode_map, labels_of, record_features
from ..files import write_folder


@dataclass(frozen=True)
class Arm:
    """One arm: the kinds of synthetic records it uses, where they come from, and what else differs."""

    name: str
    kinds: tuple[str, ...]
    reads: str | None  # the stage that makes its synthetic records
    description: str
    mode: str | None = None  # its own synthetic_mode; the recipe's if not given


ARMS = {
    arm.name: arm
    for arm in (
        Arm("real", (), None, "real records only"),
        Arm("imgsyn", ("imgsyn",), "synthesize", "with ImgSyn: real maps, generated images"),
        Arm("masksyn", ("masksyn",), "synthesize", "with MaskSyn: generated maps, generated images"),
        Arm("synthetic", ("imgsyn", "masksyn"), "synthesize", "with ImgSyn and MaskSyn"),
        Arm("filtered", ("imgsyn", "masksyn"), "filter", "with both, less what the segmenter of real records rejects"),
        Arm("synthetic-only", ("imgsyn", "masksyn"), "synthesize", "with ImgSyn and MaskSyn, no real records", "only"),
        Arm("style-augmentation", (), None, "control: real records, hand-made color, fog and night augmentation"),
        Arm(
            "renderer",
            ("imgsyn", "masksyn"),
            "renderer",
            "control: the scenes' own renderer in the generators' place, the ceiling of a perfect generator",
        ),
    )
}


SYNTHESIZED = {"synthesize", "filter"}  # what the generators' samples are read from


def shown_arm(recipe: Recipe) -> str | None:
    """The arm whose segmenter is published and shown if none is named: one with synthetic records, if it was run."""
    best = ("synthetic", "filtered", "imgsyn", "masksyn", "real")
    return next((name for name in best if name in recipe.evaluation.arms), None)


def check_arms(recipe: Recipe) -> None:
    """Raises `ValueError` for an arm that the recipe's data or its synthesis cannot serve."""
    variants = {"imgsyn": recipe.synthesis.imgsyn_variants, "masksyn": recipe.synthesis.masksyn_variants}
    for name in recipe.evaluation.arms:
        kinds = ARMS[name].kinds
        lacking = [kind for kind in kinds if variants[kind] == 0]
        if kinds and len(lacking) == len(kinds):
            settings = " and ".join(f"synthesis.{kind}_variants" for kind in lacking)
            raise ValueError(f"Arm {name!r} needs synthetic records, but {settings} is 0. Raise it or drop the arm.")
        if name == "filtered" and "real" not in recipe.evaluation.arms:
            raise ValueError("Arm 'filtered' needs the segmenter of arm 'real', which filters. Name both.")
        if name == "renderer" and recipe.data.tiles > 1:
            raise ValueError("Arm 'renderer' draws whole scenes, and data.tiles cuts them. Drop one of the two.")
        if name == "renderer" and recipe.data.dataset_name != "scenes":
            raise ValueError(
                f"Arm 'renderer' draws the built-in scenes anew; data.dataset_name is {recipe.data.dataset_name!r}. "
                "Drop the arm: nobody can render other data."
            )
    if recipe.segmenter.synthetic_dataset:
        raise ValueError(
            "segmenter.synthetic_dataset is set; a run makes its own. Use training/train_seg.py for another data set."
        )
    if recipe.data.streaming:
        raise ValueError(
            "data.streaming is set; a run reads its data several times. The scripts in training/ can stream it."
        )
    if recipe.segmenter.style_augmentation:
        raise ValueError(
            "segmenter.style_augmentation is set, which would put the control into every arm. Name it as an arm: "
            "evaluation.arms=[real, synthetic, style-augmentation]."
        )


def list_folders(recipe: Recipe) -> list[str]:
    """The folders that a run of `recipe` fills, in order; a run folder may hold others, of arms that it had before."""
    read = {ARMS[name].reads for name in recipe.evaluation.arms}
    folders = ["captions"]
    if read & SYNTHESIZED:
        synthesis = recipe.synthesis
        folders += ["text2mask"] if synthesis.masksyn_variants > 0 and not synthesis.text2mask_model else []
        folders += ["synthetic"] if synthesis.mask2img_model else ["mask2img", "synthetic"]
    folders += ["renderer"] if "renderer" in read else []
    folders += [f"segmenter-{arm}/seed-{s}" for arm in recipe.evaluation.arms for s in recipe.evaluation.seeds]
    return folders + (["filtered"] if "filter" in read else [])


def arm_config(arm: Arm, config: SegmenterConfig, seed: int, folder: Path, synthetic: Path | None) -> SegmenterConfig:
    """The training of one arm and seed: `config`, equal steps in all arms, and what makes the arm.

    Settings about synthetic records that the arm does not read have their defaults: they cannot retrain it.
    """
    unread = () if arm.kinds and not arm.mode else ("synthetic_mode", "p_aug", "synthetic_until")
    reset = {name: getattr(SegmenterConfig, name) for name in unread} | (
        {"synthetic_mode": arm.mode} if arm.mode else {}
    )
    return dataclasses.replace(
        config,
        output_dir=str(folder),
        seed=seed,
        style_augmentation=arm.name == "style-augmentation",
        synthetic_dataset=str(synthetic) if arm.kinds else None,
        **reset,
    )


def render_records(records: Dataset, recipe: Recipe, folder: Path) -> None:
    """What perfect generators would make of the scene `records`: written to `folder` as a `datasets` folder.

    As many records of each kind as the recipe's synthesis makes. ImgSyn's counterpart is the same scene in another
    style; MaskSyn's is a fresh scene, in a drawn style with the probability that a synthetic caption gets one.
    """
    labels = labels_of(records)
    size = (recipe.data.height, recipe.data.width)
    made = Dataset.from_generator(
        _render,
        features=record_features(synthetic=True, panoptic=True),
        gen_kwargs={
            "image_ids": tuple(records["image_id"][:]),  # `datasets` would share lists out among processes
            "size": size,
            "imgsyn_variants": recipe.synthesis.imgsyn_variants,
            "masksyn_variants": recipe.synthesis.masksyn_variants,
            "styles": tuple(style for style in recipe.synthesis.caption_styles if style in STYLES) or STYLES,
            "style_share": recipe.synthesis.caption_style_share,
            "seed": recipe.synthesis.seed,
        },
        cache_dir=str(folder / ".cache"),
    )
    save_dataset(attach_labels(made, labels), folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _render(image_ids, size, imgsyn_variants, masksyn_variants, styles, style_share, seed) -> Iterator[dict]:
    for image_id in image_ids:
        split, number = re.fullmatch(r"(\w+)-(\d+)", image_id).groups()
        index = scene_index(split, int(number))
        seen = SCENE_SPLITS[split][1]
        own = draw_scene(0, index, seen, size).style
        others = [style for style in styles if style != own] or list(STYLES)
        for kind, variants in (("imgsyn", imgsyn_variants), ("masksyn", masksyn_variants)):
            for variant in range(variants):
                rng = np.random.default_rng([seed, index, variant, kind == "masksyn"])
                if kind == "imgsyn":
                    scene = draw_scene(0, index, seen, size, style=others[int(rng.integers(len(others)))])
                else:
                    # Scenes of the same split's range that no record of it uses: the splits are far smaller.
                    fresh = scene_index(split, MAX_SPLIT_RECORDS // 2 + int(number) * 200 + variant)
                    style = styles[int(rng.integers(len(styles)))] if rng.random() < style_share else None
                    scene = draw_scene(0, fresh, seen, size, style=style)
                name, ids = f"{image_id}-{kind}-{variant}", scene.panoptic_map
                yield {
                    "image": encode_image(scene.image, name),
                    "segmentation_map": encode_map(scene.segmentation_map, len(SCENE_CATEGORIES), name),
                    "panoptic_map": encode_image(np.stack([ids, ids >> 8, ids >> 16], -1).astype(np.uint8), name),
                    "segments_info": scene.segments_info,
                    "caption": scene.caption,
                    "image_id": name,
                    "kind": kind,
                    "source_id": image_id,
                    "variant": variant,
                    "seed": seed,
                    "scores": {"decode_confidence": None, "ignored_share": None, "alignment": None},
                }


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """`save_to_disk` with labels.json and id2label.json beside it, into `folder`; each file is whole or absent."""

    def save(staging: Path) -> None:
        dataset.save_to_disk(staging)
        labels_of(dataset).save(staging)

    write_folder(Path(folder), save, last="state.json")
