import json
import re
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard, parse_eval_result_entries

from seggen_hf import results, segmenters
from seggen_hf.cards import RunCards, write_card
from seggen_hf.data import schema
from seggen_hf.data.schema import labels_of, read_image
from seggen_hf.pipelines import ColormapCodec
from seggen_hf.results import Segmenter, keep_test_pictures, read_scores, score_folder, score_segmenter
from seggen_hf.segment_painting import paint_segments
from seggen_hf.tasks import TASKS, task_of


def read_ids(value):
    return read_image(value).astype(np.int32) @ (1, 256, 65536)


@pytest.fixture
def perfect(monkeypatch, scene_records):
    """A segmenter that finds every segment of `scene_records`: what the pictures show is then the truth."""
    truth = {
        read_image(r["image"]).tobytes(): (read_ids(r["panoptic_map"]), r["segments_info"]) for r in scene_records
    }

    def predict_panoptic(model, processor, images, things, batch_size):
        return [truth[image.tobytes()] for image in images]

    def evaluate_segmenter(model, processor, records, task, batch_size):
        labels = labels_of(records).id2label
        per_label = {i: None for i in labels if task == "panoptic" or i in labels_of(records).things}
        scores = dict.fromkeys(TASKS[task].more) | {TASKS[task].metric: 1.0, "per_label": per_label, "labels": labels}
        return scores | {"num_images": len(records), "task": task, "protocol": "Perfect."}

    monkeypatch.setattr(schema, "read_panoptic", read_ids, raising=False)
    monkeypatch.setattr(segmenters, "predict_panoptic", predict_panoptic, raising=False)
    monkeypatch.setattr(results, "evaluate_segmenter", evaluate_segmenter)
    monkeypatch.setattr(results, "_open_segmenter", lambda folder, labels: (None, None))


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_pictures_of_segments_are_kept_painted(perfect, scene_records, tmp_path, task):
    records = scene_records.select(range(2))
    keep_test_pictures(records, tmp_path / "truth", task)
    segmenter = Segmenter("real", 0, tmp_path / "segmenter", "fingerprint")
    score_segmenter(segmenter, "test", records, {}, 2, task=task)
    assert not list((tmp_path / "truth").glob("*-segmentation_map.png"))
    codec = ColormapCodec(labels_of(records))
    for place, row in enumerate(records):
        truth = read_image(tmp_path / "truth" / f"{place}-segments.png")
        predicted = read_image(tmp_path / "segmenter" / "predictions" / "test" / f"{place}.png")
        expected = paint_segments(read_ids(row["panoptic_map"]), row["segments_info"], codec, task == "instance")
        assert (truth == expected).all() and (predicted == expected).all()
    scores = read_scores(segmenter.folder)["test"]["scores"]
    assert scores["task"] == task and scores[TASKS[task].metric] == 1
    assert ("sky" in scores["per_label"]) == (task == "panoptic") and "cow" in scores["per_label"]


def test_a_segmenter_is_scored_by_the_task_that_is_asked_for(perfect, scene_records, tmp_path):
    config = {"id2label": labels_of(scene_records).id2label}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert score_folder(tmp_path, scene_records, 2, "panoptic")["PQ"] == 1
    assert score_folder(tmp_path, scene_records, 2)["task"] == "semantic"


def test_rows_that_name_no_task_are_semantic():
    assert task_of([]) is task_of([{"mIoU": 0.5}]) is TASKS["semantic"]
    assert task_of([{"task": "instance"}]).metric == "AP"
    assert TASKS["semantic"].class_metric_name == "IoU" and TASKS["panoptic"].class_metric_name == "PQ"


@pytest.mark.parametrize("name", ["panoptic", "instance"])
def test_cards_publish_the_headline_score_of_the_task(tiny_run, tmp_path, name):
    task, run = (
        TASKS[name],
        shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors")),
    )
    folder = run / "segmenter-real" / "seed-0"
    scores = dict.fromkeys(task.more) | {task.metric: 0.41236, "num_images": 4, "task": name, "protocol": "Measured."}
    entry = {"scores": scores | {"AP50": 0.5}, "versions": {}}
    unscored = {"scores": scores | {task.metric: None}, "versions": {}}
    (folder / "evaluation.json").write_text(json.dumps({"test": entry, "unseen": unscored}))
    cards = RunCards(run, {"segmenter-real": "ada/segmenter"})
    cards.task, cards.source_id = task, "ada/real"
    path = write_card(folder, cards.segmenter("real", 0, ["example.png"]))

    card = ModelCard(path.read_text())
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_name) == (task.hub_metric_type, task.metric_name)
    assert result.metric_value == 0.4124 and f"{name}-segmentation" in card.data.tags
    (published,) = parse_eval_result_entries(cards.eval_results("real", 0))
    assert (published.task_id, published.value) == (f"test-{task.hub_metric_type}", 0.4124)

    text = card.text
    assert f"A Mask2Former for {name} segmentation" in text and "every pixel gets one" not in text
    assert f"| test split | images | {task.metric_name}, % |" in text and "| test | 4 | 41.2 |" in text
    assert "| unseen | 4 | – |" in text and "50.0" in text
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    compile(snippet, "card", "exec")
    assert "Mask2FormerForUniversalSegmentation" in snippet and "import predict_panoptic" in snippet
