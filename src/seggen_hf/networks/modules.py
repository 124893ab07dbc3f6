"""Networks of transformers and diffusers, made and moved with the types that the libraries' wrappers lose."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

Made = TypeVar("Made")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def from_config(kind: type[Made], config: Mapping[str, Any]) -> Made:
    """`kind.from_config(config)` of a network or scheduler of diffusers, which alone is what comes back of it."""
    maker: Any = kind
    return maker.from_config(config)


def move(module: ModuleT, device: str | torch.device) -> ModuleT:
    """`module.to(device)`."""
    return module.to(device)
