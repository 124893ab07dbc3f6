import json

import numpy as np
import pytest

from seggen_hf.metrics import MeanIoU


def maps(seed=0, shape=(6, 20, 30), num_labels=5):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_labels, shape)
    target[rng.random(shape) < 0.2] = 255
    pred = np.where(rng.random(shape) < 0.5, target, rng.integers(0, num_labels, shape))
    return np.where(pred == 255, 0, pred), target


def test_the_score_is_that_of_sets_of_pixels():
    pred, target = maps()
    metric = MeanIoU(5)
    metric.update(pred, target)
    scores = metric.compute()
    valid = target != 255
    for label in range(5):
        a, b = (pred == label) & valid, (target == label) & valid
        assert scores["per_label"][label] == pytest.approx((a & b).sum() / (a | b).sum())
    assert scores["mIoU"] == pytest.approx(np.mean(list(scores["per_label"].values())))
    assert scores["pixel_accuracy"] == pytest.approx((pred == target)[valid].mean())
    assert scores["mean_accuracy"] == pytest.approx(np.mean([(pred == i)[target == i].mean() for i in range(5)]))
    assert scores["num_pixels"] == valid.sum()
    json.dumps(scores)


def test_streaming_and_merging_equal_one_update():
    pred, target = maps()
    whole, even, odd = MeanIoU(5), MeanIoU(5), MeanIoU(5)
    whole.update(pred, target)
    for i in range(len(pred)):
        (odd if i % 2 else even).update(pred[i], target[i])
    summed = MeanIoU(5)
    summed.state = even.state + odd.state
    assert summed.compute() == even.merge(odd).compute() == whole.compute()
    assert whole.state.dtype == np.int64


def test_absent_labels_are_excluded_and_false_ones_count_as_zero():
    metric = MeanIoU(4)
    metric.update(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 0, 0]]))
    scores = metric.compute()
    assert scores["per_label"] == {0: 0.5, 1: None, 2: 0.0, 3: None}
    assert scores["mIoU"] == 0.25


def test_predicting_ignored_is_an_error_where_the_target_is_valid():
    metric = MeanIoU(2)
    metric.update(np.array([0, 255, 255]), np.array([0, 0, 255]))
    scores = metric.compute()
    assert scores["per_label"] == {0: 0.5, 1: None}
    assert (scores["num_pixels"], scores["pixel_accuracy"]) == (2, 0.5)


def test_pixels_of_a_full_size_test_set_are_counted_to_the_last():
    """2^40 pixels of both labels, by a state that is merged, and one that is wrong; the ids as uint8."""
    before, metric = MeanIoU(2), MeanIoU(2)
    before.state[:] = [[2**40, 0, 0], [0, 2**40, 0]]
    metric.update(np.array([1, 1], np.uint8), np.array([1, 0], np.uint8))
    assert metric.merge(before).state.tolist() == [[2**40, 1, 0], [0, 2**40 + 1, 0]]
    scores = metric.compute()
    assert scores["num_pixels"] == 2**41 + 2 and scores["pixel_accuracy"] == (2**41 + 1) / (2**41 + 2)
    assert scores["per_label"] == {0: 2**40 / (2**40 + 1), 1: (2**40 + 1) / (2**40 + 2)}


def test_labels_beyond_a_byte_have_cells_of_their_own():
    """400 labels: target by prediction has 160,000 cells, which no id's own type can number."""
    metric = MeanIoU(400, 65535)
    ids = np.arange(400, dtype=np.uint16)
    metric.update(ids[::-1].copy(), ids)
    assert metric.state.sum() == 400 and (metric.state[ids, ids[::-1]] == 1).all()


def test_nothing_counted_gives_none():
    metric = MeanIoU(2)
    metric.update(np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8))
    assert metric.compute()["mIoU"] is None


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        ([0, 1], [0, 1, 1], "shape"),
        ([0, 7], [0, 1], r"prediction holds ids \[7\]"),
        ([0, 3], [0, 1], r"prediction holds ids \[3\]"),  # the column that counts ignored predictions is no id
        ([0, 1], [0, 9], r"target holds ids \[9\]"),
        ([0, 1], [0, -1], r"target holds ids \[-1\]"),
    ],
)
def test_wrong_maps_are_named(pred, target, message):
    with pytest.raises(ValueError, match=message):
        MeanIoU(3).update(np.array(pred), np.array(target))
