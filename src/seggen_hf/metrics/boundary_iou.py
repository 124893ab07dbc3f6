"""Boundary IoU (Cheng et al., arXiv:2103.16562): how well contours agree, whatever the size of the regions."""

import math

import numpy as np
from scipy import ndimage

BOUNDARY_IOU_PROTOCOL = (
    "IoU of the pixels of each class that are within d pixels (chessboard distance) of a pixel of another class or of "
    "the image's border, in prediction and target; d is {ratio:g} of the image's diagonal, at least 1. Sums over all "
    "images; pixels whose target is ignore_index are left out; classes that never occur are excluded from the mean."
)


class BoundaryIoU:
    """Streaming boundary IoU of semantic segmentation.

    Args:
        num_labels (`int`): label ids are 0..num_labels-1.
        ignore_index (`int`): target id that is not counted.
        dilation_ratio (`float`): width of the boundary as a share of the image's diagonal; 0.02 in the paper.

    Attributes:
        state (int64, `(num_labels, 3)`): boundary pixels shared, in the target, and in the prediction. States of
            several processes may simply be added.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255, dilation_ratio: float = 0.02):
        if num_labels < 1 or 0 <= ignore_index < num_labels:
            raise ValueError(f"num_labels is {num_labels} and ignore_index {ignore_index}; an id cannot be both.")
        if not dilation_ratio > 0:
            raise ValueError(f"dilation_ratio is {dilation_ratio}; it must be above 0.")
        self.num_labels, self.ignore_index, self.dilation_ratio = num_labels, ignore_index, dilation_ratio
        self.state = np.zeros((num_labels, 3), dtype=np.int64)

    def update(self, pred, target) -> None:
        """Add one image: maps of label ids, integers `(height, width)`.

        Raises: `ValueError` if shapes differ, or an id is neither a label nor `ignore_index`.
        """
        pred, target = np.asarray(pred).astype(np.int64), np.asarray(target).astype(np.int64)
        if pred.shape != target.shape or pred.ndim != 2:
            raise ValueError(f"Prediction and target have shapes {pred.shape} and {target.shape}; one image each.")
        for name, ids in (("prediction", pred), ("target", target)):
            known = (ids == self.ignore_index) | ((ids >= 0) & (ids < self.num_labels))
            if not known.all():
                raise ValueError(f"The {name} holds the id {ids[~known][0]}; labels are 0..{self.num_labels - 1}.")
        width = max(1, round(self.dilation_ratio * math.hypot(*target.shape)))
        counted = target != self.ignore_index
        in_pred = boundary_pixels(pred, width) & counted & (pred != self.ignore_index)
        in_target = boundary_pixels(target, width) & counted
        shared = target[in_pred & in_target & (pred == target)]
        for column, ids in enumerate((shared, target[in_target], pred[in_pred])):
            self.state[:, column] += np.bincount(ids, minlength=self.num_labels)

    def merge(self, other: "BoundaryIoU") -> "BoundaryIoU":
        """Add the counts of `other`; returns self."""
        mine = (self.num_labels, self.ignore_index, self.dilation_ratio)
        if (other.num_labels, other.ignore_index, other.dilation_ratio) != mine:
            raise ValueError("Only metrics of the same labels, ignore_index and dilation_ratio can be merged.")
        self.state += other.state
        return self

    def compute(self) -> dict:
        """Return the scores so far; shares in [0, 1], None where nothing was counted.

        Returns: `boundary_iou` (mean over labels), `per_label` ({id: IoU or None}), `protocol`.
        """
        shared, in_target, in_pred = self.state.T.astype(np.float64)
        union = in_target + in_pred - shared
        per_label = {i: float(shared[i] / union[i]) if union[i] else None for i in range(self.num_labels)}
        present = [iou for iou in per_label.values() if iou is not None]
        return {
            "boundary_iou": float(np.mean(present)) if present else None,
            "per_label": per_label,
            "protocol": BOUNDARY_IOU_PROTOCOL.format(ratio=self.dilation_ratio),
        }


def boundary_pixels(segmentation_map: np.ndarray, width: int) -> np.ndarray:
    """Pixels `(height, width)` bool within `width` pixels (chessboard) of another id, or of the outside.

    All classes at once: a pixel is inside its region if the least and the largest id around it are its own. The same
    pixels as mask minus mask eroded `width` times by a 3 x 3 square, class by class.
    """
    size = 2 * width + 1
    least = ndimage.minimum_filter(segmentation_map, size, mode="constant", cval=-1)
    largest = ndimage.maximum_filter(segmentation_map, size, mode="constant", cval=-1)
    return (least != segmentation_map) | (largest != segmentation_map)
