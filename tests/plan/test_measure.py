"""`seggen plan --measure`: the stages of a run on this machine, beside what was planned."""

import dataclasses
import json
import time

import pytest
import torch
from forked_python import HOME, client_environment, run_python

from seggen_hf.config import load_recipe
from seggen_hf.data.scenes.records import scene_records
from seggen_hf.labels import LabelSet
from seggen_hf.plan.measure import Measured, Trial, measure_run
from seggen_hf.plan.run_plan import plan_recipe
from seggen_hf.runs.preflight import plan_run
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.segmenter import SegmenterTask


@pytest.mark.slow
def test_the_miniature_takes_the_planned_memory(tmp_path):
    """To a fifth of what each process really used; nothing is written where it is called."""
    command = ["-m", "seggen_hf.cli", "plan", "quickstart", "--gpu", "h100", "--measure", "--json"]
    command += ["--set", "synthesis.batch_size=8"]
    result = run_python(command, client_environment(OMP_NUM_THREADS=1), tmp_path, timeout=900)
    measured = json.loads(result.stdout)["measured"]
    names = ["text2mask", "mask2img", "synthesize masksyn", "synthesize imgsyn", "segmenter", "evaluate"]
    assert [entry["name"] for entry in measured] == names
    for entry in measured:
        assert entry["failure"] is None and entry["is_finite"], entry
        assert entry["peak"] == pytest.approx(entry["planned"], rel=0.2), entry
        assert entry["samples_per_second"] > 0 and entry["hours"] > 0
    assert {path.name for path in tmp_path.iterdir()} <= {HOME}


@pytest.mark.slow
def test_a_training_goes_on_at_the_measured_rate(tmp_path):
    """To a third; of a few tries the best of each, since other work on the machine slows single ones."""
    recipe = load_recipe("quickstart", ["segmenter.logging_steps=8", "segmenter.max_train_steps=8"])
    plan, labels = plan_run(recipe)
    stage = next(stage for stage in plan.stages if stage.kind == "segmenter")
    records = scene_records("train", num_records=16)
    measured, trained = [], []
    for number in range(6):
        folder = tmp_path / str(number)
        (folder / "trial").mkdir(parents=True)
        entry = Measured("segmenter", stage.peak)
        Trial(entry, recipe, labels, stage, folder / "trial", torch.device("cpu")).run()
        measured.append(entry.samples_per_second)
        changes = {"output_dir": str(folder / "real"), "checkpointing_steps": 0}
        config = dataclasses.replace(recipe.segmenter, **changes)
        run = train(SegmenterTask.from_config(config, records, labels), config)
        trained.append(run.history[0]["samples_per_second"])
        if max(measured) == pytest.approx(max(trained), rel=0.3):
            return
    pytest.fail(f"measured {measured}, trained {trained} samples a second")


@pytest.mark.slow
def test_a_stage_that_fails_is_told_and_the_rest_goes_on(tiny_recipe, monkeypatch):
    """In processes of their own: one of the segmenter cannot be built, and the others are measured."""
    recipe = load_recipe(tiny_recipe, ["segmenter.mixed_precision=fp16"])
    plan, labels = plan_run(recipe, processes=2)
    recipe.segmenter.model = "nowhere/at-all"
    kept = [i for i, stage in enumerate(plan.stages) if stage.name in ("segmenter", "text2mask")]
    plan.stages, plan.times = ([values[i] for i in reversed(kept)] for values in (plan.stages, plan.times))
    told = []
    measured = {entry.name: entry for entry in measure_run(recipe, labels, plan, told.append)}
    assert "nowhere/at-all" in measured["segmenter"].failure and measured["segmenter"].hours is None
    assert list(measured) == ["segmenter", "text2mask"]
    assert measured["text2mask"].failure is None and measured["text2mask"].is_finite
    assert any(line.startswith("segmenter: does not run here: ") for line in told)
    stage = next(stage for stage in plan.stages if stage.name == "text2mask")
    together = 2 * measured["text2mask"].samples_per_second
    assert measured["text2mask"].hours == pytest.approx(stage.samples / together / 3600)


@pytest.mark.slow
def test_a_stage_of_another_machines_size_is_not_begun_on_a_cpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    recipe, labels = load_recipe("ade20k_sdxl"), LabelSet.builtin("ade20k")
    plan = plan_recipe(recipe, labels, num_records=16, kinds=("text2mask",))
    begun = time.monotonic()
    (entry,) = measure_run(recipe, labels, plan, lambda line: None)
    assert "minutes on a CPU; measure it on a machine with a GPU" in entry.failure
    assert time.monotonic() - begun < 60
