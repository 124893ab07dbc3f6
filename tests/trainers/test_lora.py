"""A LoRA must not cost more than what it adds: no copies of activations, no casts of weights that do not change."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from generators import lora_unet, train_step
from peft.tuners.tuners_utils import BaseTunerLayer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Counts operators, and the bytes that casts write."""

    def __init__(self):
        super().__init__()
        self.counts, self.cast_bytes = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.counts[function.overloadpacket.__name__] += 1
        if function.overloadpacket.__name__ == "_to_copy":
            self.cast_bytes += result.nbytes
        return result


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_takes_its_input_as_it_is(checkpointing):
    plain, ours = lora_unet(torch.bfloat16), lora_unet(torch.bfloat16)
    layers = [layer for layer in plain.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:
        layer.cast_input_dtype_enabled = True  # as peft has it
    if checkpointing:
        plain.enable_gradient_checkpointing(), ours.enable_gradient_checkpointing()
    with Operators() as before:
        loss, gradients = train_step(plain)
    with Operators() as after:
        our_loss, our_gradients = train_step(ours)
    assert our_loss == loss
    assert all(torch.allclose(a, b, rtol=2e-2, atol=1e-6) for a, b in zip(gradients, our_gradients, strict=True))
    assert before.counts["_to_copy"] - after.counts["_to_copy"] >= 2 * len(layers)
    assert after.cast_bytes < before.cast_bytes / 5
    assert sum(after.counts.values()) < sum(before.counts.values())


def test_frozen_weights_are_rounded_and_norms_and_adapters_are_not():
    unet = lora_unet(torch.bfloat16)
    found = Counter()
    for module in unet.modules():
        is_norm = isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm))
        for parameter in module.parameters(recurse=False):
            found["norm" if is_norm else "lora" if parameter.requires_grad else "frozen", parameter.dtype] += 1
    assert set(found) == {("norm", torch.float32), ("lora", torch.float32), ("frozen", torch.bfloat16)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [lambda x, w: F.layer_norm(x, (8,), w, w), lambda x, w: F.group_norm(x, 2, w, w)])
def test_autocast_on_a_gpu_casts_only_rounded_weights_of_norms(norm, dtype):
    """Why they stay in float32; the tensors only say that they are on one."""
    with FakeTensorMode():
        activations = torch.empty(2, 8, 8, device="cuda", dtype=torch.bfloat16)
        weight = torch.empty(8, device="cuda", dtype=dtype)
        with Operators() as operators:
            torch.set_autocast_enabled("cuda", True)
            try:
                result = norm(activations, weight)
            finally:
                torch.set_autocast_enabled("cuda", False)
    assert result.dtype == torch.float32
    assert operators.counts["_to_copy"] == (1 if dtype == torch.float32 else 3)
