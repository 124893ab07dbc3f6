"""What each setting that chooses or weighs synthetic data brings: python benchmarks/measure_switches.py [SWITCH ...]

A switch is a run of the scenes study (`make reproduce`) with one thing changed: what the change does not touch, first
of all the generators, is copied from it. Scores are compared seed by seed with those of that run, whose seed draws the
labels and starts generators and segmenters. Runs go on where they were stopped. docs/switches.md tells all that was
measured, and docs/switches.json keeps it: seeds of other machines count on.
"""

import argparse
import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from seggen_hf.arms import ARMS, needs_judge
from seggen_hf.config import Recipe, load_recipe, save_recipe
from seggen_hf.pictures.markdown import table
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.pairs import paired_difference, protocol_digest
from seggen_hf.runs.results import percent, read_results, scores_by_arm
from seggen_hf.runs.runner import run_stages
from seggen_hf.runs.stages import list_stages
from seggen_hf.storage.files import new_folder, read_json, write_json, write_text
from seggen_hf.trainers.script import told_in_a_line

PAGE = Path(__file__).parents[1] / "docs" / "switches.md"


@dataclass(frozen=True)
class Switch:
    """One change.

    Attributes:
        title: what it does, for the page.
        arm: whose scores change; base: the arm of the study that they are compared with.
        settings: beside those of the study.
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


def changed_recipe(name: str, run: Path, settings: list[str]) -> Recipe:
    """The recipe of `run` with the switch, and no arms but those that it is about."""
    switch = SWITCHES[name]
    changed = [f"evaluation.arms=[{switch.arm}]", *switch.settings, *settings]
    recipe = load_recipe(RunFolder(run).recipe_file, changed)
    if needs_judge(ARMS[switch.arm], recipe.segmenter):
        recipe.evaluation.arms.insert(0, "real")
    return recipe


def take_over(source: Path, recipe: Recipe, out: Path) -> None:
    """Copy what the run `source` has made by the same settings and of the same inputs."""
    save_recipe(recipe, RunFolder(out).recipe_file)  # that of a run, which then goes on here
    made = {stage.name: stage for stage in list_stages(RunFolder(source).recipe(), source) if stage.is_done}
    for stage in list_stages(recipe, out):
        twin = made.get(stage.name)
        if twin is None or twin.fingerprint != stage.fingerprint or stage.folder.exists():
            continue
        stage.folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(stage.folder) as folder:
            shutil.copytree(twin.folder, folder, dirs_exist_ok=True)


def run_switch(name: str, run: Path, out: Path, settings: list[str]) -> None:
    recipe = changed_recipe(name, run, settings)
    print(f"== {name}, {run.name}", flush=True)
    take_over(run, recipe, out)
    run_stages(recipe, out, say=lambda line: print(f"   {line}", flush=True))


def _scores(run: Path, arm: str) -> dict[str, dict[int, float]]:
    results = read_results(run)
    return scores_by_arm(results["scores"], "mIoU").get(arm, {}) if results else {}


def gather(name: str, runs: list[Path], out: Path, known: dict | None = None) -> dict | None:
    """Scores without and with a switch: those of `runs` and their changed copies in `out`, and those known before.

    Returns: `protocol`: the digest of the changed recipe; `pairs`: `{test split: {seed: [without, with]}}`; or None.
        What is known of another protocol than that of the runs here is left out.
    """
    switch, fresh = SWITCHES[name], {}
    for run in runs:
        base, changed = _scores(run, switch.base), _scores(out / name / run.name, switch.arm)
        if base and changed:
            protocol = protocol_digest(RunFolder(out / name / run.name).recipe())
            pairs = fresh.setdefault(protocol, {})
            for split in base:
                for seed in base[split].keys() & changed[split].keys():
                    pairs.setdefault(split, {})[str(seed)] = [base[split][seed], changed[split][seed]]
    if not fresh:
        return known
    if len(fresh) > 1:
        raise ValueError(f"The runs of {name} in {out / name} follow different recipes; move some away.")
    ((protocol, pairs),) = fresh.items()
    if known and known["protocol"] == protocol:
        pairs = {split: known["pairs"].get(split, {}) | pairs[split] for split in pairs}
    return {"protocol": protocol, "pairs": {split: dict(sorted(found.items())) for split, found in pairs.items()}}


def describe(known: dict[str, dict]) -> str:
    """The page of all switches that were measured."""
    splits = list(dict.fromkeys(split for found in known.values() for split in found["pairs"]))
    rows = []
    for name, switch in SWITCHES.items():
        if name not in known:
            continue
        cells = [", ".join(f"`{setting}`" for setting in switch.settings) or f"arm `{switch.arm}`", switch.title]
        cells.append(switch.base)
        for split in splits:
            pairs = known[name]["pairs"].get(split, {})
            base, changed = ({seed: pair[i] for seed, pair in pairs.items()} for i in (0, 1))
            mean, half, p = paired_difference(base, changed)
            spread = f" ± {percent(half)}" if half else ""
            cells += [f"{percent(fmean(base.values()))} {percent(mean, signed=True)}{spread}" if base else "–"]
            cells += ["" if p is None else f"{p:.1g}", ", ".join(pairs)]
        rows.append(cells)
    head = ["setting", "what it does", "against", *(cell for split in splits for cell in (split, "p", "seeds"))]
    text = (
        "<!-- written by benchmarks/measure_switches.py -->\n# What each switch brings\n\n"
        "The study of scenes ([studies](studies.md)) with one thing changed: 25 labels; a seed draws them, and starts "
        "generators and segmenters. mIoU in % without the switch, and the mean of the paired differences with it, its "
        "95% confidence interval, and p of a paired t-test. Nothing was tuned on what is scored here."
    )
    return "\n".join([text, "", *table(head, rows), ""])


def write_page(page: Path, runs: list[Path], out: Path) -> None:
    """Add what is measured to `page` with the ending .json, and write what it all says."""
    kept = page.with_suffix(".json")
    known = read_json(kept) if kept.is_file() else {}
    found = {name: gather(name, runs, out, known.get(name)) for name in SWITCHES}
    measured = {name: pairs for name, pairs in found.items() if pairs}
    write_json(kept, measured)
    write_text(page, describe(measured))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("switches", nargs="*", metavar="SWITCH", help=f"of {', '.join(SWITCHES)}; all if none")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce/scenes"), help="folder of the study's seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/switches"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--write-only", action="store_true", help="write the page of what is finished; run nothing")
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.switches) - set(SWITCHES)):
        parser.error(f"there is no switch {unknown[0]}; there are {', '.join(SWITCHES)}")
    runs = [run for run in sorted(args.runs.glob("seed-*")) if read_results(run)]
    if not runs and not args.write_only:
        parser.error(f"{args.runs} has no finished seed of the scenes study: `make reproduce ARGS=scenes` makes them.")
    for name in [] if args.write_only else args.switches or SWITCHES:
        for run in runs:
            work = functools.partial(run_switch, name, run, args.out / name / run.name, args.settings)
            if status := told_in_a_line(work):
                return status
            write_page(args.page, runs, args.out)
    write_page(args.page, runs, args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
