"""Each stage once: its settings, what it reads, its folder, done or not; the whole loop is a list of them.

caption -> (adapt) -> text2mask, mask2img -> synthesize -> segmenter (every arm and seed) -> evaluate -> report

The stages filter, pseudo and repaint come after the segmenter of real records, where an arm reads them. What fills
the folders is in `makers.py`: to list stages loads no model and no data.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..arms import (
    ARMS,
    SYNTHESIZED,
    UNLABELLED,
    Arm,
    adapts_base,
    arm_config,
    is_taught,
    needs_judge,
    parse_segmenter_name,
    pseudo_map_variants,
    reads_unlabelled,
    segmenter_name,
    trained_generators,
)
from ..config import HOW_ONLY, SCENES, Recipe, SegmenterConfig, SynthesisConfig
from .folder import RunFolder
from .stage_marker import DONE, fingerprint

MADE = ("caption", "adapt", "text2mask", "mask2img", "synthesize", "filter", "pseudo", "repaint", "segmenter")
STAGES = (*MADE, "evaluate", "report")

# Of what each kind of stage makes; raised when a new version makes something else of the same settings.
FORMATS: dict[str, int] = dict.fromkeys(MADE, 1)
_SOURCE = (
    "dataset_name", "dataset_config_name", "dataset_revision", "task", "image_column", "mask_column", "labels",
    "zero_is_void", "tiles", "train_split", "max_train_records",
)  # fmt: skip
# Settings of newer versions: they count where they are set, so that runs of older versions go on.
_SOURCE_IF_SET = ("void_ids", "mask_suffix", "held_out", "held_out_names", "held_out_seed", "train_records_seed")
# The stage whose folder holds the records that an arm `reads`.
RECORDS_OF = {
    "synthesize": "synthetic",
    "filter": "filtered",
    "repaint": "repainted",
    "renderer": "renderer",
    "pseudo": "pseudo",
}


@dataclass(eq=False)
class Stage:
    """One folder of a run: what it is made of, and how.

    `kind` is one of STAGES (a training of one arm and seed is a stage of kind `segmenter`); `inputs` are the stages
    whose folders it reads, `after` those that must be finished though none of their settings decides what it makes.
    """

    name: str
    kind: str
    folder: Path
    settings: dict
    inputs: list["Stage"] = field(default_factory=list)
    after: list["Stage"] = field(default_factory=list)
    place: tuple[int, int] = (1, 1)  # number in the order of the run, and how many there are

    def __post_init__(self):
        self.settings = self.settings | {f"{self.kind}.format": FORMATS[self.kind]}

    @property
    def source(self) -> str:
        """Which of the run's sources (`runs.records.source_digests`) it reads, if it has no inputs."""
        return "unlabelled" if self.name == "unlabelled" else "labelled"

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.settings, {stage.name: stage.fingerprint for stage in self.inputs})

    @property
    def is_done(self) -> bool:
        return (self.folder / DONE).is_file()


@dataclass(frozen=True)
class Segmenter:
    """A finished training of one arm and seed, and what it was made of."""

    arm: str
    seed: int
    folder: Path
    fingerprint: str


def list_stages(recipe: Recipe, out: str | os.PathLike) -> list[Stage]:
    """The stages of `recipe` that leave a folder each, in order; evaluation and report only gather from them."""
    run = RunFolder(out)
    arms = [ARMS[name] for name in recipe.evaluation.arms]
    read = {arm.reads for arm in arms}
    captions = _caption_stage(recipe, run)
    stages = [captions]
    if reads_unlabelled(recipe):
        stages.append(_unlabelled_stage(recipe, run))
    seen = [captions]
    if adapts_base(recipe):
        stages.append(Stage("adapted", "adapt", run.adapted, _settings("adapt", vars(recipe.adapt)), list(stages)))
        seen.append(stages[-1])
    generators = _generator_stages(recipe, run, seen)
    stages += generators
    if read & SYNTHESIZED:
        stages.append(_synthesis_stage(recipe, run, [captions, *generators]))
    if "renderer" in read:
        stages.append(_renderer_stage(recipe, run, captions))
    for arm in sorted(arms, key=lambda arm: needs_judge(arm, recipe.segmenter)):  # after the segmenter that judges
        if arm.reads == "filter":
            stages.append(_filter_stage(recipe, run, stages))
        if arm.reads in UNLABELLED and "pseudo" not in {stage.name for stage in stages}:
            stages.append(_pseudo_stage(recipe, run, stages))
        if arm.reads == "repaint":
            stages.append(_repaint_stage(recipe, run, stages))
        stages += [_segmenter_stage(recipe, run, arm, seed, stages) for seed in recipe.evaluation.seeds]
    for number, stage in enumerate(stages, start=1):
        stage.place = (number, len(stages))
    return stages


def _caption_stage(recipe: Recipe, run: RunFolder) -> Stage:
    settings = _source_settings(recipe) | _settings("caption", vars(recipe.caption))
    if recipe.data.palette != "generated":  # it travels with the labels, to all that paints maps
        settings |= {"data.palette": recipe.data.palette}
    return Stage("captions", "caption", run.captions, settings)


def _unlabelled_stage(recipe: Recipe, run: RunFolder) -> Stage:
    """The images without masks, with captions."""
    data = recipe.data
    names = ("dataset_name", "unlabelled", "max_unlabelled", "image_column")
    settings = _settings("data", {name: getattr(data, name) for name in names})
    settings |= {"data.held_out_names": data.held_out_names} if data.held_out_names else {}
    settings |= _size_settings(recipe) if data.dataset_name == SCENES else {}
    return Stage("unlabelled", "caption", run.unlabelled, settings | _settings("caption", vars(recipe.caption)))


def _generator_stages(recipe: Recipe, run: RunFolder, inputs: list[Stage]) -> list[Stage]:
    data = recipe.data
    coded = {"panoptic_coding": data.panoptic_coding, "num_shades": data.num_shades}
    coded = _settings("data", coded if data.task != "semantic" else {})
    return [
        Stage(name, name, run.stage(name), _settings(name, vars(getattr(recipe, name))) | coded, inputs)
        for name in trained_generators(recipe)
    ]


def _synthesis_stage(recipe: Recipe, run: RunFolder, inputs: list[Stage]) -> Stage:
    settings = _settings("synthesis", vars(recipe.synthesis)) | _size_settings(recipe)
    settings |= {"synthesis.decoding": 2} if recipe.data.task != "semantic" else {}  # of segments
    return Stage("synthetic", "synthesize", run.synthetic, settings, inputs)


def _renderer_stage(recipe: Recipe, run: RunFolder, captions: Stage) -> Stage:
    copied = ("imgsyn_variants", "masksyn_variants", "caption_styles", "caption_style_share", "seed")
    settings = _settings("synthesis", {name: getattr(recipe.synthesis, name) for name in copied})
    return Stage("renderer", "synthesize", run.renderer, settings | _size_settings(recipe), [captions])


def judge_name(recipe: Recipe) -> str:
    """The stage of the segmenter of real records that judges what is made."""
    return segmenter_name("real", recipe.evaluation.seeds[0])


def _filter_stage(recipe: Recipe, run: RunFolder, stages: list[Stage]) -> Stage:
    inputs = [stage for stage in stages if stage.name in ("synthetic", judge_name(recipe))]
    own = {name: value for name, value in vars(recipe.filter).items() if name != "pseudo_map_variants"}
    return Stage("filtered", "filter", run.filtered, _settings("filter", own), inputs)


def _pseudo_stage(recipe: Recipe, run: RunFolder, stages: list[Stage]) -> Stage:
    inputs = [stage for stage in stages if stage.name in ("unlabelled", judge_name(recipe))]
    settings = {"filter.pseudo_confidence": recipe.filter.pseudo_confidence}
    return Stage("pseudo", "pseudo", run.pseudo, settings, inputs)


def _repaint_stage(recipe: Recipe, run: RunFolder, stages: list[Stage]) -> Stage:
    """Images of the maps that the segmenter of real records has seen in those without masks."""
    inputs = [stage for stage in stages if stage.name in ("pseudo", "mask2img")]
    settings = _settings("synthesis", vars(repaint_config(recipe, run))) | _size_settings(recipe)
    return Stage("repainted", "repaint", run.repainted, settings, inputs)


def repaint_config(recipe: Recipe, run: RunFolder) -> SynthesisConfig:
    """Of a synthesis without Text2Mask, whose settings then decide nothing."""
    drawn = {name: value for name, value in vars(recipe.synthesis).items() if not name.startswith("text2mask")}
    own = {"imgsyn_variants": pseudo_map_variants(recipe), "masksyn_variants": 0, "output_dir": str(run.repainted)}
    return SynthesisConfig(**drawn | own)


def _segmenter_stage(recipe: Recipe, run: RunFolder, arm: Arm, seed: int, stages: list[Stage]) -> Stage:
    config = segmenter_config(recipe, run, arm, seed)
    # The place of synthetic records is no setting; what is in it comes as input.
    settings = _settings("segmenter", vars(config) | {"synthetic_dataset": None})
    settings |= {"segmenter.tiles": recipe.data.tiles} if recipe.data.tiles > 1 else {}  # of its inference
    name, folder = segmenter_name(arm.name, seed), run.segmenter(arm.name, seed)
    captions = stages[0]
    if arm.reads is None:  # it reads images and maps from the captions' folder: no setting of a caption decides them
        return Stage(name, "segmenter", folder, _source_settings(recipe) | settings, after=[captions])
    read = {RECORDS_OF[arm.reads]} | ({judge_name(recipe)} if is_taught(arm, recipe.segmenter) else set())
    inputs = [captions, *(stage for stage in stages if stage.name in read)]
    return Stage(name, "segmenter", folder, settings, inputs)


def segmenter_config(recipe: Recipe, run: RunFolder, arm: Arm, seed: int) -> SegmenterConfig:
    """The training of one arm and seed in its folder of the run."""
    synthetic = run.stage(RECORDS_OF[arm.reads]) if arm.reads else None
    config = arm_config(arm, recipe.segmenter, seed, run.segmenter(arm.name, seed), synthetic)
    judge = run.segmenter("real", recipe.evaluation.seeds[0])
    return replace(config, teacher=str(judge)) if is_taught(arm, recipe.segmenter) else config


def segmenter_of(stage: Stage) -> Segmenter:
    """The training of a stage of kind `segmenter`."""
    named = parse_segmenter_name(stage.name)
    assert named is not None, f"{stage.name} is no segmenter"
    return Segmenter(*named, stage.folder, stage.fingerprint)


def _settings(section: str, values: dict) -> dict:
    """`section.name: value` of the settings that decide what a stage makes."""
    return {f"{section}.{name}": value for name, value in values.items() if name not in HOW_ONLY}


def _size_settings(recipe: Recipe) -> dict:
    return _settings("data", {"height": recipe.data.height, "width": recipe.data.width})


def _source_settings(recipe: Recipe) -> dict:
    """Of what reads the real data itself."""
    names = [*_SOURCE, *(name for name in _SOURCE_IF_SET if getattr(recipe.data, name))]
    settings = _settings("data", {name: getattr(recipe.data, name) for name in names})
    return settings | (_size_settings(recipe) if recipe.data.dataset_name == SCENES else {})
