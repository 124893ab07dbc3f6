"""A training on the device that was stopped goes on as if it had not been."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from trainings import GENERATORS

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


def last_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    files = (folder / "checkpoints" / "step-00000004").glob("*.safetensors")
    return {f"{file.stem}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def train_whole_and_in_parts(make_training, name: str, folder: Path, **changes) -> list[dict[str, torch.Tensor]]:
    rates = {"learning_rate": RATE, "lr_scheduler": "constant", "lr_warmup_steps": 0}
    changes = rates | {"ema_decay": 0.9} | ({"num_validation_images": 0} if name in GENERATORS else {}) | changes
    for part, last_steps in (("whole", (4,)), ("parts", (2, 4))):
        for last in last_steps:
            run = train(*make_training(name, folder / part, max_train_steps=last, **changes))
        assert run.steps == 4
    return [last_checkpoint(folder / part) for part in ("whole", "parts")]


CASES = [(name, "bf16") for name in GENERATORS] + [("text2mask", "no"), ("text2mask", "fp16"), ("mask2img", "fp16")]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_a_generator_is_the_same_to_the_bit(name, precision, make_training, device, tmp_path):
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("Accelerate trains in fp16 on GPUs alone")
    whole, parts = train_whole_and_in_parts(make_training, name, tmp_path, mixed_precision=precision)
    assert whole.keys() == parts.keys() and {key.partition(".")[0] for key in whole} == {"model", "optimizer", "ema"}
    assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []


@pytest.mark.parametrize("name", ["semantic-swin", "panoptic-resnet"])
def test_a_segmenter_is_nearly_the_same(name, make_training, tmp_path):
    """The gradient of grid_sample adds in any order on CUDA. That noise makes whole steps of weights whose gradient is
    zero in truth (Adam divides by its size), of which there are few; moments that were lost or of another step would
    change the steps of all weights by a large part of the learning rate."""
    whole, parts = train_whole_and_in_parts(make_training, name, tmp_path, mixed_precision="bf16")
    assert whole.keys() == parts.keys()
    for file in ("model", "ema"):
        names = [key for key in whole if key.startswith(f"{file}.") and whole[key].is_floating_point()]
        off = torch.cat([(whole[key] - parts[key]).abs().flatten() for key in names])
        assert off.mean() < 0.05 * RATE


@pytest.mark.parametrize("name", ["text2mask", "mask2img-lora"])
def test_an_8_bit_optimizer_is_the_same_to_the_bit(name, make_training, tmp_path):
    pytest.importorskip("bitsandbytes")
    changes = {"optimizer": "adamw_8bit", "mixed_precision": "bf16"}
    whole, parts = train_whole_and_in_parts(make_training, name, tmp_path, **changes)
    assert torch.uint8 in {tensor.dtype for key, tensor in whole.items() if key.startswith("optimizer.")}
    assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []
