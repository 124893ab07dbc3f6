"""Paired differences between two arms, seed by seed, what they say of chance, and which runs make one comparison."""

import math
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student
from scipy.stats import ttest_1samp

from ..config import HOW_ONLY, SECTIONS, Recipe
from ..config.values import list_differing
from ..storage.digests import json_digest

BySeed = Mapping[int, float]
# What may differ between runs of one comparison: what seeds change, which arms there are, and where the data lies.
_FREE = {"seed", "seeds", "arms", "dataset_name", "unlabelled", "max_train_records", "train_records_seed"}


def protocol_digest(recipe: Recipe) -> str:
    """Equal for runs whose scores may stand in one table: of what their recipes set, without what may differ there.

    A setting at its default does not count, so that new settings leave what was measured before they came as it is.
    """
    free = HOW_ONLY | _FREE
    return json_digest({
        name: {key: value for key, value in list_differing(getattr(recipe, name)).items() if key not in free}
        for name in SECTIONS
    })  # fmt: skip


def paired_difference(base: BySeed, other: BySeed) -> tuple[float, float | None, float | None]:
    """Of the seeds that both have: the mean of `other - base`, half of its 95% confidence interval, and p of a paired
    t-test against none; NaN without any pair, and None twice where there are too few to tell."""
    pairs = [other[seed] - base[seed] for seed in sorted(base.keys() & other.keys())]
    if not pairs:
        return math.nan, None, None
    if len(pairs) < 2 or stdev(pairs) == 0:
        return fmean(pairs), None, None
    half = student.ppf(0.975, len(pairs) - 1) * stdev(pairs) / math.sqrt(len(pairs))
    result: Any = ttest_1samp(pairs, 0)  # its type hides what it has
    return fmean(pairs), float(half), float(result.pvalue)
