"""One honest sentence on whether synthetic data helped, from nothing but the scores."""

from collections.abc import Mapping, Sequence
from statistics import fmean

BASELINE = "real"
CANDIDATES = ("synthetic", "imgsyn", "masksyn")  # the arm that the sentence is about: the first that was trained

Scores = Mapping[str, Mapping[str, Sequence[float]]]  # arm -> test split -> one mIoU per seed, shares in [0, 1]


def judge(real: Sequence[float], synthetic: Sequence[float]) -> str:
    """`gain`, `loss`, `within spread`, or `one seed` if an arm has a single one.

    A difference of means counts only if it is larger than the widest range between the seeds of one arm. This is no
    test of significance: a handful of seeds cannot carry one.
    """
    if min(len(real), len(synthetic)) < 2:
        return "one seed"
    difference = fmean(synthetic) - fmean(real)
    if abs(difference) <= max(max(values) - min(values) for values in (real, synthetic)):
        return "within spread"
    return "gain" if difference > 0 else "loss"


def write_verdict(scores: Scores) -> str:
    """The sentence. It names each test split, says losses as plainly as gains, and what one seed cannot tell.

    Args:
        scores: `{arm: {test split: [mIoU of each seed]}}`, shares in [0, 1].
    """
    arm = next((name for name in CANDIDATES if scores.get(name)), None)
    if arm is None or not scores.get(BASELINE):
        absent = "real-only" if arm else "synthetic"
        return f"No {absent} arm has been scored yet, so nothing can be said on whether synthetic data helped."
    splits = [split for split in scores[BASELINE] if scores[arm].get(split) and scores[BASELINE][split]]
    if not splits:
        return "No test split was scored for both arms, so nothing can be said on whether synthetic data helped."
    label = {"synthetic": "Synthetic data", "imgsyn": "ImgSyn", "masksyn": "MaskSyn"}[arm]
    parts, verdicts = [], []
    for split in splits:
        real, synthetic = scores[BASELINE][split], scores[arm][split]
        difference = round(100 * (fmean(synthetic) - fmean(real)), 1) + 0.0  # no minus zero
        verdict = judge(real, synthetic)
        verdicts.append(verdict)
        moved = "raised" if difference > 0 else "lowered" if difference < 0 else "left"
        change = f"{moved} mIoU on {split} from {100 * fmean(real):.1f} to {100 * fmean(synthetic):.1f}"
        if moved == "left":
            change = f"left mIoU on {split} at {100 * fmean(real):.1f}"
        spread = 100 * max(max(values) - min(values) for values in (real, synthetic))
        told = {
            "one seed": f"{difference:+.1f} points",
            "within spread": f"{difference:+.1f} points, within the {spread:.1f} between seeds: no effect shown",
            "gain": f"{difference:+.1f} points, more than the {spread:.1f} between seeds: it helped",
            "loss": f"{difference:+.1f} points, more than the {spread:.1f} between seeds: it hurt",
        }[verdict]
        parts.append(f"{change} ({told})")
    sentence = f"{label} {' and '.join(parts) if len(parts) < 3 else ', '.join(parts[:-1]) + ' and ' + parts[-1]}"
    counts = {len(values) for name in (BASELINE, arm) for values in (scores[name][split] for split in splits)}
    if "one seed" in verdicts:
        return f"{sentence}; this is one seed, so no statement about chance is possible."
    return f"{sentence}, with {min(counts)} seeds of the segmenter and one pair of generators."
