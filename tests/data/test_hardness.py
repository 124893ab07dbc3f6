"""Synthetic records that a segmenter finds hard are drawn more often."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from seggen_hf.config import SegmenterConfig
from seggen_hf.data.hardness import hardness_weights
from seggen_hf.data.mixture import RecordMixture

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def filtered(kept):
    return Dataset.from_dict({"scores": [{"alignment": share} for share in kept]})


@given(SHARES, st.floats(0, 1))
def test_less_kept_is_never_drawn_less(kept, power):
    weights = hardness_weights(filtered(kept), power)
    assert weights.sum() == pytest.approx(1) and (weights > 0).all()
    for one, other in zip(np.argsort(kept)[:-1], np.argsort(kept)[1:], strict=True):
        assert weights[one] >= weights[other] or kept[one] == kept[other] and weights[one] == weights[other]
    if power == 0:
        assert np.allclose(weights, 1 / len(kept))


def test_the_share_grows_with_the_rank():
    assert hardness_weights(filtered([0.9, 0.5, 0.1]), 1.0).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert hardness_weights(filtered([0.9, 0.9, 0.1]), 1.0).tolist() == pytest.approx([1.5 / 6, 1.5 / 6, 3 / 6])


def test_a_mixture_draws_by_these_weights():
    config = SegmenterConfig(max_train_steps=10, p_aug=1.0, synthetic_dataset="x")
    weights = hardness_weights(filtered([0.9, 0.5, 0.1]), 1.0)
    mixture, rng = RecordMixture(5, 3, config, synthetic_weights=weights), np.random.default_rng(0)
    drawn = [mixture.pick(0, rng, 0) for _ in range(6000)]
    assert all(is_synthetic for is_synthetic, _ in drawn)
    shares = np.bincount([index for _, index in drawn], minlength=3) / len(drawn)
    assert np.abs(shares - weights).max() < 0.03


@pytest.mark.parametrize(
    "records",
    [
        Dataset.from_dict({"image_id": ["a"]}),
        Dataset.from_dict({"scores": [{"num_labels": 1.0}]}),
        Dataset.from_dict({"scores": [{"alignment": 0.5}, {"alignment": None}]}),
    ],
)
def test_records_that_nobody_filtered_are_refused(records):
    with pytest.raises(ValueError, match="needs records whose agreement"):
        hardness_weights(records, 1.0)
