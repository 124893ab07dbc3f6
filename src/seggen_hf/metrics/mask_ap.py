"""COCO's average precision of instance masks, and its boundary form (Cheng et al., arXiv:2103.16562)."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pycocotools import mask as mask_utils

from .instance_matching import AREA_RANGES, IOU_THRESHOLDS, boundary_masks, mask_iou, match_instances, to_rle

MASK_AP_PROTOCOL = (
    "COCO's average precision: per class and image the {max_detections} best instances, matched greedily by score to "
    "the true instance of the largest IoU; mean of the precision at 101 recalls, over IoU thresholds 0.50 to 0.95 in "
    "steps of 0.05 (AP50, AP75: one threshold) and the classes that occur. Crowds and instances outside the area "
    "range (small under 32^2 pixels, large above 96^2) count neither for nor against."
)
BOUNDARY_PROTOCOL = " IoU is the smaller one of masks and of their boundaries, {ratio:g} of the diagonal wide."
RECALLS = np.linspace(0.0, 1.0, 101)
_DETECTION = np.dtype([
    ("key", np.int64), ("place", np.int32), ("row", np.int32), ("score", np.float64),
    ("matched", np.uint16, len(AREA_RANGES)), ("ignored", np.uint16, len(AREA_RANGES)),
])  # fmt: skip


class MaskAP:
    """Streaming AP of instance segmentation, equal to `pycocotools`' COCOeval.

    No mask is kept: an instance leaves 40 bytes, its score and at which thresholds it was matched. They are needed to
    the end, since AP ranks the instances of all images.

    Args:
        categories: `{"id", "name", "isthing"}` each; only things are scored.
        boundary (`bool`): IoU is the smaller one of masks and boundaries.
        dilation_ratio (`float`): width of a boundary as a share of the image's diagonal; 0.02 in the paper.
        max_detections (`int`): of each class in an image; those of the highest scores.
    """

    def __init__(
        self,
        categories: Sequence[Mapping],
        boundary: bool = False,
        dilation_ratio: float = 0.02,
        max_detections: int = 100,
    ):
        self.categories = [int(category["id"]) for category in categories if category["isthing"]]
        if not self.categories or len(set(self.categories)) != len(self.categories):
            raise ValueError("categories must hold at least one thing, and each id once.")
        if not dilation_ratio > 0 or max_detections < 1:
            raise ValueError(
                f"dilation_ratio is {dilation_ratio} and max_detections {max_detections}; both must be positive."
            )
        self.boundary, self.dilation_ratio, self.max_detections = boundary, dilation_ratio, max_detections
        self._known = {int(category["id"]) for category in categories}
        self._row = {id: row for row, id in enumerate(self.categories)}
        self.num_targets = np.zeros((len(self.categories), len(AREA_RANGES)), np.int64)
        self._detections: list[np.ndarray] = []
        self._updates = 0

    def update(self, pred: Iterable[Mapping], target: Iterable[Mapping], key: int | None = None) -> None:
        """Add one image.

        Args:
            pred: for each instance `category_id`, `score` and `mask`: bool `(height, width)`, or compressed RLE.
            target: for each true instance `category_id`, `mask`, and optionally `iscrowd` and `area` (else the mask's
                pixels, which decide its area range). See `instances_of`.
            key: the image's place among all: of instances with equal scores those of earlier images come first. The
                number of earlier updates if not given.

        Raises: `ValueError` for a category that is not known, a score that is no number, and masks of other sizes.
        """
        key, self._updates = self._updates if key is None else int(key), self._updates + 1
        found = _by_category(pred, self._known, "prediction")
        true = _by_category(target, self._known, "target")
        sizes = {tuple(item["mask"]["size"]) for items in (*found.values(), *true.values()) for item in items}
        if len(sizes) > 1:
            raise ValueError(f"The masks of one image have sizes {sorted(sizes)}; resize predictions to the target's.")
        for category in (found.keys() | true.keys()) & self._row.keys():
            self._update_category(self._row[category], found.get(category, []), true.get(category, []), key)

    def _update_category(self, row: int, pred: list[dict], target: list[dict], key: int) -> None:
        scores = np.array([float(item["score"]) for item in pred], np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(f"A score is {scores[~np.isfinite(scores)][0]}; scores must be finite.")
        order = np.argsort(-scores, kind="stable")[: self.max_detections]
        masks, true_masks = [pred[i]["mask"] for i in order], [item["mask"] for item in target]
        is_crowd = np.array([bool(item.get("iscrowd", False)) for item in target], bool)
        iou = mask_iou(masks, true_masks, is_crowd)
        if self.boundary:
            edges, true_edges = (boundary_masks(part, self.dilation_ratio) for part in (masks, true_masks))
            iou = np.minimum(iou, mask_iou(edges, true_edges, is_crowd))
        areas = np.array([float(mask_utils.area(mask)) for mask in masks])
        true_areas = np.array([float(item.get("area", mask_utils.area(item["mask"]))) for item in target])
        matched, ignored, num_targets = match_instances(iou, is_crowd, areas, true_areas)
        self.num_targets[row] += num_targets
        entries = np.zeros(len(order), _DETECTION)
        entries["key"], entries["place"], entries["row"] = key, np.arange(len(order)), row
        entries["score"], entries["matched"], entries["ignored"] = scores[order], matched, ignored
        self._detections.append(entries)
        if len(self._detections) > 1000:
            self._detections = [np.concatenate(self._detections)]

    @property
    def state(self) -> dict[str, np.ndarray]:
        """All that was counted; states of several processes go to `load_state` together."""
        detections = np.concatenate([np.zeros(0, _DETECTION), *self._detections])
        return {"num_targets": self.num_targets.copy(), "detections": detections}

    def load_state(self, states: Sequence[Mapping[str, np.ndarray]]) -> "MaskAP":
        """Replace what was counted by the sum of `states`; returns self."""
        self.num_targets = np.sum([state["num_targets"] for state in states], axis=0)
        self._detections = [state["detections"] for state in states]
        return self

    def merge(self, other: "MaskAP") -> "MaskAP":
        """Add the instances of `other`, which saw other images (with keys of their own); returns self."""
        mine = (self.categories, self.boundary, self.dilation_ratio, self.max_detections)
        if (other.categories, other.boundary, other.dilation_ratio, other.max_detections) != mine:
            raise ValueError("Only metrics of the same categories and settings can be merged.")
        return self.load_state([self.state, other.state])

    def compute(self) -> dict:
        """Return the scores so far; shares in [0, 1], None where no true instance was counted.

        Returns: `AP`, `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large`, `AR` (recall at `max_detections`),
            `per_category` ({id: AP}), `protocol`.
        """
        detections = self.state["detections"]
        detections = detections[np.lexsort((detections["place"], detections["key"], -detections["score"]))]
        shape = (len(self.categories), len(AREA_RANGES), len(IOU_THRESHOLDS))
        precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
        bits = 1 << np.arange(len(IOU_THRESHOLDS))
        for row in range(len(self.categories)):
            mine = detections[detections["row"] == row]
            for area in range(len(AREA_RANGES)):
                if self.num_targets[row, area] == 0:
                    continue
                matched = (mine["matched"][:, area, None] & bits) > 0
                counted = (mine["ignored"][:, area, None] & bits) == 0
                hits, misses = (matched & counted).cumsum(0), (~matched & counted).cumsum(0)
                recalls = hits / self.num_targets[row, area]
                precisions = hits / (hits + misses + np.spacing(1))
                precisions = np.maximum.accumulate(precisions[::-1])[::-1]
                for threshold in range(len(IOU_THRESHOLDS)):
                    places = np.searchsorted(recalls[:, threshold], RECALLS, side="left")
                    reached = places[places < len(mine)]
                    precision[row, area, threshold] = precisions[reached, threshold].sum() / len(RECALLS)
                    recall[row, area, threshold] = recalls[-1, threshold] if len(mine) else 0.0
        names = ("AP", "AP_small", "AP_medium", "AP_large")
        scores = {name: _mean(precision[:, area]) for area, name in enumerate(names)}
        scores |= {"AP50": _mean(precision[:, 0, 0]), "AP75": _mean(precision[:, 0, 5]), "AR": _mean(recall[:, 0])}
        protocol = MASK_AP_PROTOCOL.format(max_detections=self.max_detections)
        protocol += BOUNDARY_PROTOCOL.format(ratio=self.dilation_ratio) if self.boundary else ""
        per_category = {id: _mean(precision[row, 0]) for row, id in enumerate(self.categories)}
        return scores | {"per_category": per_category, "protocol": protocol}


def instances_of(panoptic_map: np.ndarray, segments_info: Sequence[Mapping]) -> list[dict]:
    """The true instances of a panoptic map, for `MaskAP.update`: its things, crowds too; those without a pixel are
    left out.

    Args:
        panoptic_map: `(height, width)` segment ids; `segments_info`: `id`, `category_id`, `isthing`, `iscrowd`.
    """
    present = set(np.unique(panoptic_map).tolist())
    return [
        {
            "category_id": segment["category_id"],
            "iscrowd": bool(segment.get("iscrowd", False)),
            "mask": to_rle(panoptic_map == segment["id"]),
        }
        for segment in segments_info
        if segment["isthing"] and segment["id"] in present
    ]


def _by_category(items: Iterable[Mapping], known: set[int], name: str) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for item in items:
        if int(item["category_id"]) not in known:
            raise ValueError(f"The {name} has the category {item['category_id']}, which is not in categories.")
        found.setdefault(int(item["category_id"]), []).append({**item, "mask": to_rle(item["mask"])})
    return found


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None
