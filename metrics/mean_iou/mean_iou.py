"""mIoU of segmentation maps, for `evaluate.load`: `seggen_hf.metrics.MeanIoU` over lists of maps."""

import datasets
import evaluate
import numpy as np

import seggen_hf.metrics

MAP = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))


class MeanIoU(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Mean intersection over union of semantic segmentation, from one confusion matrix.",
            citation="",
            inputs_description=(
                "predictions, references: label ids, (height, width) integers an image; sizes may differ.\n"
                "num_labels (int): ids are 0..num_labels-1. ignore_index (int): reference id that is not counted.\n"
                "Returns mIoU, per_label, pixel_accuracy, mean_accuracy, num_pixels, protocol."
            ),
            features=datasets.Features({"predictions": MAP, "references": MAP}),
        )

    def _compute(self, predictions, references, num_labels, ignore_index=255):
        metric = seggen_hf.metrics.MeanIoU(num_labels, ignore_index)
        for predicted, target in zip(predictions, references, strict=True):
            metric.update(np.array(predicted), np.array(target))
        return metric.compute()
