"""What to try next: rules that follow from the figures of a run, each with the settings to try it with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..config import SCENES, Recipe
from .dropped import TITLES, Made
from .missed import name_some
from .verdict import BASELINE, CANDIDATES, ENOUGH_SEEDS, Scores, compare

STILL_LEARNING = 0.05  # share by which the loss of the last tenth lies below that of the tenth before
MANY_DROPPED = 0.3  # share of a kind


@dataclass(frozen=True)
class Advice:
    """A sentence, the settings to try, and whether the same run goes on with them: what is finished is kept then."""

    text: str
    settings: tuple[str, ...]
    goes_on: bool = False

    @property
    def command(self) -> str:
        """To be typed in the run folder."""
        out = "." if self.goes_on else "../next"
        return " ".join([f"seggen run recipe.yaml --out {out}", *(f"--set '{item}'" for item in self.settings)])


def what_next(
    recipe: Recipe,
    scores: Scores,
    made: Sequence[Made],
    real_history: Sequence[Mapping] = (),
    missed: Mapping[str, Sequence[str]] | None = None,
) -> list[Advice]:
    """What the figures suggest, the most telling first.

    Args:
        scores: `{arm: {test split: {seed: score}}}`.
        made: what the synthesis made and dropped.
        real_history: log lines of the training on real records, with `step` and `loss`.
        missed: `{test split: labels}` that every arm misses.
    """
    found = [*_about_training(recipe, real_history), *_about_missed(recipe, missed or {})]
    found += _about_dropped(recipe, made)
    best = next((arm for arm in CANDIDATES if scores.get(arm)), None)
    if best and scores.get(BASELINE):
        found += _about_gain(recipe, scores, best)
        found += _about_kinds(recipe, scores)
        found += _about_copy_paste(recipe, scores)
        seeds = min(len(by_seed) for by_seed in scores[BASELINE].values())
        if seeds < ENOUGH_SEEDS:
            wanted = ", ".join(map(str, range(ENOUGH_SEEDS)))
            text = f"Train more seeds: {seeds} cannot tell a gain from chance. What is finished is kept."
            found.append(Advice(text, (f"evaluation.seeds=[{wanted}]",), goes_on=True))
    if not recipe.data.unlabelled and recipe.data.dataset_name != SCENES:
        text = "If there are more images of the same kind, without masks, let the generators learn their look."
        found.append(Advice(text, ("data.unlabelled=FOLDER",)))
    return found


def still_learning(history: Sequence[Mapping]) -> bool:
    """Whether the loss still falls at the end: its mean over the last tenth of the steps lies well below that over the
    tenth before."""
    if len(history) < 20:
        return False
    last = history[-1]["step"]
    ends = [
        [line["loss"] for line in history if low * last < line["step"] <= high * last]
        for low, high in ((0.8, 0.9), (0.9, 1.0))
    ]
    return all(ends) and fmean(ends[1]) < (1 - STILL_LEARNING) * fmean(ends[0])


def _about_training(recipe: Recipe, history: Sequence[Mapping]) -> list[Advice]:
    if not still_learning(history):
        return []
    steps = 2 * recipe.segmenter.max_train_steps
    text = (
        "The segmenter of real records was still learning when it ended: more steps may bring more than more data, "
        "and the arms would be compared where they end."
    )
    return [Advice(text, (f"segmenter.max_train_steps={steps}",))]


def _about_missed(recipe: Recipe, missed: Mapping[str, Sequence[str]]) -> list[Advice]:
    """Labels that are few or small are learnt last."""
    names = list(dict.fromkeys(name for labels in missed.values() for name in labels))
    if not names:
        return []
    text = (
        f"Every arm misses {name_some(names)}: label more images that show it, at a larger size where it is small, or "
        "train the segmenter longer."
    )
    return [Advice(text, (f"segmenter.max_train_steps={2 * recipe.segmenter.max_train_steps}",))]


def _about_dropped(recipe: Recipe, made: Sequence[Made]) -> list[Advice]:
    found = []
    for entry in made:
        if entry.share_dropped <= MANY_DROPPED:
            continue
        reason = next(iter(entry.reasons))
        told = f"{entry.share_dropped:.0%} of {entry.title} was dropped, most of it since "
        if reason in ("undecodable", "ignored_share", "no_label", "one_label"):
            steps = 2 * recipe.text2mask.max_train_steps
            text = told + "generated maps could not be read: train Text2Mask longer."
            found.append(Advice(text, (f"text2mask.max_train_steps={steps}",)))
        elif reason in ("not_as_named", "implausible"):
            steps = 2 * recipe.text2mask.max_train_steps
            text = told + "generated maps are not what was asked for: train Text2Mask longer."
            found.append(Advice(text, (f"text2mask.max_train_steps={steps}",)))
        elif reason == "copied_map":
            steps = max(1, recipe.text2mask.max_train_steps // 2)
            text = told + "generated maps are those of real records: train Text2Mask for fewer steps."
            found.append(Advice(text, (f"text2mask.max_train_steps={steps}",)))
        elif reason == "misaligned":
            steps = 2 * recipe.mask2img.max_train_steps
            text = told + "images do not fit their maps: train Mask2Img longer, or hold it closer to the map."
            more = f"synthesis.conditioning_scale={1.5 * recipe.synthesis.conditioning_scale:g}"
            found.append(Advice(text, (f"mask2img.max_train_steps={steps}", more)))
        else:
            text = told + "the generator broke down: look at its loss, and halve its learning rate."
            section = "mask2img" if entry.kind == "imgsyn" else "text2mask"
            rate = getattr(recipe, section).learning_rate / 2
            found.append(Advice(text, (f"{section}.learning_rate={rate:g}",)))
    return found


def _about_gain(recipe: Recipe, scores: Scores, arm: str) -> list[Advice]:
    found, real, p_aug = [], scores[BASELINE], recipe.segmenter.p_aug
    for split in [split for split in real if scores[arm].get(split)]:
        difference, spread, _ = compare(real[split], scores[arm][split])
        if difference <= -(spread or 0) and difference < 0:
            text = (
                f"`{arm}` lost {-difference:.1f} points on {split}: show the segmenter fewer synthetic records, and "
                "end on real ones."
            )
            found.append(Advice(text, (f"segmenter.p_aug={p_aug / 2:g}", "segmenter.synthetic_until=0.8")))
        elif difference > (spread or 0):
            more = [
                f"synthesis.{kind}_variants={2 * number}"
                for kind in TITLES
                if (number := getattr(recipe.synthesis, f"{kind}_variants"))
            ]
            text = f"`{arm}` gained {difference:.1f} points on {split}: try more samples."
            found.append(Advice(text, tuple(more)))
        else:
            text = (
                f"`{arm}` shows no effect on {split}. `seggen plan recipe.yaml --value` tells whether more data can "
                "bring anything there; arms of filtered records and of the controls tell what limits it."
            )
            arms = ", ".join(dict.fromkeys([*recipe.evaluation.arms, "filtered", "copy-paste"]))
            found.append(Advice(text, (f"evaluation.arms=[{arms}]",), goes_on=True))
    return list({advice.settings: advice for advice in reversed(found)}.values())[::-1]


def _about_copy_paste(recipe: Recipe, scores: Scores) -> list[Advice]:
    """Both together, where copy-paste gains and only one of them is in any arm."""
    real, pasted = scores[BASELINE], scores.get("copy-paste", {})
    gains = [split for split in real if pasted.get(split) and compare(real[split], pasted[split])[0] > 0]
    if not gains or "synthetic-copy-paste" in recipe.evaluation.arms:
        return []
    arms = ", ".join([*recipe.evaluation.arms, "synthetic-copy-paste"])
    text = f"Copy-paste gained on {' and '.join(gains)} without a generator: try it together with synthetic data."
    return [Advice(text, (f"evaluation.arms=[{arms}]",), goes_on=True)]


def _about_kinds(recipe: Recipe, scores: Scores) -> list[Advice]:
    """Of two kinds that were scored apart, the worse one where it is clearly worse on every split."""
    kinds = [kind for kind in TITLES if scores.get(kind)]
    if len(kinds) < 2:
        return []
    splits = [split for split in scores[kinds[0]] if scores[kinds[1]].get(split)]
    compared = [compare(scores[kinds[0]][split], scores[kinds[1]][split]) for split in splits]
    for worse, better, sign in ((kinds[0], kinds[1], 1), (kinds[1], kinds[0], -1)):
        if splits and all(sign * difference > (spread or 0) for difference, spread, _ in compared):
            text = f"{TITLES[better]} helped more than {TITLES[worse]} on every split: try without the latter."
            return [Advice(text, (f"synthesis.{worse}_variants=0",))]
    return []
