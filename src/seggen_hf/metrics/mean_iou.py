"""Mean intersection over union, from integer sums: they add up over batches, processes and runs."""

import numpy as np

MEAN_IOU_PROTOCOL = (
    "One confusion matrix over all pixels of all images. Pixels whose target is ignore_index are left out; a "
    "prediction of ignore_index elsewhere is an error of the target's class. IoU = TP / (TP + FP + FN) per class; a "
    "class that is neither in the targets nor predicted is absent and excluded from the mean, one that is predicted "
    "but never in the targets counts as 0. Values are shares in [0, 1]."
)


class MeanIoU:
    """Streaming mean intersection over union of semantic segmentation.

    Args:
        num_labels (`int`): label ids are 0..num_labels-1.
        ignore_index (`int`): target id that is not counted.

    Attributes:
        state (`np.ndarray` of shape `(num_labels, num_labels + 1)`, int64): pixel counts, target by prediction; the
            last column holds predictions of `ignore_index`. States of several processes may simply be added.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        if num_labels < 1:
            raise ValueError(f"num_labels is {num_labels}; at least one label is needed.")
        if 0 <= ignore_index < num_labels:
            raise ValueError(f"ignore_index {ignore_index} is also a label id (0..{num_labels - 1}).")
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.state = np.zeros((num_labels, num_labels + 1), dtype=np.int64)

    def update(self, pred, target) -> None:
        """Add maps of label ids, integer arrays of one and the same shape (one image or a batch).

        Raises: `ValueError` if shapes differ or an id is neither a label nor `ignore_index`.
        """
        pred, target = np.asarray(pred), np.asarray(target)
        if pred.shape != target.shape:
            raise ValueError(f"The prediction has shape {pred.shape}, its target {target.shape}; resize one of them.")
        counted = target != self.ignore_index
        target = target[counted].astype(np.int64)
        pred = pred[counted].astype(np.int64)
        ignored = pred == self.ignore_index
        for name, ids in (("target", target), ("prediction", pred[~ignored])):
            if ids.size and (ids.min() < 0 or ids.max() >= self.num_labels):
                bad = sorted(set(np.unique(ids).tolist()) - set(range(self.num_labels)))
                raise ValueError(
                    f"The {name} holds ids {bad[:5]}; labels are 0..{self.num_labels - 1}, "
                    f"ignored is {self.ignore_index}."
                )
        pred[ignored] = self.num_labels
        counts = np.bincount(target * (self.num_labels + 1) + pred, minlength=self.state.size)
        self.state += counts.reshape(self.state.shape)

    def merge(self, other: "MeanIoU") -> "MeanIoU":
        """Add the counts of `other`; returns self."""
        if (other.num_labels, other.ignore_index) != (self.num_labels, self.ignore_index):
            raise ValueError("Only metrics of the same labels and ignore_index can be merged.")
        self.state += other.state
        return self

    def compute(self) -> dict:
        """Return the scores so far; shares in [0, 1], None where nothing was counted.

        Returns: `mIoU`, `per_label` ({id: IoU or None}), `pixel_accuracy`, `mean_accuracy` (mean recall over the
        labels in the targets), `num_pixels` (counted ones), `protocol`.
        """
        hits = np.diag(self.state).astype(np.float64)
        in_target = self.state.sum(1)
        union = in_target + self.state[:, :-1].sum(0) - np.diag(self.state)
        num_pixels = int(self.state.sum())
        per_label = {i: float(hits[i] / union[i]) if union[i] else None for i in range(self.num_labels)}
        present = [iou for iou in per_label.values() if iou is not None]
        recalls = [hits[i] / in_target[i] for i in range(self.num_labels) if in_target[i]]
        return {
            "mIoU": float(np.mean(present)) if present else None,
            "per_label": per_label,
            "pixel_accuracy": float(hits.sum() / num_pixels) if num_pixels else None,
            "mean_accuracy": float(np.mean(recalls)) if recalls else None,
            "num_pixels": num_pixels,
            "protocol": MEAN_IOU_PROTOCOL,
        }
