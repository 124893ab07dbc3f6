"""What scoring a run's segmenters leaves, beside results.json."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seggen_hf.config import load_recipe
from seggen_hf.runs.runner import run_stages


@pytest.mark.slow
def test_trackers_are_told_the_scores_that_are_in_the_results(run_copy, tiny_recipe):
    recipe = load_recipe(tiny_recipe, ["segmenter.report_to=tensorboard"])
    run_stages(recipe, run_copy, ["evaluate"], redo=["evaluate"])
    for row in json.loads((run_copy / "results.json").read_text())["scores"]:
        events = EventAccumulator(str(run_copy / row["folder"] / "log")).Reload()
        (told,) = events.Scalars(f"test/{row['split']}/mIoU")
        assert told.value == pytest.approx(row["mIoU"]) and told.step == row["steps"]
