"""Is there anything to gain? The real arm on parts of its labels, and for more steps, before generators train."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from datasets import Dataset

from ..arms import ARMS, arm_config
from ..config import Recipe, SegmenterConfig
from ..storage.digests import json_digest
from ..storage.files import write_json
from ..tasks import TASKS
from ..trainers.segmenter import SegmenterTask
from .folder import RunFolder
from .lock import lock_run
from .makers import train_task
from .records import data_digest, load_train_records
from .scores import score_folder

HELD_OUT = 0.2  # of the labelled records: what the points are scored on, so that no test record decides anything
POINTS = ((0.25, 1), (0.5, 1), (1.0, 1), (1.0, 2))  # share of the other labels, and how many times the recipe's steps
LEAST = 10  # records
WORTH_IT = 0.5  # points of the score that are worth a generator's training


@dataclass(frozen=True)
class Curve:
    """Scores (shares in [0, 1]) of the points, by seed.

    Attributes:
        num_records: labels at share 1; held_out: records that all were scored on.
        scores: `{(share of the labels, times the steps): {seed: score}}`.
    """

    recipe: str
    metric: str
    steps: int
    num_records: int
    held_out: int
    scores: dict[tuple[float, int], dict[int, float]]

    def mean(self, share: float, times: int = 1) -> float:
        """In %."""
        return 100 * fmean(self.scores[share, times].values())

    @property
    def spread(self) -> float | None:
        """Points between the seeds, the widest of all points of the curve; None for one seed."""
        return widest_range(self.scores.values())

    @property
    def gains(self) -> tuple[float, float]:
        """Points that the labels' last two doublings brought."""
        return self.mean(0.5) - self.mean(0.25), self.mean(1.0) - self.mean(0.5)

    @property
    def of_more_labels(self) -> float:
        """Points that twice the labels would bring: the last doubling's gain, shrunk as it shrank before."""
        first, last = self.gains
        return max(last, 0.0) * (min(max(last, 0.0) / first, 1.0) if first > 0 else 1.0)

    @property
    def of_more_steps(self) -> float:
        """Points that twice the steps bring on all labels."""
        return self.mean(1.0, 2) - self.mean(1.0)

    @property
    def advice(self) -> str:
        noise = self.spread or 0.0
        if self.of_more_steps > max(noise, WORTH_IT):
            return (
                f"Train longer first: twice the steps bring {self.of_more_steps:.1f} points without any new data. Set "
                f"segmenter.max_train_steps={2 * self.steps} and ask again; the comparison would otherwise be of two "
                "unfinished trainings."
            )
        most = max(self.of_more_labels, self.gains[1])
        if most < max(noise, WORTH_IT):
            return (
                f"Not worth it as far as this can tell: the last doubling of the labels brought {self.gains[1]:.1f} "
                f"points and twice the labels would bring {self.of_more_labels:.1f}"
                + (f", where seeds alone differ by {noise:.1f}" if noise else "")
                + ". Synthetic data can still help on images of another kind than these."
            )
        return (
            f"Worth trying: the training is limited by its labels. Twice as many would bring about "
            f"{self.of_more_labels:.1f} to {most:.1f} points here, which is what synthetic data can bring as long as "
            "its generators know nothing else; a base that has seen more of such images can bring more."
        )

    def to_dict(self) -> dict:
        """JSON values; scores and gains in %."""
        points = [
            {
                "records": count_share(self.num_records, share),
                "steps": times * self.steps,
                "scores": {str(seed): 100 * score for seed, score in found.items()},
                "mean": self.mean(share, times),
            }
            for (share, times), found in self.scores.items()
        ]
        facts = {name: getattr(self, name) for name in ("recipe", "metric", "num_records", "held_out", "spread")}
        gains = {name: getattr(self, name) for name in ("gains", "of_more_labels", "of_more_steps", "advice")}
        return facts | {"points": points} | gains

    def to_text(self) -> str:
        lines = [f"{'labels':>8} {'steps':>8} {self.metric:>8}  (%, {self.held_out} records held out)"]
        for (share, times), found in self.scores.items():
            seeds = ", ".join(f"{100 * score:.1f}" for score in found.values())
            more = f"  ({seeds})" if len(found) > 1 else ""
            count = count_share(self.num_records, share)
            lines.append(f"{count:>8} {times * self.steps:>8} {self.mean(share, times):>8.1f}{more}")
        lines += ["", self.advice]
        if self.spread is None:
            lines.append("One seed cannot tell a gain from chance: evaluation.seeds names more.")
        return "\n".join(lines)


@dataclass(frozen=True)
class Division:
    """The labelled records: those that are scored, and the order in which parts of the others are taken.

    Attributes:
        data: digest of all of them.
    """

    records: Dataset
    held_out: Dataset
    order: np.ndarray
    data: str

    def part(self, share: float) -> Dataset:
        """A smaller part lies in the larger ones, so that a doubling only adds."""
        return self.records.select(np.sort(self.order[: count_share(len(self.order), share)]))

    @staticmethod
    def folder(out: str | os.PathLike, share: float, times: int, seed: int) -> Path:
        """The place of a training on real labels alone, with `times` the steps."""
        return RunFolder(out).value / f"labels-{round(100 * share)}-steps-{times}" / f"seed-{seed}"


def divide_labels(recipe: Recipe) -> Division:
    """A fifth of the labelled records, drawn by seed 0, is held out to be scored.

    Raises: `ValueError` for fewer than `LEAST` records.
    """
    records = load_train_records(recipe)
    if len(records) < LEAST:
        raise ValueError(f"{len(records)} labelled records are too few to hold some out; it takes {LEAST} or more.")
    order = np.random.default_rng(0).permutation(len(records))
    num_held_out = max(1, round(HELD_OUT * len(records)))
    held_out = records.select(np.sort(order[:num_held_out]))
    return Division(records, held_out, order[num_held_out:], data_digest(recipe, records))


def measure_value(recipe: Recipe, out: str | os.PathLike, say: Callable[[str], None]) -> Curve:
    """Train the real arm at each of `POINTS` with each of the recipe's seeds, in `out`/value; what is done is kept.

    The test splits are not looked at.

    Raises: see `divide_labels`, and what a training raises.
    """
    labels = divide_labels(recipe)
    scores: dict[tuple[float, int], dict[int, float]] = {point: {} for point in POINTS}
    with lock_run(RunFolder(out)):
        for seed in recipe.evaluation.seeds:
            for share, times in POINTS:
                part = labels.part(share)
                config = arm_config(ARMS["real"], recipe.segmenter, seed, labels.folder(out, share, times, seed), None)
                config = dataclasses.replace(config, max_train_steps=times * config.max_train_steps)
                score = score_point(recipe, config, part, labels)
                scores[share, times][seed] = score
                say(f"{len(part)} labels, {config.max_train_steps} steps, seed {seed}: {score:.1%}")
    metric = TASKS[recipe.data.task].metric
    steps = recipe.segmenter.max_train_steps
    curve = Curve(recipe.name, metric, steps, len(labels.order), len(labels.held_out), scores)
    write_json(RunFolder(out).value / "value.json", curve.to_dict())
    return curve


def count_share(number: int, share: float) -> int:
    """A share of a number of records, at least one."""
    return max(1, round(share * number))


def widest_range(scores: Iterable[Mapping[int, float]]) -> float | None:
    """Points between the seeds, the widest of all scores by seed (shares in [0, 1]); None for one seed."""
    found = list(scores)
    ranges = [max(by_seed.values()) - min(by_seed.values()) for by_seed in found]
    return 100 * max(ranges) if len(found[0]) > 1 else None


def score_point(
    recipe: Recipe,
    config: SegmenterConfig,
    records: Dataset,
    labels: Division,
    synthetic: Dataset | None = None,
    made_by: str = "",
) -> float:
    """The headline score on the held-out records of one training in `config.output_dir`, remembered there with all
    that decides it.

    Args:
        synthetic: samples beside `records`, `made_by` tells which.
    """
    config = dataclasses.replace(config, checkpoints_total_limit=1)
    folder, data = Path(config.output_dir), recipe.data
    decides = dataclasses.asdict(config) | {"output_dir": "", "synthetic_dataset": None}
    made_of = json_digest([decides, labels.data, data.tiles, len(records), *([made_by] if made_by else [])])
    file = folder / "score.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    if known.get("made_of") == made_of:
        return known["score"]
    train_task(SegmenterTask, config, records, synthetic_records=synthetic, task=data.task, tiles=data.tiles)
    found = score_folder(folder, labels.held_out, recipe.evaluation, data.task)
    score = found[TASKS[data.task].metric] or 0.0
    write_json(file, {"score": score, "made_of": made_of})
    return score
