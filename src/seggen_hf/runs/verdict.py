"""One honest sentence on whether synthetic data helped, from nothing but the scores."""

from collections.abc import Mapping
from statistics import fmean

BASELINE = "real"
# The arms that the sentence is about: the joint one, or each kind.
CANDIDATES = ("synthetic", "synthetic-copy-paste", "imgsyn-copy-paste", "filtered", "imgsyn", "masksyn")
LABELS = {
    "synthetic": "Synthetic data",
    "synthetic-copy-paste": "Synthetic data and copy-paste",
    "imgsyn-copy-paste": "ImgSyn and copy-paste",
    "filtered": "Filtered synthetic data",
    "imgsyn": "ImgSyn",
    "masksyn": "MaskSyn",
}
# What is to be had without a generator, and the arms that have it and synthetic data: the first one scored counts.
CONTROLS = {
    "copy-paste": ("synthetic-copy-paste", "imgsyn-copy-paste"),
    "self-training": (),
    "style-augmentation": (),
}
ENOUGH_SEEDS = 3  # with two, a difference exceeds the range by chance in about one of five comparisons

BySeed = Mapping[int, float]  # seed -> score, a share in [0, 1]
Scores = Mapping[str, Mapping[str, BySeed]]  # arm -> test split -> scores


def compare(real: BySeed, synthetic: BySeed) -> tuple[float, float | None, int]:
    """Points of difference, points of range, and number of seeds, of the seeds that both arms have.

    The difference is the mean over pairs of one seed; the range is the wider one of the two arms, None for fewer than
    two pairs. Both are rounded as they are shown. Without a common seed the means are compared.
    """
    common = sorted(real.keys() & synthetic.keys())
    if not common:
        return round(100 * (fmean(synthetic.values()) - fmean(real.values())), 1) + 0.0, None, 0
    difference = round(100 * fmean(synthetic[seed] - real[seed] for seed in common), 1) + 0.0  # no minus zero
    if len(common) < 2:
        return difference, None, 1
    ranges = [max(arm[seed] for seed in common) - min(arm[seed] for seed in common) for arm in (real, synthetic)]
    return difference, round(100 * max(ranges), 1), len(common)


def judge(real: BySeed, synthetic: BySeed) -> str:
    """`gain`, `loss`, `within range`, `beyond range` (fewer than ENOUGH_SEEDS pairs), or `one seed` (fewer than two).

    A difference counts only if it is larger than the widest range between the seeds of one arm. This is no test of
    significance: a handful of seeds cannot carry one.
    """
    difference, spread, num_seeds = compare(real, synthetic)
    if spread is None:
        return "one seed"
    if abs(difference) <= spread:
        return "within range"
    if num_seeds < ENOUGH_SEEDS:
        return "beyond range"
    return "gain" if difference > 0 else "loss"


def write_verdict(scores: Scores, metric_name: str = "mIoU") -> str:
    """The sentence. It names each test split, says losses as plainly as gains, and what few seeds cannot tell.

    Args:
        scores: `{arm: {test split: {seed: score}}}`, shares in [0, 1].
        metric_name (`str`): what the sentence calls the score.
    """
    arms = [name for name in CANDIDATES if scores.get(name)]
    arms = ["synthetic"] if "synthetic" in arms else arms
    if not arms or not scores.get(BASELINE):
        absent = "real-only" if arms else "synthetic"
        return f"No {absent} arm has been scored yet, so nothing can be said on whether synthetic data helped."
    real = scores[BASELINE]
    splits = {arm: [split for split in real if scores[arm].get(split) and real[split]] for arm in arms}
    arms = [arm for arm in arms if splits[arm]]
    if not arms:
        return "No test split was scored for both arms, so nothing can be said on whether synthetic data helped."
    clauses = [
        f"{LABELS[arm]} "
        + _join([_describe(metric_name, split, real[split], scores[arm][split]) for split in splits[arm]])
        for arm in arms
    ]
    sentence = "; ".join(clauses)
    pairs = [(real[split], scores[arm][split]) for arm in arms for split in splits[arm]]
    common = {compare(*pair)[2] for pair in pairs}
    beside = _compare_controls(scores, metric_name)
    if common == {1} and all(len(by_seed) == 1 for pair in pairs for by_seed in pair):
        return f"{sentence}; this is one seed, so no statement about chance is possible.{beside}"
    seeds = {arm: max(len(by_seed) for by_seed in scores[arm].values()) for arm in (BASELINE, *arms)}
    counts = ", ".join(f"{number} of {arm}" for arm, number in seeds.items())
    shared = f", {min(common)} of them in common" if {*common} != {*seeds.values()} else ""
    if len(set(seeds.values())) == 1 and not shared:
        counts = f"{seeds[BASELINE]} of each arm"
    return f"{sentence}; seeds of the segmenter: {counts}{shared}; one pair of generators.{beside}"


def _compare_controls(scores: Scores, metric_name: str) -> str:
    """Of each control that was scored: what it reaches, or what synthetic data brings on top of it."""
    told = []
    for control, joint in CONTROLS.items():
        of_control = scores.get(control, {})
        of_joint = next((scores[arm] for arm in joint if of_control.keys() & scores.get(arm, {}).keys()), {})
        if splits := [split for split in of_control if of_joint.get(split)]:
            parts = [_describe(metric_name, split, of_control[split], of_joint[split]) for split in splits]
            told.append(f" On top of {control}, synthetic data {_join(parts)}.")
        elif of_control:
            parts = [f"{100 * fmean(by_seed.values()):.1f} on {split}" for split, by_seed in of_control.items()]
            told.append(f" Without a generator, {control} alone reaches {_join(parts)}.")
    return "".join(told)


def _describe(metric_name: str, split: str, real: BySeed, synthetic: BySeed) -> str:
    difference, spread, num_seeds = compare(real, synthetic)
    common = sorted(real.keys() & synthetic.keys())
    before = fmean([real[seed] for seed in common] or real.values())
    after = fmean([synthetic[seed] for seed in common] or synthetic.values())
    moved = "raised" if difference > 0 else "lowered"
    change = f"{moved} {metric_name} on {split} from {100 * before:.1f} to {100 * after:.1f}"
    if difference == 0:
        change = f"left {metric_name} on {split} at {100 * before:.1f}"
    size = {
        "one seed": f"{difference:+.1f} points, {'one seed' if num_seeds else 'no seed'} in common",
        "within range": f"{difference:+.1f} points, within the {spread} between seeds: no effect shown",
        "beyond range": f"{difference:+.1f} points, larger than the {spread} range between seeds; "
        f"{num_seeds} seeds cannot tell chance",
        "gain": f"{difference:+.1f} points, more than the {spread} between seeds: it helped",
        "loss": f"{difference:+.1f} points, more than the {spread} between seeds: it hurt",
    }[judge(real, synthetic)]
    if num_seeds == 1 and len(real) == len(synthetic) == 1:
        size = f"{difference:+.1f} points"
    return f"{change} ({size})"


def _join(parts: list[str]) -> str:
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"
