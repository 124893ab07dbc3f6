"""Boundary IoU of segmentation maps, for `evaluate.load`: `seggen_hf.metrics.BoundaryIoU` over lists of maps."""

import datasets
import evaluate
import numpy as np

import seggen_hf.metrics

MAP = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))


class BoundaryIoU(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Boundary IoU of semantic segmentation (Cheng et al., arXiv:2103.16562).",
            citation="",
            inputs_description=(
                "predictions, references: label ids, (height, width) integers an image; sizes may differ.\n"
                "num_labels (int): ids are 0..num_labels-1. ignore_index (int): reference id that is not counted.\n"
                "dilation_ratio (float): width of the boundary as a share of the image's diagonal.\n"
                "Returns boundary_iou, per_label, protocol."
            ),
            features=datasets.Features({"predictions": MAP, "references": MAP}),
        )

    def _compute(self, predictions, references, num_labels, ignore_index=255, dilation_ratio=0.02):
        metric = seggen_hf.metrics.BoundaryIoU(num_labels, ignore_index, dilation_ratio)
        for predicted, target in zip(predictions, references, strict=True):
            metric.update(np.array(predicted), np.array(target))
        return metric.compute()
