"""A LoRA must not cost more than what it adds: no copies of activations, no casts of weights that do not change."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from generators import lora_unet, train_step
from peft.tuners.tuners_utils import BaseTunerLayer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from seggen_hf.miniature.architecture import build_miniature
from seggen_hf.trainers.lora import fuse_lora


class Operators(TorchDispatchMode):
    """Counts operators, and the bytes that casts write."""

    def __init__(self):
        super().__init__()
        self.counts, self.bytes_of = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.counts[function.overloadpacket.__name__] += 1
        if torch.is_tensor(result):
            self.bytes_of[function.overloadpacket.__name__] += result.nbytes
        return result

    @property
    def cast_bytes(self) -> int:
        return self.bytes_of["_to_copy"]


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


@pytest.mark.parametrize("rounded", [False, True])
def test_a_fused_copy_takes_no_more_memory_than_its_weights(rounded):
    """SDXL's U-Net is 10 GB in float32: of what did not train no second copy is made, nor is the network moved."""
    unet = lora_unet(torch.bfloat16 if rounded else torch.float32)
    exact = build_miniature("unit", ["a"], seed=0)["unet"] if rounded else None
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    places = {p.data_ptr() for p in unet.parameters()}
    lent = {p.data_ptr() for p in exact.parameters()} if rounded else set()
    expected = expected_fusion(unet, exact or unet)
    with Operators() as done:
        fused = fuse_lora(unet, exact)
    assert {p.data_ptr() for p in unet.parameters()} == places
    assert all(torch.equal(p, before[name]) for name, p in unet.named_parameters())
    state = fused.state_dict()
    assert set(state) == set(expected) and all(p.dtype == torch.float32 for p in state.values())
    assert all(torch.allclose(state[name], expected[name], atol=1e-6) for name in state)
    assert not places & {p.data_ptr() for p in state.values()}
    size = sum(p.nbytes for p in state.values())
    if rounded:  # the weights of `exact`, and casts of nothing but the adapter
        changed = {f"{name}.weight" for name, layer in unet.named_modules() if isinstance(layer, BaseTunerLayer)}
        assert changed and {p.data_ptr() for name, p in state.items() if name not in changed} <= lent
        assert done.cast_bytes < 0.1 * size


def expected_fusion(unet, exact) -> dict[str, torch.Tensor]:
    """Weights by hand: those of `exact`, and for each layer with a LoRA its two matrices' product."""
    weights = {
        name.replace(".base_layer", ""): p.detach().clone()
        for name, p in exact.named_parameters()
        if "lora_" not in name
    }
    for name, layer in unet.named_modules():
        if isinstance(layer, BaseTunerLayer):
            up, down = layer.lora_B["default"].weight.detach(), layer.lora_A["default"].weight.detach()
            delta = layer.scaling["default"] * (up.flatten(1) @ down.flatten(1))
            weights[f"{name}.weight"] += delta.view_as(weights[f"{name}.weight"])
    return weights
