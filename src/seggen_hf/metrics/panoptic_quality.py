"""Panoptic quality (Kirillov et al., arXiv:1801.00868), with COCO's rules for void and crowds."""

from collections.abc import Mapping, Sequence

import numpy as np

PANOPTIC_QUALITY_PROTOCOL = (
    "Per class PQ = sum of IoU over matches / (TP + FP/2 + FN/2), SQ = mean IoU of the matches, RQ = TP / (TP + FP/2 "
    "+ FN/2), over all images; a match is a predicted and a true segment of one class with IoU > 0.5, void pixels "
    "left out of the union. True crowd segments are no target. A predicted segment that is not matched counts as "
    "false unless more than half of it is void or crowd of its class. Means are over the classes that occur."
)


class PanopticQuality:
    """Streaming PQ, SQ and RQ, of all classes, things and stuff, as panopticapi's `pq_compute` gives them.

    It differs in one point that COCO's data never shows: all crowd segments of a class in an image count, not one.

    Args:
        categories: `{"id", "name", "isthing"}` each.

    Attributes:
        counts (int64, `(num_categories, 3)`): true positives, false positives and false negatives.
        iou (float64, `(num_categories,)`): sums of IoU over the true positives. Both may simply be added.
    """

    def __init__(self, categories: Sequence[Mapping]):
        self.categories = [dict(category) for category in categories]
        self._row = {int(category["id"]): row for row, category in enumerate(self.categories)}
        if len(self._row) != len(self.categories) or not self._row:
            raise ValueError("categories must hold at least one category, and each id once.")
        self.counts = np.zeros((len(self._row), 3), dtype=np.int64)
        self.iou = np.zeros(len(self._row), dtype=np.float64)

    def update(self, pred: tuple, target: tuple) -> None:
        """Add one image.

        Args:
            pred, target: `(panoptic_map, segments_info)`: integers `(height, width)` with 0 for void, and a dict with
                `id` and `category_id` for each segment; `iscrowd` of the target's is read, all else is not.

        Raises: `ValueError` if the shapes differ, a map holds an id that its segments_info lacks, one lists an id
            twice or a category that is not known.
        """
        (pred_map, pred_segments), (target_map, target_segments) = pred, target
        pred_map, target_map = np.asarray(pred_map), np.asarray(target_map)
        if pred_map.shape != target_map.shape:
            raise ValueError(f"The prediction has shape {pred_map.shape}, its target {target_map.shape}.")
        pred_ids, pred_rows, pred_index = self._read("prediction", pred_map, pred_segments)
        target_ids, target_rows, target_index = self._read("target", target_map, target_segments)
        crowd_of = {int(segment["id"]): bool(segment.get("iscrowd", False)) for segment in target_segments}
        is_crowd = np.array([crowd_of.get(i, False) for i in target_ids.tolist()], dtype=bool)

        # Pixels of every target segment in every predicted one; row and column 0 are void.
        shape = (len(target_ids), len(pred_ids))
        flat = target_index.reshape(-1) * shape[1] + pred_index.reshape(-1)
        shared = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
        union = shared.sum(1)[:, None] + shared.sum(0) - shared - shared[0]
        iou = shared / np.maximum(union, 1)
        is_match = (iou > 0.5) & (target_rows[:, None] == pred_rows) & ~is_crowd[:, None]
        is_match[0] = is_match[:, 0] = False
        matched_targets, matched_preds = np.nonzero(is_match)  # IoU > 0.5 cannot hold twice for one segment

        rows = target_rows[matched_targets]
        np.add.at(self.counts[:, 0], rows, 1)
        np.add.at(self.iou, rows, iou[matched_targets, matched_preds])
        missed = np.setdiff1d(np.arange(1, shape[0]), matched_targets)
        np.add.at(self.counts[:, 2], target_rows[missed[~is_crowd[missed]]], 1)
        false = np.setdiff1d(np.arange(1, shape[1]), matched_preds)
        excused = shared[0] + (shared * (is_crowd[:, None] & (target_rows[:, None] == pred_rows))).sum(0)
        false = false[excused[false] <= 0.5 * shared.sum(0)[false]]
        np.add.at(self.counts[:, 1], pred_rows[false], 1)

    def merge(self, other: "PanopticQuality") -> "PanopticQuality":
        """Add the counts of `other`; returns self."""
        if other.categories != self.categories:
            raise ValueError("Only metrics of the same categories can be merged.")
        self.counts += other.counts
        self.iou += other.iou
        return self

    def compute(self) -> dict:
        """Return the scores so far; shares in [0, 1], None where nothing was counted.

        Returns: `pq`, `sq`, `rq`, the same under `things` and `stuff` with `num_categories`, `per_category` ({id: pq,
        sq, rq, tp, fp, fn}), `protocol`.
        """
        per_category = {}
        for category, (tp, fp, fn), iou in zip(self.categories, self.counts.tolist(), self.iou.tolist(), strict=True):
            weight = tp + fp / 2 + fn / 2
            scores = {
                "pq": iou / weight if weight else None,
                "sq": (iou / tp if tp else 0.0) if weight else None,
                "rq": tp / weight if weight else None,
            }
            per_category[int(category["id"])] = scores | {"tp": tp, "fp": fp, "fn": fn}
        is_thing = [bool(category["isthing"]) for category in self.categories]
        scores = list(per_category.values())
        return {
            **_mean(scores),
            "things": _mean([s for s, thing in zip(scores, is_thing, strict=True) if thing]),
            "stuff": _mean([s for s, thing in zip(scores, is_thing, strict=True) if not thing]),
            "per_category": per_category,
            "protocol": PANOPTIC_QUALITY_PROTOCOL,
        }

    def _read(self, name: str, panoptic_map: np.ndarray, segments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids in the map, void first; the row of each id's category, -1 for void; and the map as places in them."""
        row_of = {}
        for segment in segments:
            if int(segment["id"]) in row_of:
                raise ValueError(f"The {name} lists the segment {segment['id']} twice.")
            if int(segment["category_id"]) not in self._row:
                raise ValueError(f"The {name} has the category {segment['category_id']}, which is not in categories.")
            row_of[int(segment["id"])] = self._row[int(segment["category_id"])]
        ids, index = np.unique(panoptic_map, return_inverse=True)
        unknown = [i for i in ids.tolist() if i != 0 and i not in row_of]
        if unknown:
            raise ValueError(f"The {name}'s map holds the segments {unknown[:5]}, which its segments_info lacks.")
        index = index.reshape(panoptic_map.shape)
        if not len(ids) or ids[0] != 0:  # no void pixel
            ids, index = np.concatenate([[0], ids]), index + 1
        return ids, np.array([-1, *(row_of[i] for i in ids[1:].tolist())]), index


def _mean(scores: list[dict]) -> dict:
    counted = [s for s in scores if s["pq"] is not None]
    means = {key: float(np.mean([s[key] for s in counted])) if counted else None for key in ("pq", "sq", "rq")}
    return means | {"num_categories": len(counted)}
