import numpy as np
import pytest

from seggen_hf.data.schema import labels_of, read_image, read_map
from seggen_hf.labels import LabelSet
from seggen_hf.metrics import MeanIoU
from seggen_hf.segmenter.build import build_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.segmenter.inference import predict_semantic


@pytest.fixture(scope="module")
def segmenter(scene_records):
    return build_segmenter("unit", labels_of(scene_records))


def test_scores_are_those_of_predictions_at_the_original_size(segmenter, scene_records):
    scores = evaluate_segmenter(*segmenter, scene_records, batch_size=3)
    labels = labels_of(scene_records)
    metric = MeanIoU(labels.num_labels, labels.ignore_index)
    for row in scene_records:
        (prediction,) = predict_semantic(*segmenter, [read_image(row["image"])])
        metric.update(prediction, read_map(row["segmentation_map"]))
    expected = metric.compute()
    assert {name: scores[name] for name in ("mIoU", "per_label", "num_pixels")} == {
        name: expected[name] for name in ("mIoU", "per_label", "num_pixels")
    }
    assert scores["num_images"] == 8 and scores["labels"] == labels.id2label and scores["task"] == "semantic"
    assert "absent" in scores["protocol"] and "original size" in scores["protocol"]


def test_ignored_pixels_are_not_scored(segmenter, scene_records):
    row = scene_records[0]
    segmentation_map = read_map(row["segmentation_map"]).copy()
    segmentation_map[:16] = 255
    scores = evaluate_segmenter(
        *segmenter,
        [{"image": row["image"], "segmentation_map": segmentation_map}],
        labels=labels_of(scene_records),
    )
    assert scores["num_pixels"] == np.sum(segmentation_map != 255)


def test_wrong_input_is_named(segmenter, scene_records):
    names = labels_of(scene_records).id2label
    with pytest.raises(ValueError, match=f"other labels: 0: {names[0]} / a, 1: .* and .* more"):
        evaluate_segmenter(*segmenter, scene_records, labels=LabelSet.from_id2label({0: "a", 1: "b"}))
    swapped = names | {0: names[1], 1: names[0]}
    with pytest.raises(ValueError, match=f"0: {names[0]} / {names[1]}, 1: {names[1]} / {names[0]}"):
        evaluate_segmenter(*segmenter, scene_records, labels=LabelSet.from_id2label(swapped))
    with pytest.raises(ValueError, match="one of semantic, panoptic, instance"):
        evaluate_segmenter(*segmenter, scene_records, task="depth")
    with pytest.raises(ValueError, match="the records have no panoptic_map"):
        evaluate_segmenter(*segmenter, scene_records.remove_columns("panoptic_map"), task="panoptic")
    row = scene_records[0]
    broken = [{"image": row["image"], "segmentation_map": np.zeros((8, 8), np.uint8), "image_id": "x"}]
    with pytest.raises(ValueError, match="'x'.*64 x 64.*8 x 8"):
        evaluate_segmenter(*segmenter, broken, labels=labels_of(scene_records))
