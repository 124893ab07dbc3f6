"""The arms of a comparison: trainings of one segmenter that differ in nothing but the records they see."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import SCENES, Recipe, SegmenterConfig


@dataclass(frozen=True)
class Arm:
    """One arm: the kinds of synthetic records it uses, where they come from, and what else differs."""

    name: str
    kinds: tuple[str, ...]
    reads: str | None  # the stage that makes its synthetic records
    description: str
    segmenter: Mapping[str, Any] = field(default_factory=dict)  # settings of its own, in place of the recipe's


PASTED = {"copy_paste": 0.5}  # share of the real samples that get things of others
ONLY = {"synthetic_mode": "only"}
ARMS = {
    arm.name: arm
    for arm in (
        Arm("real", (), None, "real records only"),
        Arm("imgsyn", ("imgsyn",), "synthesize", "with ImgSyn: real maps, generated images"),
        Arm("masksyn", ("masksyn",), "synthesize", "with MaskSyn: generated maps, generated images"),
        Arm("synthetic", ("imgsyn", "masksyn"), "synthesize", "with ImgSyn and MaskSyn"),
        Arm(
            "synthetic-copy-paste",
            ("imgsyn", "masksyn"),
            "synthesize",
            "with ImgSyn and MaskSyn, and things of other real records pasted into the real ones",
            PASTED,
        ),
        Arm(
            "imgsyn-copy-paste",
            ("imgsyn",),
            "synthesize",
            "with ImgSyn, and things of other real records pasted into the real ones",
            PASTED,
        ),
        Arm("filtered", ("imgsyn", "masksyn"), "filter", "with both, less what the segmenter of real records rejects"),
        Arm(
            "self-training",
            ("pseudo",),
            "pseudo",
            "with unlabelled images and the maps that the real arm sees in them",
        ),
        Arm(
            "pseudo-maps",
            ("imgsyn",),
            "repaint",
            "with images that Mask2Img paints for the maps that the real arm sees in unlabelled images",
        ),
        Arm("synthetic-only", ("imgsyn", "masksyn"), "synthesize", "with ImgSyn and MaskSyn, no real records", ONLY),
        Arm(
            "style-augmentation",
            (),
            None,
            "control: real records, hand-made color, fog and night augmentation",
            {"style_augmentation": True},
        ),
        Arm("copy-paste", (), None, "control: real records, with things of others pasted into them", PASTED),
        Arm(
            "renderer",
            ("imgsyn", "masksyn"),
            "renderer",
            "control: the scenes' own renderer in the generators' place, the ceiling of a perfect generator",
        ),
    )
}
SYNTHESIZED = {"synthesize", "filter"}  # what the generators make of real records
DRAWN = SYNTHESIZED | {"repaint"}  # what a generator makes
JUDGED = {"filter", "pseudo", "repaint"}  # what the segmenter of real records has a part in
UNLABELLED = {"pseudo", "repaint"}  # what images without masks become


def shown_arm(recipe: Recipe) -> str:
    """The arm whose segmenter is published and shown if none is named: one with synthetic records, if it was run."""
    best = ("synthetic-copy-paste", "imgsyn-copy-paste", "synthetic", "filtered", "imgsyn", "masksyn", "real")
    return next((name for name in best if name in recipe.evaluation.arms), recipe.evaluation.arms[0])


def check_arms(recipe: Recipe) -> None:
    """Raises `ValueError` for an arm that the recipe's data or its synthesis cannot serve."""
    variants = {"imgsyn": recipe.synthesis.imgsyn_variants, "masksyn": recipe.synthesis.masksyn_variants}
    for name in recipe.evaluation.arms:
        kinds = ARMS[name].kinds
        made = {"imgsyn": pseudo_map_variants(recipe)} if ARMS[name].reads == "repaint" else variants
        lacking = [kind for kind in kinds if made.get(kind) == 0]
        if kinds and len(lacking) == len(kinds):
            settings = " and ".join(f"synthesis.{kind}_variants" for kind in lacking)
            raise ValueError(f"Arm {name!r} needs synthetic records, but {settings} is 0. Raise it or drop the arm.")
        if needs_judge(ARMS[name], recipe.segmenter) and "real" not in recipe.evaluation.arms:
            raise ValueError(f"Arm {name!r} needs the segmenter of arm 'real', which judges. Name both.")
        if ARMS[name].reads in UNLABELLED and not recipe.data.unlabelled:
            raise ValueError(f"Arm {name!r} learns from images without masks; name them with data.unlabelled.")
        if name == "renderer" and recipe.data.tiles > 1:
            raise ValueError("Arm 'renderer' draws whole scenes, and data.tiles cuts them. Drop one of the two.")
        if name == "renderer" and recipe.data.dataset_name != SCENES:
            raise ValueError(
                f"Arm 'renderer' draws the built-in scenes anew; data.dataset_name is {recipe.data.dataset_name!r}. "
                "Drop the arm: nobody can render other data."
            )
    if adapts_base(recipe):
        theirs = {name: getattr(recipe, name).base_model for name in ("adapt", *trained_generators(recipe))}
        if len(set(theirs.values())) > 1:
            told = ", ".join(f"{name}.base_model {base}" for name, base in theirs.items())
            raise ValueError(f"The generators start from what `adapt` makes of its base, and the recipe has {told}.")
    if recipe.segmenter.synthetic_dataset:
        raise ValueError(
            "segmenter.synthetic_dataset is set; a run makes its own. Use training/train_seg.py for another data set."
        )
    if recipe.segmenter.teacher:
        raise ValueError("segmenter.teacher is set; a run takes its own segmenter of real records. Leave it out.")
    if recipe.segmenter.soft_labels and recipe.data.task != "semantic":
        raise ValueError(f"segmenter.soft_labels is for task semantic, and data.task is {recipe.data.task}.")
    if recipe.data.streaming:
        raise ValueError(
            "data.streaming is set; a run reads its data several times. The scripts in training/ can stream it."
        )
    if recipe.segmenter.style_augmentation:
        raise ValueError(
            "segmenter.style_augmentation is set, which would put the control into every arm. Name it as an arm: "
            "evaluation.arms=[real, synthetic, style-augmentation]."
        )
    twins = {"copy-paste": "real", "synthetic-copy-paste": "synthetic", "imgsyn-copy-paste": "imgsyn"}
    if recipe.segmenter.copy_paste and (twin := next((arm for arm in twins if arm in recipe.evaluation.arms), None)):
        raise ValueError(
            f"segmenter.copy_paste is set: every arm pastes, and the arm {twin!r} would be a second {twins[twin]!r}; "
            "drop one of the two."
        )


def pseudo_map_variants(recipe: Recipe) -> int:
    """Images of each map that the real arm sees in an unlabelled image."""
    return recipe.filter.pseudo_map_variants or recipe.synthesis.imgsyn_variants


def segmenter_name(arm: str | None, seed: int | str) -> str:
    """Of one training: the name of its stage, and the place of its folder in the run's; "*" stands for any."""
    return f"segmenter-{arm}/seed-{seed}"


def parse_segmenter_name(name: str) -> tuple[str, int] | None:
    """Arm and seed of what `segmenter_name` has named; None for any other name."""
    found = re.fullmatch(r"segmenter-([\w-]+)/seed-(\d+)", name)
    return (found[1], int(found[2])) if found else None


def list_folders(recipe: Recipe) -> list[str]:
    """The folders that a run of `recipe` fills, in order; a run folder may hold others, of arms that it had before."""
    read = {ARMS[name].reads for name in recipe.evaluation.arms}
    folders = ["captions", *(["unlabelled"] if reads_unlabelled(recipe) else [])]
    folders += ["adapted"] if adapts_base(recipe) else []
    folders += trained_generators(recipe)
    folders += ["synthetic"] if read & SYNTHESIZED else []
    folders += ["renderer"] if "renderer" in read else []
    folders += [segmenter_name(arm, seed) for arm in recipe.evaluation.arms for seed in recipe.evaluation.seeds]
    judged = {"filtered": {"filter"}, "pseudo": UNLABELLED, "repainted": {"repaint"}}
    return folders + [name for name, reads in judged.items() if reads & read]


def reads_unlabelled(recipe: Recipe) -> bool:
    """Whether a stage of the run reads images without masks."""
    return adapts_base(recipe) or _reads_any(recipe, UNLABELLED)


def _reads_any(recipe: Recipe, stages: set[str]) -> bool:
    return any(ARMS[name].reads in stages for name in recipe.evaluation.arms)


def trained_generators(recipe: Recipe) -> list[str]:
    """Those of `used_generators` that the run trains: one that the recipe names is used as it is."""
    return [name for name in used_generators(recipe) if not getattr(recipe.synthesis, f"{name}_model")]


def used_generators(recipe: Recipe) -> list[str]:
    """Of `text2mask` and `mask2img` those that the recipe's arms need."""
    draws_maps = recipe.synthesis.masksyn_variants > 0 and _reads_any(recipe, SYNTHESIZED)
    needed = {"text2mask": draws_maps, "mask2img": _reads_any(recipe, DRAWN)}
    return [name for name, is_needed in needed.items() if is_needed]


def adapts_base(recipe: Recipe) -> bool:
    """Whether the generators that the run trains start from a base that has seen the unlabelled images."""
    return bool(recipe.data.unlabelled and recipe.adapt.enabled and trained_generators(recipe))


def is_taught(arm: Arm, config: SegmenterConfig) -> bool:
    """Whether the segmenter of real records softens the labels of the arm's synthetic ones; not of the renderer's."""
    return bool(config.soft_labels and arm.kinds and arm.reads != "renderer")


def needs_judge(arm: Arm, config: SegmenterConfig) -> bool:
    """Whether the arm comes after the segmenter of real records."""
    return arm.reads in JUDGED or is_taught(arm, config)


def arm_config(arm: Arm, config: SegmenterConfig, seed: int, folder: Path, synthetic: Path | None) -> SegmenterConfig:
    """The training of one arm and seed: `config`, equal steps in all arms, and what makes the arm.

    Settings about synthetic records that the arm does not read have their defaults: they cannot retrain it.
    """
    is_mixed = bool(arm.kinds) and "synthetic_mode" not in arm.segmenter
    unread = () if is_mixed else ("synthetic_mode", "p_aug", "synthetic_until")
    unread += () if arm.kinds else ("synthetic_dice",)
    has_partners = is_mixed and "imgsyn" in arm.kinds and arm.reads in SYNTHESIZED  # real images of its maps
    unread += () if has_partners else ("pixel_mixing",)
    unread += () if arm.reads == "filter" else ("hard_records",)
    unread += () if is_taught(arm, config) else ("soft_labels",)
    own = {name: getattr(SegmenterConfig, name) for name in unread} | {"style_augmentation": False, **arm.segmenter}
    return dataclasses.replace(
        config,
        output_dir=str(folder),
        seed=seed,
        synthetic_dataset=str(synthetic) if arm.kinds else None,
        **own,
    )
