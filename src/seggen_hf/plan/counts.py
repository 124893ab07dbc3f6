"""How many parameters, and bytes of them, a module has."""

import torch


def count(module: torch.nn.Module, trained: bool = False) -> int:
    """Parameters of a module, or those of them that train."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def weight_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(p.nbytes for p in module.parameters())
