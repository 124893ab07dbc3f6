"""How segmenters take corrupted images: python benchmarks/measure_corruptions.py RUN [RUN ...]

Every finished segmenter of the runs is scored on a test split whose images have fog, noise, blur, or the blocks of
JPEG, each in five strengths (in the manner of ImageNet-C, arXiv:1903.12261). Scores are kept in RUN/corruptions.json,
so that the same call goes on where it was stopped; the table of all runs together is written to docs/corruptions.md.
Several runs are taken for several seeds of one comparison.
"""

import argparse
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.ndimage import gaussian_filter

from seggen_hf.arms import parse_segmenter_name
from seggen_hf.data.schema import attach_labels, encode_image, labels_of, read_image
from seggen_hf.data.transforms import clouds
from seggen_hf.pictures.markdown import table
from seggen_hf.pictures.spacing import spread
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.records import load_test_records
from seggen_hf.runs.results import percent
from seggen_hf.runs.scores import score_folder
from seggen_hf.storage.files import write_json, write_text
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


def measure(path: Path, split: str | None, number: int) -> dict:
    """Scores of a run's segmenters, `{segmenter: {test: score}}`, with what is already known in its folder."""
    run = RunFolder(path)
    recipe, file = run.recipe(), path / "corruptions.json"
    split, metric = split or recipe.data.test_splits[0], TASKS[recipe.data.task].metric
    records = load_test_records(recipe, split)
    shown = attach_labels(records.select(spread(len(records), number)), labels_of(records))
    begun = {"split": split, "records": len(shown), "metric": metric}
    known = json.loads(file.read_text()) if file.is_file() else begun
    if {name: known[name] for name in begun} != begun:
        raise ValueError(f"{file} is of {known['records']} records of {known['split']}; remove it to measure anew.")
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


def describe(found: list[dict]) -> str:
    """The table of an arm a row: means over seeds, of each corruption over its strengths, and of all."""
    by_arm: dict[str, list[dict[str, float]]] = {}
    for known in found:
        for name, scores in known["scores"].items():
            parsed = parse_segmenter_name(name)
            if parsed and len(scores) == 1 + STRENGTHS * len(CORRUPTIONS):
                by_arm.setdefault(parsed[0], []).append(scores)
    rows = []
    for arm, seeds in by_arm.items():
        parts = [
            fmean(scores[f"{name} {s}"] for scores in seeds for s in range(1, STRENGTHS + 1)) for name in CORRUPTIONS
        ]
        hardest = fmean(scores[f"{name} {STRENGTHS}"] for scores in seeds for name in CORRUPTIONS)
        means = [fmean(scores[CLEAN] for scores in seeds), *parts, fmean(parts), hardest]
        rows.append([arm, str(len(seeds)), *map(percent, means)])
    first = found[0]
    header = ["arm", "seeds", CLEAN, *CORRUPTIONS, "mean of the four", "at their strongest"]
    return "\n".join(
        [
            "<!-- written by benchmarks/measure_corruptions.py -->\n# Corrupted images\n",
            f"{first['metric']} in % on {first['records']} records of {first['split']}; of each corruption the mean "
            f"of {STRENGTHS} strengths.\n",
            *table(header, rows),
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--split", help="the first test split if not given")
    parser.add_argument("--records", type=int, default=100, help="of the split, at even spacing")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(arguments)

    def work() -> None:
        found = [measure(run, args.split, args.records) for run in args.runs]
        write_text(args.page, describe(found) + "\n")

    return told_in_a_line(work)


if __name__ == "__main__":
    raise SystemExit(main())
