"""LoRA on a generator's network: put on, and added to the weights once it is trained."""

import copy
import re
from typing import Any, TypeVar

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from ..config import GeneratorConfig
from ..config.values import nearest_name

Network = TypeVar("Network", bound=torch.nn.Module)  # of a base, or a ControlNet


def check_lora_targets(network: torch.nn.Module, targets: list[str]) -> None:
    """Raise `ValueError`, with the nearest name, if one of `targets` names no linear or convolution layer."""
    layers = [name for name, m in network.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            endings = {re.sub(r"^.*\.(?=[a-z_])", "", name) for name in layers}
            kind = {"ControlNetModel": "ControlNet", "UNet2DConditionModel": "U-Net"}.get(
                type(network).__name__, "transformer"
            )
            raise ValueError(
                f"--lora_targets has {target!r}, which names no layer of the {kind}. {nearest_name(target, endings)}"
            )


def add_lora(network: torch.nn.Module, config: GeneratorConfig, targets: list[str] | None = None) -> None:
    """Put a LoRA of `config` on `network`, in place; its weights follow from `config.seed`.

    Args:
        targets: the layers that get one; those of `config` if not given.
    """
    targets = config.lora_targets if targets is None else targets
    check_lora_targets(network, targets)
    adapted: Any = network  # diffusers' adapter methods
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        alpha = config.lora_alpha if config.lora_alpha is not None else config.lora_rank
        adapted.add_adapter(
            LoraConfig(
                r=config.lora_rank,
                lora_alpha=alpha,
                target_modules=list(targets),
                init_lora_weights="gaussian",
            )
        )
    layers: list[Any] = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        # peft would give each adapter a float32 copy of its input, for autocast to round back to what it was.
        layer.cast_input_dtype_enabled = False


def cast_frozen(network: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give the weights of `network` that do not train `dtype`, in place, and float32 those that do.

    Norms stay in float32: autocast computes them so, and would cast their weights in every pass.
    """
    for module in network.modules():
        is_norm = isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm))
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(torch.float32 if is_norm or parameter.requires_grad else dtype)


def fuse_lora(network: Network, exact: Network | None = None) -> Network:
    """A float32 copy of `network` on the CPU with its LoRA added to its weights; what did not train has those of
    `exact` (float32, on the CPU), where it is given, which is used up: its own weights become the copy's.

    `network` stays where it is, and nothing is in memory twice: SDXL's U-Net is 10 GB in float32.
    """
    originals = dict(exact.named_parameters()) if exact is not None else {}
    copies: dict[int, torch.Tensor] = {}  # `deepcopy` takes from here what it would copy
    for name, parameter in network.named_parameters():
        original = None if parameter.requires_grad else originals.get(name.replace(".base_layer", ""))
        data = parameter.detach().to("cpu", torch.float32, copy=True) if original is None else original.detach()
        copies[id(parameter)] = torch.nn.Parameter(data, requires_grad=parameter.requires_grad)
    for buffer in network.buffers():
        copies[id(buffer)] = buffer.detach().to("cpu", copy=True)
    fused: Any = copy.deepcopy(network, copies)
    fused.fuse_lora(safe_fusing=True)
    fused.unload_lora()
    return fused
