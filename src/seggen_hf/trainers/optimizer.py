"""The optimizer that a training's settings name, and its learning rate at each step."""

import importlib.util
import math

import torch

from ..config import TrainingConfig


def check_optimizer(config: TrainingConfig) -> None:
    """Raise `ValueError` with the line that installs it if the optimizer's package is missing."""
    if config.optimizer == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("--optimizer adamw_8bit needs bitsandbytes: pip install 'seggen_hf[8bit]'")


def build_optimizer(groups: list[dict], config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of `config` over the parameter groups of a task."""
    options = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True, **options)
    check_optimizer(config)
    from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]  # an extra

    return AdamW8bit(groups, **options)


def lr_factor(config: TrainingConfig, step: int) -> float:
    """Factor of the learning rate at `step` (0-based), a function of nothing else."""
    if step < config.lr_warmup_steps:
        return (step + 1) / config.lr_warmup_steps
    if config.lr_scheduler in ("constant", "constant_with_warmup"):
        return 1.0
    if config.lr_scheduler == "multistep":
        return 0.1 ** sum(step >= milestone for milestone in config.lr_milestones)
    length = max(1, config.max_train_steps - config.lr_warmup_steps)
    progress = min(1.0, (step - config.lr_warmup_steps) / length)
    if config.lr_scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return (1 - progress) ** (config.lr_power if config.lr_scheduler == "polynomial" else 1.0)
