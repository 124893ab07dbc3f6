"""A whole run on the device: two segmenters on one card at once, and what was planned against what is measured."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from seggen_hf.config import load_recipe
from seggen_hf.plan.measure import measure_run
from seggen_hf.runs.preflight import plan_run
from seggen_hf.runs.runner import run_stages

pytestmark = pytest.mark.gpu

MIB = 2**20


def test_two_segmenters_train_on_one_card(tiny_run, tiny_recipe, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    for path in [*folder.glob("segmenter-*"), folder / "predictions"]:
        shutil.rmtree(path)
    (folder / "results.json").unlink()
    said: list[str] = []
    recipe = load_recipe(tiny_recipe, ["evaluation.jobs=2"])
    run_stages(recipe, folder, command="seggen run tiny.yaml", say=said.append)
    begun = [line.split(":")[0].partition(", ")[2] for line in said if "begins" in line]
    assert begun[:2] == ["segmenter-real/seed-0", "segmenter-synthetic/seed-0"]
    for name in begun[:2]:
        one, other = (load_file(run / name / "model.safetensors") for run in (tiny_run, folder))
        assert one.keys() == other.keys()
        off = torch.cat([(one[k] - other[k]).abs().flatten() for k in one if one[k].is_floating_point()])
        # CUDA adds the gradients of grid_sample in any order: few weights take a whole step another way.
        assert off.mean() < 0.1 * recipe.segmenter.learning_rate


def test_every_stage_takes_what_was_planned(tiny_recipe, device):
    recipe = load_recipe(tiny_recipe)
    planned, labels = plan_run(recipe, 1, None)
    measured = measure_run(recipe, labels, planned, lambda line: None)
    assert [entry.name for entry in measured] == [stage.name for stage in planned.stages]
    for entry in measured:
        assert entry.failure is None and entry.is_finite and entry.samples_per_second > 0, entry.to_text()
        assert entry.peak > 0
    if device.type == "cuda":  # on a CPU the process's memory is measured, libraries and all
        far = [e.to_text() for e in measured if abs(e.peak - e.planned) > max(0.2 * e.planned, 64 * MIB)]
        assert not far, far
