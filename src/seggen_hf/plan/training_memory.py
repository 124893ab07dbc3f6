"""Bytes of a training by purpose, and on disk."""

from ..config import TrainingConfig
from ..trainers.checkpoints import checkpoint_bytes
from .simulate import DTYPES, Cost

_MOMENTS = {"adamw": 8, "adamw_8bit": 2}  # bytes a trained weight


def training_memory(config: TrainingConfig, trained: int, frozen: int, cost: Cost | None, processes: int) -> dict:
    """Bytes by purpose at the worst moment of a step; the formulas stand in the names.

    Args:
        trained, frozen (`int`): parameters on the device.
        cost: of a forward and backward pass; without it activations are left out.
    """
    frozen_item, moments = DTYPES[config.mixed_precision].itemsize, _MOMENTS[config.optimizer]
    memory = {"trained weights (4 bytes each)": 4 * trained}
    if frozen:
        memory[f"frozen weights ({frozen_item} bytes each)"] = frozen_item * frozen
    memory |= {
        "gradients (4 bytes)": 4 * trained,
        f"{config.optimizer}'s two moments ({moments} bytes)": moments * trained,
    }
    if config.ema_decay > 0:
        memory["average of the weights, EMA (4 bytes)"] = 4 * trained
    if processes > 1:
        memory["DDP's gradient buckets (4 bytes)"] = 4 * trained
    if cost is not None:
        memory[f"activations of {config.train_batch_size} samples, at the worst moment"] = max(cost.activations, 0)
    return memory


def standing_bytes(config: TrainingConfig, trained: int) -> int:
    """What a training holds beside weights and gradients all the time: moments and average."""
    return (_MOMENTS[config.optimizer] + (4 if config.ema_decay > 0 else 0)) * trained


def checkpoint_disk(config: TrainingConfig, trained: int, buffers: int = 0) -> dict[str, int]:
    """`{purpose: bytes}` of the checkpoints that lie on disk at a time: two, unless more are kept."""
    size, limit = checkpoint_size(config, trained, buffers), max(2, config.checkpoints_total_limit)
    return {f"checkpoints, {limit} of {size / 1e9:.2f} GB": limit * size}


def checkpoint_host(config: TrainingConfig, trained: int, buffers: int = 0) -> dict[str, int]:
    """`{purpose: bytes}` of what is written from, beside the training."""
    return {"copy of a checkpoint, from which it is written": checkpoint_size(config, trained, buffers)}


def checkpoint_size(config: TrainingConfig, trained: int, buffers: int = 0) -> int:
    """Bytes of one checkpoint, and of the copy in host memory from which it is written."""
    return checkpoint_bytes(trained, buffers, config.ema_decay > 0, config.optimizer)
