"""Mask AP against pycocotools' COCOeval, on random cases and on real nuclei, and by hand."""

import contextlib
import io
import math
import time

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from seggen_hf.data.schema import read_panoptic
from seggen_hf.data.sources.load import load_records
from seggen_hf.metrics import MaskAP, instances_of

CATEGORIES = [{"id": i, "name": f"thing {i}", "isthing": i != 2} for i in (1, 2, 3, 7)]
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


class BoundaryEval(COCOeval):
    """IoU is the smaller one of masks and boundaries, written out plainly."""

    def computeIoU(self, image, category):
        whole = super().computeIoU(image, category)
        if len(whole) == 0:
            return whole
        kept = self._gts[image, category], self._dts[image, category]
        for items in kept:
            for item in items:
                item["whole"] = item["segmentation"]
                item["segmentation"] = plain_boundary(item["whole"])
        edges = super().computeIoU(image, category)
        for items in kept:
            for item in items:
                item["segmentation"] = item["whole"]
        return np.minimum(whole, edges)


def plain_boundary(rle):
    mask = np.pad(mask_utils.decode(rle), 1)
    width = max(1, round(0.02 * math.hypot(mask.shape[0] - 2, mask.shape[1] - 2)))
    inner = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width)
    return mask_utils.encode(np.asfortranarray((mask - inner)[1:-1, 1:-1].astype(np.uint8)))


def coco_scores(images, categories=CATEGORIES, evaluator=COCOeval):
    """COCOeval's twelve numbers and AP of each thing; None for its -1."""
    things = [category for category in categories if category["isthing"]]
    truth, results = COCO(), []
    height, width = next((item["mask"].shape for image in images for part in image for item in part), (1, 1))
    listed = [{"id": i, "height": height, "width": width} for i in range(len(images))]
    truth.dataset = {"info": {}, "images": listed, "categories": things}
    truth.dataset["annotations"] = annotations = []
    for image, (pred, target) in enumerate(images):
        for item in target:
            rle = mask_utils.encode(np.asfortranarray(item["mask"].astype(np.uint8)))
            area = float(item.get("area", mask_utils.area(rle)))
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": item["category_id"], "area": area}
            annotations.append(entry | {"segmentation": rle, "iscrowd": int(item.get("iscrowd", 0))})
        for item in pred:
            rle = mask_utils.encode(np.asfortranarray(item["mask"].astype(np.uint8)))
            results.append({"image_id": image, "category_id": item["category_id"], "score": item["score"]})
            results[-1]["segmentation"] = rle
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(results) if results else COCO()
        if not results:
            found.dataset = truth.dataset | {"annotations": []}
            found.createIndex()
        run = evaluator(truth, found, "segm")
        run.params.catIds = [category["id"] for category in things]
        run.evaluate()
        run.accumulate()
        run.summarize()
    stats = [None if value == -1 else float(value) for value in run.stats]
    precision = run.eval["precision"][..., 0, -1]  # (thresholds, recalls, categories)
    per = [precision[..., k][precision[..., k] > -1] for k in range(len(things))]
    per = {c["id"]: float(p.mean()) if p.size else None for c, p in zip(things, per, strict=True)}
    return dict(zip(NAMES, stats[:6], strict=True)) | {"AR": stats[8], "per_category": per}


def our_scores(images, categories=CATEGORIES, **settings):
    metric = MaskAP(categories, **settings)
    for pred, target in images:
        metric.update(pred, target)
    return metric.compute()


def assert_equal(ours, theirs):
    for name, expected in theirs.items():
        if name == "per_category":
            assert_equal(ours[name], expected)
        elif expected is None:
            assert ours[name] is None, name
        else:
            assert ours[name] == pytest.approx(expected, abs=1e-9), name


def draw_images(seed, num_images=6, size=(150, 170), most=12):
    """Boxes and discs of all area ranges; predictions are true ones moved, doubled, left out and made up."""
    rng = np.random.default_rng(seed)
    ys, xs = np.indices(size)

    def shape():
        y, x, r = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.choice([4, 9, 18, 60])
        if rng.random() < 0.5:
            return (abs(ys - y) <= r) & (abs(xs - x) <= r * rng.uniform(0.5, 1.5))
        return (ys - y) ** 2 + (xs - x) ** 2 <= r * r

    images = []
    for _ in range(num_images):
        target, pred = [], []
        for _ in range(rng.integers(0, most)):
            mask, category = shape(), int(rng.choice([1, 3, 3, 7, 2]))
            if not mask.any():
                continue
            target.append({"category_id": category, "mask": mask, "iscrowd": bool(rng.random() < 0.15)})
            if rng.random() < 0.2:
                target[-1]["area"] = float(rng.choice([100, 1024, 5000, 9216, 20_000]))
            for _ in range(rng.integers(0, 3)):
                moved = np.roll(mask, rng.integers(-4, 5, 2), (0, 1))
                pred.append({"category_id": category, "mask": moved, "score": round(float(rng.random()), 1)})
        for _ in range(rng.integers(0, 4)):
            pred.append({"category_id": int(rng.choice([1, 3])), "mask": shape(), "score": float(rng.random())})
        images.append(([p for p in pred if p["mask"].any()], target))
    return images


def things_only(images):
    return [tuple([item for item in part if item["category_id"] != 2] for part in image) for image in images]


@pytest.mark.parametrize("seed", range(12))
def test_random_cases_equal_pycocotools(seed):
    images = draw_images(seed)
    assert_equal(our_scores(images), coco_scores(things_only(images)))


@pytest.mark.parametrize("seed", range(100, 104))
def test_boundary_ap_equals_the_plain_rule(seed):
    images = things_only(draw_images(seed))
    ours = our_scores(images, boundary=True)
    assert_equal(ours, coco_scores(images, evaluator=BoundaryEval))
    assert ours["AP"] < our_scores(images)["AP"]


def test_more_than_100_instances_and_none_at_all():
    rng = np.random.default_rng(0)
    many = []
    for i in range(130):
        mask = np.zeros((60, 60), bool)
        y, x = divmod(i, 12)
        mask[5 * y : 5 * y + 4, 5 * x : 5 * x + 4] = True
        many.append({"category_id": 1, "mask": mask, "score": float(rng.random())})
    target = [{"category_id": 1, "mask": item["mask"]} for item in many]
    images = [(many, target), ([], target[:3]), (many[:2], []), ([], [])]
    ours = our_scores(images)
    assert_equal(ours, coco_scores(images))
    assert ours["AR"] == pytest.approx(100 / 133)
    nothing = our_scores([([], [])])
    assert nothing["AP"] is None and nothing["per_category"] == {1: None, 3: None, 7: None}


def test_by_hand():
    """One image of 10 x 10 pixels, two true instances of 20 pixels, three predictions.

    Scores 0.9: 20 of 20 pixels of the first, IoU 1. 0.8: nothing true. 0.7: 15 of the second's 20 pixels and none
    beside, IoU 0.75, so a match at the thresholds 0.50 to 0.75, six of ten. Precision by rank at these: 1, 1/2, 2/3,
    made monotone 1, 2/3, 2/3; recall 1/2, 1/2, 1. The 51 recalls 0 to 0.5 have precision 1, the 50 above have 2/3:
    AP = (51 + 50 * 2/3) / 101. At the four other thresholds only the first matches: AP = 51 / 101.
    """
    first, second, wrong = (np.zeros((10, 10), bool) for _ in range(3))
    first[:2], second[5:7], wrong[9] = True, True, True
    part = second.copy()
    part[5, :5] = False
    pred = [{"category_id": 1, "mask": m, "score": s} for m, s in ((first, 0.9), (wrong, 0.8), (part, 0.7))]
    target = [{"category_id": 1, "mask": m} for m in (first, second)]
    scores = our_scores([(pred, target)])
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert scores["AP50"] == pytest.approx(both) and scores["AP75"] == pytest.approx(both)
    assert scores["AP"] == pytest.approx((6 * both + 4 * one) / 10)
    assert scores["AP_small"] == scores["AP"] and scores["AP_large"] is None
    assert scores["AR"] == pytest.approx((6 * 1 + 4 * 0.5) / 10)
    assert scores["per_category"] == {1: scores["AP"], 3: None, 7: None}


def test_processes_and_order_make_no_difference():
    images = draw_images(7, num_images=9)  # scores of one decimal: many are equal
    whole, parts = MaskAP(CATEGORIES), [MaskAP(CATEGORIES) for _ in range(3)]
    for key, image in enumerate(images):
        whole.update(*image, key=key)
    for key, image in reversed(list(enumerate(images))):
        parts[key % 3].update(*image, key=key)
    gathered = MaskAP(CATEGORIES).load_state([part.state for part in parts])
    merged = parts[0].merge(parts[2]).merge(parts[1])
    assert gathered.compute() == merged.compute() == whole.compute()
    assert whole.state["detections"].itemsize == 40
    with pytest.raises(ValueError, match="same categories and settings"):
        whole.merge(MaskAP(CATEGORIES, boundary=True))


def test_what_cannot_be_scored_is_refused():
    mask, metric = np.ones((4, 4), bool), MaskAP(CATEGORIES)
    with pytest.raises(ValueError, match="category 9, which is not in categories"):
        metric.update([{"category_id": 9, "mask": mask, "score": 1.0}], [])
    with pytest.raises(ValueError, match="score is nan"):
        metric.update([{"category_id": 1, "mask": mask, "score": math.nan}], [])
    with pytest.raises(ValueError, match="sizes"):
        metric.update([{"category_id": 1, "mask": mask, "score": 1.0}], [{"category_id": 1, "mask": mask[:3]}])
    with pytest.raises(ValueError, match="bool or COCO's RLE"):
        metric.update([{"category_id": 1, "mask": mask * 0.5, "score": 1.0}], [])
    with pytest.raises(ValueError, match="at least one thing"):
        MaskAP([{"id": 0, "name": "sky", "isthing": 0}])


@pytest.mark.slow
def test_real_nuclei_equal_pycocotools_and_faster(shared_data_dir):
    records = load_records(shared_data_dir / "nuclei", "val", max_records=20)
    categories = [{"id": 0, "name": "background", "isthing": 0}, {"id": 1, "name": "nucleus", "isthing": 1}]
    rng, images = np.random.default_rng(0), []
    for record in records:
        target = instances_of(read_panoptic(record["panoptic_map"]), record["segments_info"])
        target = [item | {"mask": mask_utils.decode(item["mask"]).astype(bool)} for item in target]
        pred = []
        for item in target:
            if rng.random() < 0.8:
                moved = np.roll(item["mask"], rng.integers(-2, 3, 2), (0, 1))
                pred.append({"category_id": 1, "mask": moved, "score": float(rng.random())})
        images.append((pred, target))
    started = time.perf_counter()
    ours = our_scores(images, categories)
    ours_seconds = time.perf_counter() - started
    started = time.perf_counter()
    assert_equal(ours, coco_scores(images, categories))
    assert 0.1 < ours["AP"] < 0.9
    assert ours_seconds < time.perf_counter() - started
