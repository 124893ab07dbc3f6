import json

import numpy as np
import pytest

from seggen_hf.metrics import PanopticQuality

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": True},
    {"id": 2, "name": "car", "isthing": True},
    {"id": 7, "name": "sky", "isthing": False},
]


def segment(id, category_id, **more):
    return {"id": id, "category_id": category_id, **more}


def score(pred, target):
    metric = PanopticQuality(CATEGORIES)
    metric.update(pred, target)
    return metric.compute()


def test_a_perfect_prediction_under_other_ids():
    target = (np.array([[1, 1, 2, 2], [3, 3, 3, 3]]), [segment(1, 1), segment(2, 1), segment(3, 7)])
    pred = (np.array([[9, 9, 5, 5], [4, 4, 4, 4]]), [segment(9, 1), segment(5, 1), segment(4, 7)])
    scores = score(pred, target)
    assert (scores["pq"], scores["sq"], scores["rq"], scores["num_categories"]) == (1, 1, 1, 2)
    assert scores["things"]["num_categories"] == scores["stuff"]["num_categories"] == 1
    assert scores["per_category"][2]["pq"] is None  # no car anywhere
    json.dumps(scores)


def test_a_hand_worked_image():
    """10 pixels. Person A (4 px) is found with 3 of them and 1 of sky: IoU 3/5, a match. Person B (2 px) is missed.
    Sky (4 px) is found with 3: IoU 3/4. A predicted car covers B and one pixel of A: of another class, so false.
    """
    target = (np.array([[1, 1, 1, 1, 2, 2, 3, 3, 3, 3]]), [segment(1, 1), segment(2, 1), segment(3, 7)])
    pred = (np.array([[1, 1, 1, 4, 4, 4, 1, 3, 3, 3]]), [segment(1, 1), segment(4, 2), segment(3, 7)])
    scores = score(pred, target)
    assert scores["per_category"][1] == pytest.approx(
        {"pq": 0.6 / 1.5, "sq": 0.6, "rq": 1 / 1.5, "tp": 1, "fp": 0, "fn": 1}
    )
    assert scores["per_category"][2] == pytest.approx({"pq": 0, "sq": 0, "rq": 0, "tp": 0, "fp": 1, "fn": 0})
    assert scores["per_category"][7] == pytest.approx({"pq": 0.75, "sq": 0.75, "rq": 1, "tp": 1, "fp": 0, "fn": 0})
    assert scores["pq"] == pytest.approx((0.4 + 0 + 0.75) / 3)
    assert scores["things"]["pq"] == pytest.approx(0.2) and scores["stuff"]["pq"] == pytest.approx(0.75)


def test_exactly_half_is_no_match():
    target = (np.array([[1, 1]]), [segment(1, 1)])
    person = score((np.array([[1, 0]]), [segment(1, 1)]), target)["per_category"][1]
    assert (person["tp"], person["fp"], person["fn"]) == (0, 1, 1)


def test_void_pixels_leave_the_union_and_excuse_what_lies_on_them():
    target = (np.array([[1, 1, 0, 0, 0, 0, 7, 7]]), [segment(1, 1), segment(7, 7)])
    # A person of 4 px, 2 of them void: IoU 2 / 2. A car on void with 2 of 3 px: excused. Another with 1 of 2: not.
    pred = (np.array([[3, 3, 3, 3, 4, 4, 4, 5]]), [segment(3, 1), segment(4, 2), segment(5, 2)])
    scores = score(pred, target)
    assert scores["per_category"][1]["pq"] == 1
    assert scores["per_category"][2]["fp"] == 1
    assert scores["per_category"][7]["fn"] == 1


def test_a_crowd_is_no_target_and_excuses_its_own_class_alone():
    target = (np.array([[1, 1, 1, 1, 2, 2]]), [segment(1, 1, iscrowd=True), segment(2, 7)])
    scores = score((np.array([[8, 8, 9, 9, 2, 2]]), [segment(8, 1), segment(9, 2), segment(2, 7)]), target)
    assert scores["per_category"][1]["pq"] is None  # neither missed nor false
    assert scores["per_category"][2]["fp"] == 1
    assert scores["per_category"][7]["pq"] == 1


def brute_force(pred, target):
    """The published rules with sets of pixels."""
    (pred_map, pred_segments), (target_map, target_segments) = pred, target
    counts = {c["id"]: [0.0, 0, 0, 0] for c in CATEGORIES}
    void = target_map == 0
    matched = set()
    for t in target_segments:
        here = target_map == t["id"]
        if t.get("iscrowd") or not here.any():
            continue
        for p in pred_segments:
            there = pred_map == p["id"]
            iou = (here & there).sum() / max(((here | there) & ~(void & there)).sum(), 1)
            if p["category_id"] == t["category_id"] and iou > 0.5:
                counts[t["category_id"]][0] += iou
                counts[t["category_id"]][1] += 1
                matched.add(p["id"])
                break
        else:
            counts[t["category_id"]][3] += 1
    for p in pred_segments:
        there = pred_map == p["id"]
        if p["id"] in matched or not there.any():
            continue
        excused = void.copy()
        for t in target_segments:
            excused |= (target_map == t["id"]) if t.get("iscrowd") and t["category_id"] == p["category_id"] else False
        counts[p["category_id"]][2] += (there & excused).sum() <= 0.5 * there.sum()
    return counts


def random_side(rng, crowds=False):
    size, ids = (12, 14), rng.permutation(np.arange(1, 7))
    blocks = rng.integers(0, 7, (3, 4))
    grown = np.kron(blocks, np.ones((4, 4), int))[: size[0], : size[1]]
    panoptic_map = np.concatenate([[0], ids])[grown]
    segments = [segment(int(i), int(rng.choice([1, 2, 7]))) for i in ids]
    for s in segments:
        s["iscrowd"] = bool(crowds and s["category_id"] != 7 and rng.random() < 0.3)
    return panoptic_map, segments


def test_random_images_equal_the_rules_written_with_sets_and_merging_adds_up():
    rng = np.random.default_rng(0)
    whole, parts, expected = PanopticQuality(CATEGORIES), [], {c["id"]: np.zeros(4) for c in CATEGORIES}
    for _ in range(200):
        target = random_side(rng, crowds=True)
        noise = rng.random(target[0].shape) < 0.15
        pred_map, pred_segments = random_side(rng)
        if rng.random() < 0.7:  # near the truth, so that there are matches
            pred_map = np.where(noise, 0, target[0])
            pred_segments = [segment(s["id"], s["category_id"]) for s in target[1]]
        parts.append(PanopticQuality(CATEGORIES))
        for metric in (whole, parts[-1]):
            metric.update((pred_map, pred_segments), target)
        for id, row in brute_force((pred_map, pred_segments), target).items():
            expected[id] += row
    scores = whole.compute()
    for id, (iou, tp, fp, fn) in expected.items():
        found = scores["per_category"][id]
        assert (found["tp"], found["fp"], found["fn"]) == (tp, fp, fn) and min(tp, fp, fn) > 10
        assert found["pq"] == pytest.approx(iou / (tp + fp / 2 + fn / 2), abs=1e-12)
    merged = PanopticQuality(CATEGORIES)
    for part in parts:
        merged.merge(part)
    assert np.array_equal(merged.counts, whole.counts) and np.allclose(merged.iou, whole.iou, rtol=1e-12)


def test_maps_and_segments_that_do_not_belong_together_are_refused():
    good = (np.array([[1]]), [segment(1, 1)])
    with pytest.raises(ValueError, match=r"segments \[2\]"):
        score((np.array([[2]]), [segment(1, 1)]), good)
    with pytest.raises(ValueError, match="category 3"):
        score((np.array([[1]]), [segment(1, 3)]), good)
    with pytest.raises(ValueError, match="twice"):
        score((np.array([[1]]), [segment(1, 1), segment(1, 1)]), good)
    with pytest.raises(ValueError, match="shape"):
        score((np.array([[1, 1]]), [segment(1, 1)]), good)
    with pytest.raises(ValueError, match="merged"):
        PanopticQuality(CATEGORIES).merge(PanopticQuality(CATEGORIES[:2]))
