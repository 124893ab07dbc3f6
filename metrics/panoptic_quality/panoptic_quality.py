"""PQ, SQ and RQ of panoptic maps, for `evaluate.load`: `seggen_hf.metrics.PanopticQuality` over lists of maps."""

import datasets
import evaluate
import numpy as np

import seggen_hf.metrics

SIDE = {
    "panoptic_map": datasets.Sequence(datasets.Sequence(datasets.Value("int64"))),
    "segments_info": [
        {"id": datasets.Value("int64"), "category_id": datasets.Value("int64"), "iscrowd": datasets.Value("bool")}
    ],
}


class PanopticQuality(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Panoptic quality (Kirillov et al., arXiv:1801.00868), with COCO's rules for void and crowds.",
            citation="",
            inputs_description=(
                "predictions, references: {panoptic_map, segments_info} an image: (height, width) integers with 0 for "
                "void, and {id, category_id, iscrowd} a segment; iscrowd of references is read, False elsewhere.\n"
                "categories: list of {id, name, isthing}.\n"
                "Returns pq, sq, rq, things, stuff, per_category, protocol."
            ),
            features=datasets.Features({"predictions": SIDE, "references": SIDE}),
        )

    def _compute(self, predictions, references, categories):
        metric = seggen_hf.metrics.PanopticQuality(categories)
        for predicted, target in zip(predictions, references, strict=True):
            sides = [(np.array(side["panoptic_map"]), side["segments_info"]) for side in (predicted, target)]
            metric.update(*sides)
        return metric.compute()
