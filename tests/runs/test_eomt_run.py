"""The whole loop with an EoMT at unit size, from a recipe to predictions, a card and a filter."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import FilterConfig, load_recipe
from seggen_hf.runs.cards import RunCards
from seggen_hf.runs.makers import filter_run
from seggen_hf.runs.runner import run_stages
from seggen_hf.tasks import TASKS

pytestmark = pytest.mark.slow  # each of them needs a run of its own


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_a_run_trains_scores_filters_and_describes_it(tiny_recipe, tmp_path, task):
    settings = ["segmenter.model=eomt-unit", f"data.task={task}", "data.test_splits=[test]", "evaluation.seeds=[0]"]
    settings += ["synthesis.imgsyn_variants=1", "synthesis.masksyn_variants=0", "segmenter.ema_decay=0.9"]
    settings += ["evaluation.arms=[real, imgsyn]"]
    recipe, folder = load_recipe(tiny_recipe, settings), tmp_path / "run"
    run_stages(recipe, folder)
    results = json.loads((folder / "results.json").read_text())
    assert TASKS[task].metric in json.dumps(results) and "squares of 64 pixels" in json.dumps(results)
    assert json.loads((folder / "segmenter-real/seed-0/config.json").read_text())["model_type"] == "eomt"
    card = RunCards(folder, {"segmenter-real": "me/eomt"}).segmenter("real", 0)
    assert f"An EoMT for {task} segmentation" in card and "- eomt" in card and "Mask2Former" not in card
    kept = filter_run(dataclasses.replace(recipe, filter=FilterConfig(tolerance=1.0)), folder, tmp_path / "filtered")
    assert all(0 <= scores["alignment"] <= 1 for scores in kept["scores"])

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, size in enumerate([(64, 64), (90, 50)]):
        noise = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{i}.png")
    words = [folder / "segmenter-real/seed-0", pictures, tmp_path / "out", "--task", task]
    done = CliRunner().invoke(app, ["predict", *map(str, words)])
    assert done.exit_code == 0, done.output
    if task == "semantic":
        assert {path.name for path in (tmp_path / "out").rglob("*.png")} >= {"0.png", "1.png"}
    else:
        content = json.loads((tmp_path / "out/predictions.json").read_text())
        assert [(image["width"], image["height"]) for image in content["images"]] == [(64, 64), (90, 50)]
