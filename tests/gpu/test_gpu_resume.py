"""A training on the device that was stopped goes on as if it had not been."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from trainings import GENERATORS

from seggen_hf.trainers.checkpoint_writer import CheckpointWriter
from seggen_hf.trainers.checkpoints import TrainingState
from seggen_hf.trainers.loop import train

pytestmark = pytest.mark.gpu

RATE = 1e-3


@pytest.fixture(autouse=True)
def deterministic():
    """Where the device has an algorithm that adds in one order, it is taken; attention's fused ones have none."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.use_deterministic_algorithms(False)


def checkpoints(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors of those of steps 2 and 4, under `step.file.name`."""
    found = {}
    for step in (2, 4):
        for file in (folder / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"):
            found |= {f"{step}.{file.stem}.{name}": tensor for name, tensor in load_file(file).items()}
    return found


def train_whole_and_in_parts(make_training, name: str, folder: Path, **changes) -> list[dict[str, torch.Tensor]]:
    """Of a training in one go the checkpoint of step 2 is copied from the device while step 3 changes its weights."""
    rates = {"learning_rate": RATE, "lr_scheduler": "constant", "lr_warmup_steps": 0, "checkpointing_steps": 2}
    changes = rates | {"ema_decay": 0.9} | ({"num_validation_images": 0} if name in GENERATORS else {}) | changes
    for part, last_steps in (("whole", (4,)), ("parts", (2, 4))):
        for last in last_steps:
            run = train(*make_training(name, folder / part, max_train_steps=last, **changes))
        assert run.steps == 4
    whole, parts = (checkpoints(folder / part) for part in ("whole", "parts"))
    kinds = {key.rpartition(".")[0].split(".")[1] for key in whole}
    assert whole.keys() == parts.keys() and kinds == {"model", "optimizer", "ema"}
    return [whole, parts]


CASES = [(name, "bf16") for name in GENERATORS] + [("text2mask", "no"), ("text2mask", "fp16"), ("mask2img", "fp16")]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_a_generator_is_the_same_to_the_bit(name, precision, make_training, device, tmp_path):
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("Accelerate trains in fp16 on GPUs alone")
    whole, parts = train_whole_and_in_parts(make_training, name, tmp_path, mixed_precision=precision)
    assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []


@pytest.mark.parametrize("name", ["semantic-swin", "panoptic-resnet"])
def test_a_segmenter_is_nearly_the_same(name, make_training, tmp_path):
    """The gradient of grid_sample adds in any order on CUDA. That noise makes whole steps of weights whose gradient is
    zero in truth (Adam divides by its size), of which there are few; moments that were lost or of another step would
    change the steps of all weights by a large part of the learning rate."""
    whole, parts = train_whole_and_in_parts(make_training, name, tmp_path, mixed_precision="bf16")
    for file in ("2.model", "4.model", "4.ema"):
        names = [key for key in whole if key.startswith(f"{file}.") and whole[key].is_floating_point()]
        off = torch.cat([(whole[key] - parts[key]).abs().flatten() for key in names])
        assert off.mean() < 0.05 * RATE


@pytest.mark.parametrize("name", ["text2mask", "mask2img-lora"])
def test_an_8_bit_optimizer_is_the_same_to_the_bit(name, make_training, tmp_path):
    pytest.importorskip("bitsandbytes")
    changes = {"optimizer": "adamw_8bit", "mixed_precision": "bf16"}
    whole, parts = train_whole_and_in_parts(make_training, name, tmp_path, **changes)
    assert torch.uint8 in {tensor.dtype for key, tensor in whole.items() if ".optimizer." in key}
    assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []


def test_what_changes_a_tensor_after_a_checkpoint_began_is_not_in_it(device, tmp_path):
    """The copy goes on while the next kernels wait behind it."""
    module = torch.nn.Linear(4096, 4096, device=device)  # 64 MiB: milliseconds of copying
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    writer = CheckpointWriter(tmp_path, 2)
    for step in (1, 2):
        torch.nn.init.constant_(module.weight, float(step))
        writer.begin(module, optimizer, None, TrainingState(step=step))
        torch.nn.init.constant_(module.weight, -1.0)
    writer.wait()
    if device.type == "cuda":
        assert all(buffer.is_pinned() for part in writer._host.values() for buffer in part.values())
    for step in (1, 2):
        stored = load_file(tmp_path / f"step-{step:08d}" / "model.safetensors")["weight"]
        assert torch.all(stored == step)
