"""What each setting that chooses or weighs synthetic data brings: python benchmarks/measure_switches.py [SWITCH ...]

`plain` is the recipe `bench` (25 labelled scenes); each switch is the same run with one thing changed, whose
generators, and all else that the change does not touch, are copied from it. Runs go on where they were stopped. Scores
are compared seed by seed with those of `plain`, and written to docs/switches.md. The generators are the same for all
seeds, which start the segmenters: differences hold for these generators.
"""

import argparse
import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from seggen_hf.config import Recipe, load_recipe, save_recipe
from seggen_hf.pictures.markdown import table
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.pairs import paired_difference
from seggen_hf.runs.results import percent, read_results, scores_by_arm
from seggen_hf.runs.runner import run_stages
from seggen_hf.runs.stages import list_stages
from seggen_hf.storage.files import new_folder, write_text
from seggen_hf.trainers.script import told_in_a_line

PAGE = Path(__file__).parents[1] / "docs" / "switches.md"
PLAIN, RECIPE = "plain", "bench"


@dataclass(frozen=True)
class Switch:
    """One change.

    Attributes:
        title: what it does, for the page.
        arm: whose scores change; base: the arm of `plain` that they are compared with.
        settings: beside those of `plain`.
    """

    title: str
    arm: str
    base: str
    settings: tuple[str, ...] = ()


SWITCHES = {
    "no-dice": Switch("no Dice loss on synthetic samples", "synthetic", "synthetic", ("segmenter.synthetic_dice=0",)),
    "pixel-mixing": Switch(
        "half of the ImgSyn images mixed with the real one", "imgsyn", "imgsyn", ("segmenter.pixel_mixing=0.5",)
    ),
    "soft-labels": Switch(
        "half of each synthetic pixel's label is what the segmenter of real records sees",
        "synthetic",
        "synthetic",
        ("segmenter.soft_labels=0.5",),
    ),
    "end-on-real": Switch(
        "the last fifth of the steps on real data", "synthetic", "synthetic", ("segmenter.synthetic_until=0.8",)
    ),
    "plausible": Switch(
        "maps unlike real ones or unlike their caption are dropped",
        "synthetic",
        "synthetic",
        ("synthesis.min_plausibility=0.88", "synthesis.min_caption_agreement=0.7"),
    ),
    "rare-labels": Switch(
        "records with rare labels drawn from more often", "synthetic", "synthetic", ("synthesis.rare_labels=0.5",)
    ),
    "filter": Switch("FreeMask's filter", "filtered", "synthetic"),
    "relative-filter": Switch(
        "pixels void where the siblings of an image disagree", "filtered", "synthetic", ("filter.rule=relative",)
    ),
    "hard-records": Switch(
        "FreeMask's filter, and what it kept less of seen more often",
        "filtered",
        "synthetic",
        ("segmenter.hard_records=1",),
    ),
    "no-styles": Switch(
        "captions keep their own light and weather", "synthetic", "synthetic", ("synthesis.caption_styles=[]",)
    ),
    "fewer": Switch(
        "6 samples a real record, not 24",
        "synthetic",
        "synthetic",
        ("synthesis.imgsyn_variants=3", "synthesis.masksyn_variants=3"),
    ),
    "lora": Switch("Text2Mask by LoRA, not whole", "synthetic", "synthetic", ("text2mask.lora_rank=16",)),
    "copy-paste": Switch("copy-paste on the real samples beside", "synthetic-copy-paste", "synthetic"),
}


def recipe_of(name: str, settings: list[str]) -> Recipe:
    if name == PLAIN:
        arms = sorted({switch.base for switch in SWITCHES.values()} | {"real"})
        return load_recipe(RECIPE, [f"evaluation.arms=[{', '.join(arms)}]", *settings])
    switch = SWITCHES[name]
    judged = switch.arm == "filtered" or name == "soft-labels"  # by the segmenter of real records
    arms = ["real", switch.arm] if judged else [switch.arm]
    return load_recipe(RECIPE, [f"evaluation.arms=[{', '.join(arms)}]", *switch.settings, *settings])


def take_over(plain: Recipe, source: Path, recipe: Recipe, out: Path) -> None:
    """Copy what the run `source` of `plain` has made by the same settings and of the same inputs."""
    save_recipe(recipe, RunFolder(out).recipe_file)  # that of a run, which then goes on here
    made = {stage.name: stage for stage in list_stages(plain, source) if stage.is_done}
    for stage in list_stages(recipe, out):
        twin = made.get(stage.name)
        if twin is None or twin.fingerprint != stage.fingerprint or stage.folder.exists():
            continue
        stage.folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(stage.folder) as folder:
            shutil.copytree(twin.folder, folder, dirs_exist_ok=True)


def run_switch(name: str, out: Path, settings: list[str]) -> None:
    recipe = recipe_of(name, settings)
    print(f"== {name}", flush=True)
    if name != PLAIN:
        take_over(recipe_of(PLAIN, settings), out / PLAIN, recipe, out / name)
    run_stages(recipe, out / name, say=lambda line: print(f"   {line}", flush=True))


def _scores(out: Path, name: str, arm: str) -> dict[str, dict[int, float]]:
    results = read_results(out / name)
    return scores_by_arm(results["scores"], "mIoU").get(arm, {}) if results else {}


def describe(out: Path) -> str:
    """The page of all switches that were measured."""
    rows, splits = [], recipe_of(PLAIN, []).data.test_splits
    for name, switch in SWITCHES.items():
        base, changed = (_scores(out, *which) for which in ((PLAIN, switch.base), (name, switch.arm)))
        if not base or not changed:
            continue
        cells = [", ".join(f"`{setting}`" for setting in switch.settings) or f"arm `{switch.arm}`", switch.title]
        cells.append(str(len(base[splits[0]].keys() & changed[splits[0]].keys())))
        for split in splits:
            mean, half, p = paired_difference(base[split], changed[split])
            spread = f" ± {percent(half)}" if half else ""
            before = fmean(base[split][seed] for seed in base[split].keys() & changed[split].keys())
            cells.append(f"{percent(before)} {percent(mean, signed=True)}{spread}")
            cells.append("" if p is None else f"{p:.1g}")
        rows.append(cells)
    head = ["setting", "what it does", "seeds", *(cell for split in splits for cell in (split, "p"))]
    text = (
        "<!-- written by benchmarks/measure_switches.py -->\n# What each switch brings\n\n"
        f"Recipe `{RECIPE}`: {recipe_of(PLAIN, []).data.max_train_records} labelled scenes, one set of generators, "
        "segmenters of several seeds. mIoU in % without the switch, and the mean of the paired differences with it, "
        "with its 95% confidence interval, and p of a paired t-test. The arm is `synthetic` where none is named, "
        "`imgsyn` for pixel mixing."
    )
    return "\n".join([text, "", *table(head, rows), ""])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("switches", nargs="*", metavar="SWITCH", help=f"of {', '.join(SWITCHES)}; all if none")
    parser.add_argument("--out", type=Path, default=Path("runs/switches"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--write-only", action="store_true", help="write the page of what is finished; run nothing")
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.switches) - set(SWITCHES)):
        parser.error(f"there is no switch {unknown[0]}; there are {', '.join(SWITCHES)}")
    if not args.write_only:
        for name in (PLAIN, *(args.switches or SWITCHES)):
            status = told_in_a_line(functools.partial(run_switch, name, args.out, args.settings))
            write_text(args.page, describe(args.out))
            if status:
                return status
    write_text(args.page, describe(args.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
