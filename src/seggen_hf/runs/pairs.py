"""Paired differences between two arms, seed by seed, and what they say of chance."""

import math
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student
from scipy.stats import ttest_1samp

BySeed = Mapping[int, float]


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
