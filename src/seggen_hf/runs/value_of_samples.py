"""What a small synthesis brings before a large one is paid for: by the share of its samples, and their number."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from ..arms import ARMS, arm_config
from ..config import Recipe
from ..pictures.spacing import spread
from ..storage.files import write_json
from ..synthesis.shards import load_synthetic
from ..tasks import TASKS
from .folder import RunFolder
from .lock import lock_run
from .stage_marker import read_marker
from .value import WORTH_IT, count_share, divide_labels, score_point, widest_range

ARM = "synthetic"
MIXES = ((0.3, 1.0), (0.6, 1.0), (0.9, 1.0), (0.6, 0.25))  # p_aug, and the share of the samples
PART = MIXES[-1]
WHOLE = (PART[0], 1.0)  # with as much of them, and all samples
CAVEAT = (
    "The generators have seen the records that are held out, which flatters them against real labels alone; shares "
    "and numbers of samples compare fairly. Test splits were not looked at."
)


@dataclass(frozen=True)
class Mixing:
    """Scores (shares in [0, 1]) by seed: of real labels alone, and of `MIXES`."""

    recipe: str
    metric: str
    num_samples: int
    held_out: int
    real: dict[int, float]
    scores: dict[tuple[float, float], dict[int, float]]

    def gain(self, mix: tuple[float, float]) -> float:
        """Points over real labels alone."""
        return 100 * (fmean(self.scores[mix].values()) - fmean(self.real.values()))

    @property
    def best(self) -> tuple[float, float]:
        return max(self.scores, key=self.gain)

    @property
    def spread(self) -> float | None:
        """Points between the seeds, the widest of all; None for one seed."""
        return widest_range([self.real, *self.scores.values()])

    @property
    def of_volume(self) -> float:
        """Points that all samples bring over a quarter of them."""
        return self.gain(WHOLE) - self.gain(PART)

    @property
    def advice(self) -> str:
        noise = self.spread or 0.0
        if self.gain(self.best) < max(noise, WORTH_IT):
            return (
                f"Not worth it as it is: the best of {len(self.scores)} mixtures gains {self.gain(self.best):.1f} "
                f"points over real labels alone{_noise(noise)}. Look at the samples (preview.png) before making more."
            )
        told = (
            f"Worth it: segmenter.p_aug={self.best[0]:g} gains {self.gain(self.best):.1f} points over real labels "
            f"alone{_noise(noise)}."
        )
        if self.of_volume > max(noise, WORTH_IT):
            return f"{told} Make more: four times the samples brought {self.of_volume:.1f} points."
        return f"{told} More samples are not worth it: four times as many brought {self.of_volume:.1f} points."

    def to_dict(self) -> dict:
        """JSON values; scores and gains in %."""
        mixes = [
            {
                "p_aug": p_aug,
                "samples": count_share(self.num_samples, share),
                "scores": {str(seed): 100 * score for seed, score in found.items()},
                "gain": self.gain((p_aug, share)),
            }
            for (p_aug, share), found in self.scores.items()
        ]
        facts = {name: getattr(self, name) for name in ("recipe", "metric", "num_samples", "held_out", "spread")}
        real = {"real": {str(seed): 100 * score for seed, score in self.real.items()}}
        return facts | real | {"mixes": mixes, "of_volume": self.of_volume, "advice": self.advice}

    def to_text(self) -> str:
        real = 100 * fmean(self.real.values())
        lines = [f"{'p_aug':>8} {'samples':>8} {self.metric:>8} {'gain':>6}  (%, {self.held_out} records held out)"]
        lines.append(f"{0:>8} {0:>8} {real:>8.1f}")
        for (p_aug, share), found in self.scores.items():
            mean, gain = 100 * fmean(found.values()), self.gain((p_aug, share))
            lines.append(f"{p_aug:>8g} {count_share(self.num_samples, share):>8} {mean:>8.1f} {gain:>+6.1f}")
        lines += ["", self.advice, CAVEAT]
        if self.spread is None:
            lines.append("One seed cannot tell a gain from chance: evaluation.seeds names more.")
        return "\n".join(lines)


def measure_samples(recipe: Recipe, out: str | os.PathLike, say: Callable[[str], None]) -> Mixing:
    """Train on the labels that `measure_value` keeps, alone and with the samples of `out`/synthetic that were drawn
    from them, at each of `MIXES` with each of the recipe's seeds, in `out`/value; what is done is kept.

    Raises: `ValueError` while there is no finished synthesis in `out`, for too few records or no sample of those that
        are kept, and what a training raises.
    """
    run = RunFolder(out)
    marker = read_marker(run.synthetic)
    if marker is None:
        raise ValueError(
            f"{run.synthetic} holds no finished samples. Make some: seggen run RECIPE --only synthesize, with "
            "synthesis.imgsyn_variants and masksyn_variants of 1 or 2."
        )
    labels = divide_labels(recipe)
    part = labels.part(1.0)
    sources = set(part["image_id"][:])
    made = load_synthetic(run.synthetic)
    own = [place for place, source in enumerate(made["source_id"][:]) if source in sources]
    if not own:
        raise ValueError(f"No sample in {run.synthetic} was drawn from the {len(part)} records that are trained on.")
    kinds = set(made["kind"][:])
    arm = dataclasses.replace(ARMS[ARM], kinds=tuple(kind for kind in ARMS[ARM].kinds if kind in kinds))
    real: dict[int, float] = {}
    scores: dict[tuple[float, float], dict[int, float]] = {mix: {} for mix in MIXES}
    with lock_run(run):
        for seed in recipe.evaluation.seeds:
            config = arm_config(ARMS["real"], recipe.segmenter, seed, labels.folder(run, 1.0, 1, seed), None)
            real[seed] = score_point(recipe, config, part, labels)
            say(f"real labels alone, seed {seed}: {real[seed]:.1%}")
            for p_aug, share in MIXES:
                shown = made.select([own[place] for place in spread(len(own), count_share(len(own), share))])
                folder = run.value / f"p_aug-{p_aug:g}-samples-{round(100 * share)}" / f"seed-{seed}"
                config = arm_config(arm, recipe.segmenter, seed, folder, run.synthetic)
                config = dataclasses.replace(config, synthetic_mode="replace", p_aug=p_aug)
                score = score_point(recipe, config, part, labels, shown, marker["fingerprint"])
                scores[p_aug, share][seed] = score
                say(f"p_aug {p_aug:g}, {len(shown)} samples, seed {seed}: {score:.1%}")
    metric = TASKS[recipe.data.task].metric
    found = Mixing(recipe.name, metric, len(own), len(labels.held_out), real, scores)
    write_json(run.value / "samples.json", found.to_dict())
    return found


def _noise(noise: float) -> str:
    return f", where seeds alone differ by {noise:.1f}" if noise else ""
