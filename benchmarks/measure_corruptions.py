"""How segmenters take corrupted images: python benchmarks/measure_corruptions.py RUN [RUN ...]

Every finished segmenter of the runs is scored on a test split whose images have fog, noise, blur, or the blocks of
JPEG, each in five strengths (in the manner of ImageNet-C, arXiv:1903.12261). Scores are kept in RUN/corruptions.json,
so that the same call goes on where it was stopped. Runs of one recipe are its seeds: docs/corruptions.md has a table
of each recipe, and docs/corruptions.json what they come from.
"""

import argparse
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.ndimage import gaussian_filter

from seggen_hf.arms import ARMS, parse_segmenter_name
from seggen_hf.data.schema import attach_labels, encode_image, labels_of, read_image
from seggen_hf.data.transforms import clouds
from seggen_hf.pictures.markdown import table
from seggen_hf.pictures.spacing import spread
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.pairs import paired_difference, protocol_digest
from seggen_hf.runs.records import load_test_records
from seggen_hf.runs.results import percent
from seggen_hf.runs.scores import score_folder
from seggen_hf.runs.verdict import BASELINE
from seggen_hf.storage.files import read_json, write_json, write_text
from seggen_hf.tasks import TASKS
from seggen_hf.trainers.script import told_in_a_line

PAGE = Path(__file__).parents[1] / "docs" / "corruptions.md"
STRENGTHS = 5
CLEAN = "clean"
REFERENCE = 224  # pixels of the shorter side of the images that the strengths of blur are meant for


def fog(image: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """A pale haze with clouds, thicker towards the top."""
    thick = (0.2, 0.35, 0.5, 0.62, 0.74)[strength - 1]
    density = thick * np.linspace(1.2, 0.8, image.shape[0])[:, None] + 0.1 * clouds(image.shape[:2], rng)
    return image + (217 - image) * np.clip(density, 0, 1)[..., None]


def noise(image: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of ImageNet-C's standard deviations."""
    return image + 255 * (0.08, 0.12, 0.18, 0.26, 0.38)[strength - 1] * rng.standard_normal(image.shape)


def blur(image: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, of ImageNet-C's sigmas where the shorter side has 224 pixels, and in proportion elsewhere."""
    sigma = (1, 2, 3, 4, 6)[strength - 1] * min(image.shape[:2]) / REFERENCE
    return gaussian_filter(image, (sigma, sigma, 0))


def jpeg(image: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Of ImageNet-C's qualities."""
    file = io.BytesIO()
    quality = (25, 18, 15, 10, 7)[strength - 1]
    Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), dtype=np.float64)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "fog": fog,
    "noise": noise,
    "blur": blur,
    "JPEG": jpeg,
}


def corrupt(image: np.ndarray, name: str, strength: int, seed: int) -> np.ndarray:
    """uint8 `(H, W, 3)`, of an image of that kind; the same of the same seed.

    Args:
        strength: 1 to 5.
    """
    rng = np.random.default_rng([seed, strength])
    made = CORRUPTIONS[name](image.astype(np.float64), strength, rng)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def corrupt_records(records: Dataset, name: str, strength: int) -> Dataset:
    """The records with corrupted images; record i has noise of the seed i."""
    images = [
        encode_image(corrupt(read_image(row["image"]), name, strength, place), str(place))
        for place, row in enumerate(records.select_columns("image"))
    ]
    changed = records.remove_columns("image").add_column("image", images, feature=records.features["image"])
    return attach_labels(changed, labels_of(records))


def measure(path: Path, split: str | None, number: int, metric: str | None = None) -> dict:
    """Scores of a run's segmenters, `{segmenter: {test: score}}`, with what is already known in its folder.

    Args:
        split: the first test split if not given; `metric`: a key of a score, that of the task if not given.
    Raises: `ValueError` for a metric that the task has not, and where another measurement lies.
    """
    run = RunFolder(path)
    recipe, file = run.recipe(), path / "corruptions.json"
    task = TASKS[recipe.data.task]
    split, metric = split or recipe.data.test_splits[0], metric or task.metric
    if metric not in (task.metric, *task.more):
        raise ValueError(f"--metric is {metric}; of task {recipe.data.task} there are {task.metric} and {task.more}.")
    records = load_test_records(recipe, split)
    shown = attach_labels(records.select(spread(len(records), number)), labels_of(records))
    begun = {"split": split, "records": len(shown), "metric": metric}
    known = json.loads(file.read_text()) if file.is_file() else begun
    if {name: known[name] for name in begun} != begun:
        told = "{metric} on {records} records of {split}".format(**known)
        raise ValueError(f"{file} is of {told}; remove it to measure anew.")
    scores = known.setdefault("scores", {})
    segmenters = {f"{folder.parent.name}/{folder.name}": folder for folder in run.list_segmenters()}
    segmenters = {name: folder for name, folder in segmenters.items() if run.marker(name)}
    for test, of_test in _tests(shown):
        missing = [name for name in segmenters if test not in scores.get(name, {})]
        if not missing:
            continue
        tested = of_test()
        for name in missing:
            found = score_folder(segmenters[name], tested, recipe.evaluation, recipe.data.task)
            scores.setdefault(name, {})[test] = found[metric]
            write_json(file, known)
        print(f"   {path.name}, {test}: " + ", ".join(f"{n} {percent(scores[n][test])}" for n in missing), flush=True)
    return known


def _tests(records: Dataset) -> Iterator[tuple[str, Callable[[], Dataset]]]:
    yield CLEAN, lambda: records
    for name in CORRUPTIONS:
        for strength in range(1, STRENGTHS + 1):
            yield f"{name} {strength}", lambda name=name, strength=strength: corrupt_records(records, name, strength)


def gather(runs: list[Path], measured: list[dict], known: dict) -> dict:
    """What is known of all data sets, with what was measured of `runs`: seeds of other machines count on.

    Returns: `{recipe: {protocol, labels, split, records, metric, scores: {arm: {seed: {test: score}}}}}`; of a recipe
        what is known by another protocol, or of another number of labels, than that of its runs here is left out.
    Raises: `ValueError` if runs of one recipe differ in either.
    """
    known, here = dict(known), {}
    for run, found in zip(runs, measured, strict=True):
        recipe = RunFolder(run).recipe()
        facts = {"protocol": protocol_digest(recipe), "labels": recipe.data.max_train_records}
        facts |= {name: found[name] for name in ("split", "records", "metric")}
        if here.setdefault(recipe.name, facts) != facts:
            raise ValueError(f"{run} follows another recipe than other runs of {recipe.name} do; measure it apart.")
        before = known.get(recipe.name, {})
        scores = before["scores"] if before and {name: before.get(name) for name in facts} == facts else {}
        for name, tests in found["scores"].items():
            parsed = parse_segmenter_name(name)
            if parsed and len(tests) == 1 + STRENGTHS * len(CORRUPTIONS):
                scores.setdefault(parsed[0], {})[str(parsed[1])] = tests
        known[recipe.name] = facts | {"scores": scores}
    return known


def describe(name: str, known: dict) -> list[str]:
    """The table of one data set, an arm a row: means over seeds, of each corruption over its strengths, and of all."""
    tests = {kind: [f"{kind} {strength}" for strength in range(1, STRENGTHS + 1)] for kind in CORRUPTIONS}
    every = [test for of_kind in tests.values() for test in of_kind]
    means = {
        arm: {int(seed): fmean(scores[test] for test in every) for seed, scores in by_seed.items()}
        for arm, by_seed in known["scores"].items()
    }
    rows = []
    for arm, by_seed in sorted(known["scores"].items(), key=lambda item: [*ARMS, item[0]].index(item[0])):
        parts = [fmean(scores[test] for scores in by_seed.values() for test in of_kind) for of_kind in tests.values()]
        hardest = fmean(scores[of_kind[-1]] for scores in by_seed.values() for of_kind in tests.values())
        difference, half, p = paired_difference(means.get(BASELINE, {}), means[arm])
        told = ["", ""]
        if arm != BASELINE and not math.isnan(difference):
            spread_of = f" ± {percent(half)}" if half is not None else ""
            told = [percent(difference, signed=True) + spread_of, "" if p is None else f"{p:.1g}"]
        clean = fmean(scores[CLEAN] for scores in by_seed.values())
        row = [percent(value) for value in (clean, *parts, fmean(means[arm].values()))]
        rows.append([arm, ", ".join(by_seed), *row, *told, percent(hardest)])
    header = ["arm", "seeds", CLEAN, *CORRUPTIONS, "mean of the four", "against real", "p", "at their strongest"]
    return [
        f"## {name}",
        "",
        f"{known['metric']} in % on {known['records']} records of {known['split']}; of each corruption the mean of "
        f"{STRENGTHS} strengths.",
        "",
        *table(header, rows),
    ]


def write_page(page: Path, runs: list[Path], measured: list[dict]) -> None:
    """Add what was measured to `page` with the ending .json, and write what it all says."""
    kept = page.with_suffix(".json")
    known = gather(runs, measured, read_json(kept) if kept.is_file() else {})
    head = (
        "<!-- written by benchmarks/measure_corruptions.py -->\n# Corrupted images\n\nSegmenters of the studies "
        "([studies](studies.md)) on test images with fog, noise, blur or the blocks of JPEG, as in ImageNet-C "
        "(arXiv:1903.12261). Differences are paired, with 95% confidence intervals and p of a paired t-test."
    )
    lines = [line for name, of_name in known.items() for line in ["", *describe(name, of_name)]]
    write_json(kept, known)
    write_text(page, "\n".join([head, *lines]) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--split", help="the first test split if not given")
    parser.add_argument("--records", type=int, default=100, help="of the split, at even spacing")
    parser.add_argument("--metric", help="PQ_things or AP, say; the task's own if not given")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(arguments)

    def work() -> None:
        measured = [measure(run, args.split, args.records, args.metric) for run in args.runs]
        write_page(args.page, args.runs, measured)

    return told_in_a_line(work)


if __name__ == "__main__":
    raise SystemExit(main())
