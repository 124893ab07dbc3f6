"""Differences are of pairs, and chance is told as scipy has it."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from seggen_hf.runs.pairs import paired_difference


def test_differences_are_paired_and_tested():
    rng = np.random.default_rng(0)
    for count in (2, 3, 5):
        real, gain = rng.random(count), rng.normal(0.02, 0.01, count)
        mean, half, p = paired_difference(dict(enumerate(real)), dict(enumerate(real + gain)))
        expected = ttest_rel(real + gain, real)
        interval = expected.confidence_interval()
        assert mean == pytest.approx(gain.mean()) and p == pytest.approx(expected.pvalue)
        assert half == pytest.approx((interval.high - interval.low) / 2)
    assert paired_difference({0: 0.5, 1: 0.6}, {1: 0.7, 2: 0.9}) == (pytest.approx(0.1), None, None)
    assert math.isnan(paired_difference({0: 0.5}, {1: 0.5})[0])
