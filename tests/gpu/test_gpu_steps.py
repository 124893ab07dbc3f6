"""Steps of every training on the device: in half precision, with recomputed activations, and without waiting."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainings import GENERATORS, SEGMENTERS, TRAININGS, first_loss

from seggen_hf.trainers.checkpoints import read_state
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.step import OptimizerStep

pytestmark = pytest.mark.gpu

# A product in bfloat16 is wrong by up to 2^-9 of itself, in float16 by 2^-12; sums over pixels average most of it out.
TOLERANCES = {"bf16": 2e-2, "fp16": 1e-2}
LARGEST_SCALE = 65536.0  # a scaler's first


@pytest.fixture(scope="module")
def exact_losses() -> dict[str, float]:
    return {}


def skip_unless_possible(precision: str, device: torch.device) -> None:
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("Accelerate trains in fp16 on GPUs alone")


WORKED = ("text2mask", "mask2img", "panoptic-swin")
CASES = [(name, "bf16", is_recomputed) for name in GENERATORS for is_recomputed in (False, True)]
CASES += [(name, "fp16", True) for name in GENERATORS]
CASES += [(name, *case) for name in SEGMENTERS for case in (("bf16", False), ("bf16", True), ("fp16", True))]


@pytest.mark.parametrize(("name", "precision", "checkpointing"), CASES)
def test_steps_in_half_precision_are_near_float32(
    name, precision, checkpointing, make_training, exact_losses, device, tmp_path
):
    skip_unless_possible(precision, device)
    if name not in exact_losses:
        exact_losses[name] = first_loss(*make_training(name, tmp_path / "exact"))
    changes = {"mixed_precision": precision, "gradient_checkpointing": checkpointing, "max_train_steps": 3}
    task, config = make_training(name, tmp_path / "run", **changes)
    before = {n: p.detach().cpu().clone() for n, p in task.trainable.named_parameters() if p.requires_grad}
    run = train(task, config)
    lines = [line for line in run.history if "loss" in line]
    assert len(lines) == 3 and all(math.isfinite(line["loss"]) for line in lines)
    assert lines[0]["loss"] == pytest.approx(exact_losses[name], rel=TOLERANCES[precision])
    state = next(Path(config.output_dir, "checkpoints").glob("step-*"))
    after = load_file(state / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    scale = read_state(state, {}).loss_scale
    assert scale is None or LARGEST_SCALE / 8 < scale["scale"] <= LARGEST_SCALE  # at least one step was taken
    assert sum(not torch.equal(after[n], p) for n, p in before.items()) > len(before) / 2


@pytest.mark.parametrize(
    ("name", "changes"),
    [("text2mask", {"cache_latents": False}), ("mask2img-lora", {"cache_latents": False}), *((n, {}) for n in WORKED)],
)
def test_processes_that_load_and_encoders_that_stay_change_no_loss(name, changes, make_training, device, tmp_path):
    """Processes are forked when the device is in use; without a cache it encodes in each step."""
    expected = first_loss(*make_training(name, tmp_path / "exact", **changes))
    losses = []
    for workers in (0, 2):
        settings = {"max_train_steps": 3, "dataloader_num_workers": workers} | changes
        run = train(*make_training(name, tmp_path / str(workers), **settings))
        losses.append([line["loss"] for line in run.history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][0] == pytest.approx(expected, rel=1e-3)


class Steps:
    """Counts, in each step but the first, what made the CPU wait for the device; where it waits is told."""

    def __init__(self, monkeypatch, device: torch.device, mode: str):
        self.waits: list[list[str]] = []
        take = OptimizerStep.take

        def watched(step, number, next_batch):
            if device.type != "cuda" or number == 0:  # tables and moments are made in the first
                return take(step, number, next_batch)
            torch.cuda.set_sync_debug_mode(mode)
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    take(step, number, next_batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            told = [f"{w.filename}:{w.lineno}" for w in said if "synchronizing" in str(w.message)]
            self.waits.append(told)

        monkeypatch.setattr(OptimizerStep, "take", watched)


WATCHED = [(name, "bf16", False) for name in TRAININGS]
WATCHED += [(name, "bf16", True) for name in ("text2mask", "mask2img", "semantic-swin", "semantic-resnet")]
WATCHED += [("text2mask", "fp16", False), ("semantic-swin", "fp16", False)]


@pytest.mark.parametrize(("name", "precision", "checkpointing"), WATCHED)
def test_a_step_between_log_lines_does_not_wait(
    name, precision, checkpointing, make_training, device, tmp_path, monkeypatch
):
    """A segmenter's waits once, for the costs of the matching."""
    skip_unless_possible(precision, device)
    steps = Steps(monkeypatch, device, "error" if name in GENERATORS else "warn")
    changes = {"max_train_steps": 4, "logging_steps": 100, "ema_decay": 0.9, "mixed_precision": precision}
    run = train(*make_training(name, tmp_path, gradient_checkpointing=checkpointing, **changes))
    assert run.steps == 4
    if device.type == "cuda":
        expected = 0 if name in GENERATORS else 1
        assert [len(told) for told in steps.waits] == [expected] * 3, steps.waits
