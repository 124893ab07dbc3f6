"""Does synthetic data pay where labels are few? Studies whose every seed has labels, generators and segmenters of its
own: python benchmarks/reproduce.py [STUDY ...] [--data FOLDER] [--seeds N]

Each seed is a run folder, and goes on where it was stopped; `--seeds 1,3` runs these alone, so that machines share a
study. What is finished, of one seed or all, is written to docs/studies.md: paired differences to real data, with what
the seeds can say of chance, and the share of the gap to the ceiling that each arm closes. The scores are kept beside
the page, in docs/studies.json: seeds of other machines, measured by the same recipe, count on.
"""

import argparse
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from seggen_hf.config import Recipe, load_recipe
from seggen_hf.pictures.markdown import marked, table
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.pairs import paired_difference, protocol_digest
from seggen_hf.runs.report import list_costs
from seggen_hf.runs.results import percent, read_results, scores_by_arm
from seggen_hf.runs.runner import run_stages
from seggen_hf.runs.verdict import BASELINE
from seggen_hf.storage.files import read_json, write_json, write_text
from seggen_hf.trainers.script import told_in_a_line

STUDIES_FOLDER = Path(__file__).with_name("studies")
PAGE = Path(__file__).parents[1] / "docs" / "studies.md"
README = PAGE.parents[1] / "README.md"
ALL_LABELS, HEADLINE = "all-labels", "synthetic"


@dataclass(frozen=True)
class Study:
    """One data set with few labels.

    Attributes:
        name: of the recipe in studies/, and of the data set's folder below --data if `folder` is given.
        seeds: draws of the labels, each with generators and segmenters of its own.
        metric: the key of the score that it is about.
        ceiling: the arm that shows how much could be gained: `renderer`, or `all-labels`, real data with all labels.
        unlabelled: the folder of the images without masks below that of the data set; a split of it if None.
    """

    name: str
    seeds: int
    metric: str
    metric_name: str
    ceiling: str
    folder: str | None = None
    unlabelled: str | None = None

    def recipe(self, data: Path, *settings: str) -> Recipe:
        """Its recipe, on the data below `data`. Raises: `ValueError` if that is not there."""
        place = []
        if self.folder is not None:
            if not (data / self.folder).is_dir():
                raise ValueError(f"{self.name} needs the data set in {data / self.folder}, which is no folder.")
            place.append(f"data.dataset_name={data / self.folder}")
            if self.unlabelled is not None:
                place.append(f"data.unlabelled={data / self.folder / self.unlabelled}")
        return load_recipe(STUDIES_FOLDER / f"{self.name}.yaml", [*place, *settings])


STUDIES = {
    study.name: study
    for study in (
        Study("scenes", 4, "mIoU", "mIoU", "renderer"),
        Study("nuclei", 4, "PQ_things", "PQ of things", ALL_LABELS, "nuclei", "images/train"),
        Study("clothes", 2, "mIoU", "mIoU", ALL_LABELS, "ccp"),
        Study("camvid", 2, "mIoU", "mIoU", ALL_LABELS, "camvid", "train/images"),
    )
}


def run_study(study: Study, data: Path, out: Path, seeds: list[int], settings: list[str]) -> None:
    """Every seed in turn, then the ceiling: what is cut off at the end matters least."""
    for seed in seeds:
        own = [f"data.train_records_seed={seed}", f"evaluation.seeds=[{seed}]"]
        own += [f"{section}.seed={seed}" for section in ("text2mask", "mask2img", "synthesis")]
        print(f"== {study.name}, seed {seed} of {study.seeds}", flush=True)
        run_stages(study.recipe(data, *own, *settings), out / study.name / f"seed-{seed}", say=_say)
    if study.ceiling == ALL_LABELS:
        every = ["data.max_train_records=null", "evaluation.arms=[real]", f"evaluation.seeds={seeds}"]
        kinds = ("caption", "segmenter", "evaluate", "report")
        print(f"== {study.name}, all labels", flush=True)
        run_stages(study.recipe(data, *every, *settings), out / study.name / ALL_LABELS, kinds, say=_say)


def _say(line: str) -> None:
    print(f"   {line}", flush=True)


def gather(study: Study, out: Path, known: dict | None = None) -> dict:
    """All scores of a study: those of runs in `out`, and those known from before and elsewhere.

    Args:
        known: what this function returned earlier. Its scores are left out where the runs here follow another recipe.

    Returns:
        `protocol`: the digest of the recipe that all of them follow, None where nothing was scored; `scores`:
        `{arm: {test split: {seed: score}}}`, the ceiling among the arms; `hours`: `{run: of its stages}`.
    Raises: `ValueError` if two runs in `out` follow different recipes.
    """
    known = known or {"protocol": None, "scores": {}, "hours": {}}
    fresh: dict[str, tuple[str, list[dict]]] = {}
    for run in sorted((out / study.name).glob("*")):
        if (results := read_results(run)) is not None:
            fresh[run.name] = (protocol_digest(RunFolder(run).recipe()), results["scores"])
    protocols = {protocol for protocol, _ in fresh.values()}
    if len(protocols) > 1:
        raise ValueError(f"Runs in {out / study.name} follow different recipes; run them again, or move some away.")
    protocol = protocols.pop() if protocols else known["protocol"]
    is_same = known["protocol"] == protocol
    scores: dict[str, dict[str, dict[int, float]]] = {}
    for arm, by_split in known["scores"].items() if is_same else ():
        for split, by_seed in by_split.items():
            scores.setdefault(arm, {})[split] = {int(seed): score for seed, score in by_seed.items()}  # JSON: text
    for name, (_, rows) in fresh.items():
        for arm, by_split in scores_by_arm(rows, study.metric).items():
            for split, by_seed in by_split.items():
                of_arm = scores.setdefault(ALL_LABELS if name == ALL_LABELS else arm, {})
                of_arm[split] = dict(sorted((of_arm.get(split, {}) | by_seed).items()))
    hours = dict(known["hours"]) if is_same else {}
    for name in fresh:
        hours[name] = sum(cost["seconds"] for cost in list_costs(out / study.name / name)) / 3600
    return {"protocol": protocol, "scores": scores, "hours": hours}


def describe(study: Study, known: dict) -> str | None:
    """What is known of a study so far (`gather`), as Markdown; None while nothing is."""
    scores = known["scores"]
    if BASELINE not in scores:
        return None
    seeds = len(next(iter(scores[BASELINE].values())))
    recipe = load_recipe(STUDIES_FOLDER / f"{study.name}.yaml")
    lines = [
        f"## {study.name}",
        "",
        f"{recipe.data.max_train_records} labels, {seeds} of {study.seeds} seeds; {study.metric_name} in %. A seed "
        "draws the labels, and starts generators and segmenters. Differences are paired, with 95% confidence "
        "intervals where there are two seeds or more.",
    ]
    for split, real in scores[BASELINE].items():
        top = scores.get(study.ceiling, {}).get(split)
        gap = paired_difference(real, top)[0] if top else math.nan
        rows = []
        for arm in [BASELINE, *(name for name in scores if name != BASELINE)]:
            if split not in scores[arm]:
                continue
            by_seed = scores[arm][split]
            mean, half, p = paired_difference(real, by_seed)
            has_pairs = arm != BASELINE and not math.isnan(mean)  # seeds in common
            told = percent(mean, signed=True) + (f" ± {percent(half)}" if half else "") if has_pairs else ""
            closed = f"{mean / gap:.0%}" if gap > 0 < mean and arm not in (BASELINE, study.ceiling) else ""
            each = ", ".join(f"{percent(value)} ({seed})" for seed, value in sorted(by_seed.items()))
            chance = "" if p is None or arm == BASELINE else f"{p:.1g}"
            rows.append([arm, percent(fmean(by_seed.values())), told, chance, closed, each])
        header = ["arm", "mean", "against real", "p", "of the gap", "of each (seed)"]
        lines += ["", f"On {split}:", "", *table(header, rows)]
        if top and gap <= 0:
            lines += ["", f"Here nothing was to be gained: {study.ceiling} is no better than {BASELINE}."]
    lines += ["", f"{sum(known['hours'].values()):.1f} hours of stages in all."]
    if known["protocol"] != protocol_digest(recipe):
        lines += ["", "Measured with other settings than those of today's recipe."]
    return "\n".join(lines)


def headline(study: Study, known: dict) -> str | None:
    """What both kinds of samples bring against real data alone, in a line; None while nobody knows."""
    scores = known["scores"]
    if not {BASELINE, HEADLINE} <= scores.keys():
        return None
    labels = load_recipe(STUDIES_FOLDER / f"{study.name}.yaml").data.max_train_records
    told, common = [], set()
    for split, real in scores[BASELINE].items():
        other, top = (scores.get(arm, {}).get(split, {}) for arm in (HEADLINE, study.ceiling))
        if not (common := real.keys() & other.keys()):
            continue
        mean, half, p = paired_difference(real, other)
        gap = paired_difference(real, top)[0]
        before, after = (percent(fmean(by_seed[seed] for seed in common)) for by_seed in (real, other))
        chance = f" ± {percent(half)}, p = {p:.1g}" if half is not None and p is not None else ", one draw"
        closed = f", {mean / gap:.0%} of what {study.ceiling} brings" if gap > 0 < mean else ""
        told.append(f"{split} {before} -> {after} ({percent(mean, signed=True)}{chance}{closed})")
    if not told:
        return None
    draws = f"{len(common)} draws of {labels} labels" if len(common) > 1 else f"one draw of {labels} labels"
    return f"- {study.name}, {draws}, {study.metric_name}: {'; '.join(told)}"


def write_readme(readme: Path, known: dict[str, dict]) -> None:
    """Put the headlines of all studies between their marks in `readme`."""
    before, _, after = marked("studies", readme.read_text(encoding="utf-8"))
    lines = [headline(STUDIES[name], known[name]) for name in STUDIES if name in known]
    write_text(readme, f"{before}{chr(10).join(filter(None, lines))}\n{after}")


def write_page(out: Path, page: Path) -> None:
    """Write what is known of all studies: the scores into `page` with the ending .json, and what they say. README.md
    has the headlines of the project's own page."""
    table_of_scores = page.with_suffix(".json")
    known = read_json(table_of_scores) if table_of_scores.is_file() else {}
    for study in STUDIES.values():
        found = gather(study, out, known.get(study.name))
        if found["scores"]:
            known[study.name] = found
    told = {name: describe(STUDIES[name], known[name]) for name in STUDIES if name in known}
    head = (
        "<!-- written by benchmarks/reproduce.py -->\n# Studies of few labels\n\nWhat `make reproduce` has measured "
        "so far: does synthetic data pay where labels are few, and which part of it? Recipes are in "
        "`benchmarks/studies/`. Nothing was tuned on what is scored here."
    )
    write_json(table_of_scores, known)
    write_text(page, "\n\n".join([head, *filter(None, told.values())]) + "\n")
    if page == PAGE:
        write_readme(README, known)


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"seeds are numbers with commas between them, not {text!r}") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)}; all if none is given")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--seeds", type=_seeds, metavar="SEED,...", help="these alone, counted from 0: 0,2")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--write-only", action="store_true", help="write the page of what is finished; run nothing")
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.studies) - set(STUDIES)):
        parser.error(f"there is no study {unknown[0]}; there are {', '.join(STUDIES)}")
    chosen = [STUDIES[name] for name in args.studies or STUDIES]
    for study in chosen:
        if unknown := sorted(set(args.seeds or ()) - set(range(study.seeds))):
            parser.error(f"{study.name} has no seed {unknown[0]}; it has 0 to {study.seeds - 1}")
    if not args.write_only:
        missing = []
        for study in chosen:  # before hours are spent on the first one
            try:
                study.recipe(args.data, *args.settings)
            except ValueError as error:
                missing.append(study.name)
                print(f"skipped: {error}", flush=True)
        for study in [study for study in chosen if study.name not in missing]:
            seeds = [seed for seed in range(study.seeds) if args.seeds is None or seed in args.seeds]
            status = told_in_a_line(functools.partial(run_study, study, args.data, args.out, seeds, args.settings))
            write_page(args.out, args.page)
            if status:
                return status
        if len(missing) == len(chosen):
            return 1
    write_page(args.out, args.page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
