"""Checkpoints without pickle: weights and optimizer state as safetensors, counters as JSON, whole or absent.

How they are written is told in `checkpoint_writer`.
"""

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..storage.files import write_json

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # in the folder of a training
MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
STATE = "state.json"

_DEFAULTS = {"optimizer": "adamw", "ema_update_steps": 1, "image_gamma": 1.0, "train_text_encoders": False}
_NAME = re.compile(r"step-(\d+)")


@dataclass
class TrainingState:
    """The counters of a training. Random states need no place: every draw follows from (seed, step, position)."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    loss_scale: dict | None = None  # of a GradScaler, where there is one
    fingerprint: dict = field(default_factory=dict)
    validated: int = 0  # the last step that was validated


def _flatten(entries: dict, prefix: str) -> dict[str, torch.Tensor]:
    """`{"<prefix>.<name>": tensor}` of an optimizer's state of a parameter; 8-bit optimizers nest dicts in it."""
    tensors = {}
    for name, value in entries.items():
        if isinstance(value, dict):
            tensors |= _flatten(value, f"{prefix}.{name}")
        elif value is not None:
            tensors[f"{prefix}.{name}"] = torch.as_tensor(value)
    return tensors


def _unflatten(tensors: dict[str, torch.Tensor]) -> dict[int, dict]:
    """The state that `_flatten` took apart; whole numbers (a count of steps) are plain ones again."""
    state: dict[int, dict] = {}
    for key, value in tensors.items():
        index, *path, name = key.split(".")
        entries = state.setdefault(int(index), {})
        for part in path:
            entries = entries.setdefault(part, {})
        is_number = value.ndim == 0 and not value.is_floating_point()
        entries[name] = int(value) if is_number else value
    return state


def _trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that train, and buffers that training changes (batch-norm statistics)."""
    tensors = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    persistent = module.state_dict()
    return tensors | {name: b for name, b in module.named_buffers() if name in persistent}


def checkpoint_tensors(module, optimizer, average) -> dict[str, dict[str, torch.Tensor]]:
    """`{file: {name: tensor}}` of all that a checkpoint keeps, the training's own tensors.

    Each in the precision that training has it in: rounded moments or averages would make a resumed run another one.
    """
    moments = {}
    for index, entries in optimizer.state_dict()["state"].items():
        moments |= _flatten(entries, str(index))
    files = {MODEL: _trained(module), OPTIMIZER: moments}
    if average is not None:
        files[AVERAGE] = {str(i): tensor for i, tensor in enumerate(average.shadow)}
    return files


def checkpoint_bytes(trained: int, buffers: int = 0, average: bool = False, optimizer: str = "adamw") -> int:
    """Bytes of a checkpoint.

    Args:
        trained: number of the parameters that train, which are float32.
        buffers: number of the values in the network's persistent buffers, float32 too.
        average: whether an average of the weights is kept.
        optimizer: `adamw`, or `adamw_8bit`: bytes for moments, with a float32 scale for each 256 of them.
    """
    moments = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256)}[optimizer]
    return round(trained * (4 + 4 * average + moments)) + 4 * buffers


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def update_state(folder: Path, state: TrainingState) -> None:
    """Write what validation added into the checkpoint of this step, if there is one. Main process only."""
    target = folder / checkpoint_name(state.step) / STATE
    if target.is_file():
        write_json(target, vars(state))


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first; what a killed run, a full disk or a broken copy left is not one."""
    if not folder.is_dir():
        return []
    found = [(int(m.group(1)), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found) if _is_whole(path)]


def _is_whole(path: Path) -> bool:
    """Whether every file is there at the length that its header states."""
    try:
        TrainingState(**json.loads((path / STATE).read_text()))
        for name in {MODEL, OPTIMIZER} | {p.name for p in path.glob("*.safetensors")}:
            with safe_open(path / name, framework="pt"):
                pass
    except (OSError, ValueError, TypeError, SafetensorError):
        logger.warning("%s is not a whole checkpoint; it is passed over.", path)
        return False
    return True


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def _remove(paths: list[Path]) -> None:
    for path in paths:
        # No half-removed folder keeps the name of a checkpoint.
        shutil.rmtree(path.replace(path.with_name(f".{path.name}.tmp")))


def make_room(folder: Path, limit: int, needed: int) -> None:
    """Prepare for a checkpoint of `needed` bytes: remove what killed runs left, and the oldest ones while a whole one
    stays, so that with the new one there are at most `limit`, or two.

    Raises: `OSError`, with nothing whole removed, if the disk has no room for it.
    """
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    whole = list_checkpoints(folder)
    outdated = whole[: max(0, len(whole) - max(1, limit - 1))]
    check_room(folder, needed, sum(map(_size, outdated)))
    _remove(outdated)


def check_room(folder: Path, needed: int, freed: int = 0) -> None:
    """Raise `OSError` with the numbers if the disk of `folder` has no `needed` bytes, once `freed` are free too."""
    free = shutil.disk_usage(folder).free + freed
    if free < needed:
        raise OSError(
            f"A checkpoint needs {needed:,} bytes and the disk of {folder} has {free:,} for it. Make room and call "
            "again, or name an --output_dir on another disk."
        )


def rotate_checkpoints(folder: Path, limit: int) -> None:
    """Remove the oldest checkpoints beyond `limit`."""
    _remove(list_checkpoints(folder)[:-limit])


def set_aside(folder: Path) -> Path | None:
    """Rename `folder` if it holds checkpoints, so that those of a new training are not mixed with them."""
    if not list_checkpoints(folder):
        return None
    number = 1
    while (target := folder.with_name(f"{folder.name}.replaced-{number}")).exists():
        number += 1
    os.replace(folder, target)
    return target


def find_checkpoint(folder: Path, last_step: int) -> Path | None:
    """The newest whole checkpoint if `last_step` is not behind it, else that of exactly this step.

    Raises:
        ValueError: the training has gone on beyond `last_step`, and the checkpoint of that step is gone.
    """
    found = list_checkpoints(folder)
    steps = [int(path.name.removeprefix("step-")) for path in found]
    if not found or steps[-1] <= last_step:
        return found[-1] if found else None
    if last_step in steps:
        return found[steps.index(last_step)]
    raise ValueError(
        f"{found[-1]} is beyond --max_train_steps {last_step}, and no checkpoint of that step is left. Give at least "
        f"{steps[-1]} steps, name another --output_dir, or pass --resume false to start again."
    )


def read_state(path: Path, fingerprint: dict) -> TrainingState:
    """The counters of a checkpoint that is one of the training that `fingerprint` describes.

    Two things may differ: the number of steps, and of a finished training the number of processes.

    Raises:
        ValueError: the checkpoint was made with other settings or data; names each.
    """
    state = TrainingState(**json.loads((path / STATE).read_text()))
    may_differ = {"max_train_steps"}
    if state.step == fingerprint.get("max_train_steps"):
        may_differ.add("processes")
    now = json.loads(json.dumps(fingerprint))
    # A setting that a later version added was at its default.
    before = {name: _DEFAULTS.get(name, value) for name, value in now.items()} | state.fingerprint
    changed = {
        name: (before[name], value) for name, value in now.items() if name not in may_differ and before[name] != value
    }
    if changed:
        changes = ", ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in changed.items())
        raise ValueError(
            f"{path} cannot be continued: {changes}. Restore the setting, name another --output_dir, or pass "
            "--resume false to start again."
        )
    return state


def _lay_out_moments(optimizer) -> None:
    """Give each moment the strides of its parameter: a fused AdamW walks through both as they lie in memory, so that
    with a parameter in channels_last and contiguous moments it would mix up elements, and say nothing."""
    for parameter, state in optimizer.state.items():
        for name, moment in state.items():
            if torch.is_tensor(moment) and moment.shape == parameter.shape and moment.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)


def load_checkpoint(path: Path, module, optimizer, average, fingerprint: dict) -> TrainingState:
    """Restore weights, optimizer and average in place, on every rank; returns the counters.

    Raises:
        ValueError: `read_state` refuses the checkpoint, or it holds another model.
    """
    state = read_state(path, fingerprint)
    tensors = load_file(path / MODEL)
    ours = {name: tensor.shape for name, tensor in _trained(module).items()}
    if ours != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError(f"{path} holds another model than the one being trained; name another --output_dir.")
    module.load_state_dict(tensors, strict=False)
    moments = _unflatten(load_file(path / OPTIMIZER))
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    _lay_out_moments(optimizer)
    if average is not None:
        for index, tensor in load_file(path / AVERAGE).items():
            average.shadow[int(index)].copy_(tensor)
    return state
