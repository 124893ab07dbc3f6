import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard, parse_eval_result_entries

from seggen_hf.runs.cards import RunCards, write_card
from seggen_hf.tasks import TASKS, task_of


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
    assert "AutoModelForUniversalSegmentation" in snippet and "import predict_panoptic" in snippet
