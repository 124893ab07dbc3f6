"""Weights that are whole: what a network lacks would silently stay random, and be scored or drawn with."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn


def check_loaded(name: str, model: nn.Module, report: Mapping[str, Iterable]) -> None:
    """Raise `ValueError` if not every tensor of `model` came from its file.

    Args:
        report: `output_loading_info` of transformers.
    """
    found = []
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(
            str(key[0] if isinstance(key, (tuple, list)) else key) for key in report.get(f"{kind}_keys") or ()
        )
        found += [f"{len(keys)} tensors are {kind}, first {keys[0]}"] if keys else []
    found += _not_finite(model)
    if found:
        raise ValueError(f"{name} does not hold the weights of its config.json: {'; '.join(found)}.")


def check_pipeline(name: str, pipeline) -> None:
    """The same of a diffusers pipeline: each network's tensors against the files in its folder, where it is one here;
    and none is NaN or infinite.

    Raises: `ValueError` that names the component.
    """
    for part, module in pipeline.components.items():
        if not isinstance(module, nn.Module):
            continue
        found, files = _not_finite(module), sorted((Path(name) / part).glob("*.safetensors"))
        if files:
            kept: set[str] = set()
            for file in files:
                with safe_open(file, "pt") as opened:
                    kept |= set(opened.keys())
            missing = sorted(set(dict(module.named_parameters())) - kept)
            found += [f"{len(missing)} tensors are missing, first {missing[0]}"] if missing else []
        if found:
            raise ValueError(f"{name}: the weights of {part} are not whole: {'; '.join(found)}.")


def _not_finite(module: nn.Module) -> list[str]:
    broken = [
        name for name, tensor in module.state_dict().items()
        if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all()
    ]  # fmt: skip
    return [f"{len(broken)} tensors hold NaN or infinity, first {broken[0]}"] if broken else []
