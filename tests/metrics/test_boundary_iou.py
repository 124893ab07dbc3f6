import math

import numpy as np
import pytest
from scipy import ndimage

from seggen_hf.metrics import BoundaryIoU
from seggen_hf.metrics.boundary_iou import boundary_pixels


def some_map(rng, shape=(40, 56), num_labels=4):
    coarse = rng.integers(0, num_labels, (shape[0] // 8, shape[1] // 8))
    return np.kron(coarse, np.ones((8, 8), int))


def eroded_away(mask, width):
    """The paper's own definition, class by class: the mask without what is left after `width` erosions."""
    inner = ndimage.binary_erosion(mask, np.ones((3, 3), bool), iterations=width, border_value=0)
    return mask & ~inner


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_boundary_of_all_classes_is_that_of_each_one(width):
    segmentation_map = some_map(np.random.default_rng(width))
    expected = np.zeros(segmentation_map.shape, bool)
    for label in range(4):
        expected |= eroded_away(segmentation_map == label, width)
    assert np.array_equal(boundary_pixels(segmentation_map, width), expected)
    assert 0 < expected.mean() < 1


def test_the_score_is_that_of_sets_of_pixels_and_merging_adds_up():
    rng = np.random.default_rng(0)
    whole, parts, counts = BoundaryIoU(4), [], np.zeros((4, 2))
    for _ in range(5):
        target = some_map(rng)
        target[5:9, 5:20] = 255
        pred = np.roll(np.where(target == 255, 0, target), 1, axis=1)
        parts.append(BoundaryIoU(4))
        for metric in (whole, parts[-1]):
            metric.update(pred, target)
        width, counted = round(0.02 * math.hypot(*target.shape)), target != 255
        for label in range(4):
            a, b = (eroded_away(m == label, width) & counted for m in (pred, target))
            counts[label] += (a & b).sum(), (a | b).sum()
    scores = whole.compute()
    assert scores["per_label"] == pytest.approx(dict(enumerate(counts[:, 0] / counts[:, 1])))
    assert 0.2 < scores["boundary_iou"] < 0.9
    merged = BoundaryIoU(4)
    for part in parts:
        merged.merge(part)
    assert merged.compute() == scores


def test_contours_are_told_where_regions_hide_them():
    """One pixel of shift in a large region: hardly any area, a third of the contour."""
    target = np.zeros((200, 200), int)
    target[50:150, 50:150] = 1
    metric = BoundaryIoU(2, dilation_ratio=0.01)
    metric.update(np.roll(target, 1, axis=1), target)
    shifted = metric.compute()["per_label"][1]
    assert shifted < 0.85 < 99 / 101
    perfect = BoundaryIoU(3)
    perfect.update(target, target)
    assert perfect.compute()["per_label"] == {0: 1.0, 1: 1.0, 2: None} and perfect.compute()["boundary_iou"] == 1


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="shapes"):
        BoundaryIoU(2).update(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="id 2"):
        BoundaryIoU(2).update(np.full((2, 2), 2), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="dilation_ratio"):
        BoundaryIoU(2, dilation_ratio=0)
    with pytest.raises(ValueError, match="merged"):
        BoundaryIoU(2).merge(BoundaryIoU(3))
