"""Our streaming metrics against torchmetrics', which has neither crowds nor scores by label, size and text."""

import numpy as np
import pytest
import torch

from seggen_hf.metrics import MeanIoU, PanopticQuality

torchmetrics = pytest.importorskip("torchmetrics")

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": True},
    {"id": 2, "name": "car", "isthing": True},
    {"id": 7, "name": "sky", "isthing": False},
]
ALL = [*({"id": i, "category_id": 1 + i % 2} for i in range(1, 6)), {"id": 6, "category_id": 7}]
VOID = 9  # no category: torchmetrics takes such pixels of a target for void


def test_mean_iou_is_the_jaccard_index_of_torchmetrics():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 6, (8, 24, 30))
    pred = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, 6, target.shape))
    target[rng.random(target.shape) < 0.2] = 255
    metric = MeanIoU(6)
    metric.update(pred, target)
    theirs = torchmetrics.classification.MulticlassJaccardIndex(6, average="none", ignore_index=255)
    theirs.update(torch.from_numpy(pred), torch.from_numpy(target))
    found = metric.compute()
    assert list(found["per_label"].values()) == pytest.approx(theirs.compute().tolist(), abs=1e-6)
    assert found["mIoU"] == pytest.approx(float(theirs.compute().mean()), abs=1e-6)


def random_image(rng) -> tuple[np.ndarray, list[dict]]:
    """A panoptic map of some of the segments `ALL`, and void."""
    numbers = np.kron(rng.integers(0, 7, (4, 5)), np.ones((4, 4), int))
    return numbers, [segment for segment in ALL if (numbers == segment["id"]).any()]


def as_pairs(panoptic_map: np.ndarray, segments: list[dict], rest: int) -> torch.Tensor:
    """(1, H, W, 2): category and instance of each pixel."""
    category = np.full(panoptic_map.shape, rest)
    for segment in segments:
        category[panoptic_map == segment["id"]] = segment["category_id"]
    return torch.from_numpy(np.stack([category, np.where(category == 7, 0, panoptic_map)], axis=-1))[None]


def test_panoptic_quality_is_that_of_torchmetrics():
    rng = np.random.default_rng(1)
    ours = PanopticQuality(CATEGORIES)
    theirs = torchmetrics.detection.PanopticQuality(
        things={1, 2}, stuffs={7}, allow_unknown_preds_category=True, return_per_class=True, return_sq_and_rq=True
    )
    for _ in range(60):
        target, segments = random_image(rng)
        pred, _ = random_image(rng)
        if rng.random() < 0.7:  # near the truth, so that there are matches
            pred = np.where(rng.random(target.shape) < 0.2, rng.permuted(target), target)
        # Void in predictions is another matter there: it leaves the union too, which the published rules do not say.
        pred[pred == 0] = 6
        found = [segment for segment in ALL if (pred == segment["id"]).any()]
        ours.update((pred, found), (target, segments))
        theirs.update(as_pairs(pred, found, VOID), as_pairs(target, segments, VOID))
    scores = ours.compute()["per_category"]
    # Rows in the order of their categories; columns pq, sq, rq.
    for category, row in zip((1, 2, 7), theirs.compute().tolist(), strict=True):
        assert scores[category]["tp"] > 10
        assert [scores[category][name] for name in ("pq", "sq", "rq")] == pytest.approx(row, abs=1e-6)
