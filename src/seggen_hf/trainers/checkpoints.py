"""Checkpoints without pickle: weights and optimizer state as safetensors, counters as JSON, whole or absent."""

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

logger = logging.getLogger(__name__)

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


def _flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """`{"<parameter index>.<state name>": tensor}`; AdamW's state holds tensors only."""
    state = optimizer.state_dict()["state"]
    tensors = {}
    for index, entries in state.items():
        for name, value in entries.items():
            tensors[f"{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def trainable_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that train, and buffers that training changes (batch-norm statistics)."""
    tensors = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    persistent = module.state_dict()
    tensors |= {name: b for name, b in module.named_buffers() if name in persistent}
    return {name: t.cpu().contiguous().clone() for name, t in tensors.items()}


def save_checkpoint(folder: Path, module, optimizer, ema, state: TrainingState) -> Path:
    """Write `folder/step-XXXXXXXX` under a temporary name, then rename it. Main process only."""
    target = folder / f"step-{state.step:08d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(trainable_tensors(module), temporary / "model.safetensors")
    save_file(_flatten_optimizer(optimizer), temporary / "optimizer.safetensors")
    if ema is not None:
        shadow = {str(i): p.detach().cpu().contiguous() for i, p in enumerate(ema.shadow_params)}
        save_file(shadow, temporary / "ema.safetensors", metadata={"optimization_step": str(ema.optimization_step)})
    (temporary / "state.json").write_text(json.dumps(vars(state)))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    return target


def update_state(folder: Path, state: TrainingState) -> None:
    """Write what validation added into the checkpoint of this step, if there is one. Main process only."""
    target = folder / f"step-{state.step:08d}" / "state.json"
    if target.is_file():
        temporary = target.with_name(".state.json.tmp")
        temporary.write_text(json.dumps(vars(state)))
        os.replace(temporary, target)


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first; what a killed run, a full disk or a broken copy left is not one."""
    if not folder.is_dir():
        return []
    found = [(int(m.group(1)), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found) if _is_whole(path)]


def _is_whole(path: Path) -> bool:
    """Whether every file is there at the length that its header states."""
    try:
        TrainingState(**json.loads((path / "state.json").read_text()))
        for name in {"model.safetensors", "optimizer.safetensors"} | {p.name for p in path.glob("*.safetensors")}:
            with safe_open(path / name, framework="pt"):
                pass
    except (OSError, ValueError, TypeError, SafetensorError):
        logger.warning("%s is not a whole checkpoint; it is passed over.", path)
        return False
    return True


def rotate_checkpoints(folder: Path, limit: int) -> None:
    """Remove the oldest checkpoints beyond `limit`, and what killed runs left behind."""
    for path in list_checkpoints(folder)[:-limit]:
        os.replace(path, folder / f".{path.name}.tmp")  # no half-removed folder keeps the name of a checkpoint
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


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
    state = TrainingState(**json.loads((path / "state.json").read_text()))
    may_differ = {"max_train_steps"}
    if state.step == fingerprint.get("max_train_steps"):
        may_differ.add("processes")
    now = json.loads(json.dumps(fingerprint))
    changed = {
        name: (state.fingerprint[name], value)
        for name, value in now.items()
        if name not in may_differ and state.fingerprint.get(name, value) != value
    }
    if changed:
        told = ", ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in changed.items())
        raise ValueError(
            f"{path} cannot be continued: {told}. Restore the setting, name another --output_dir, or pass "
            "--resume false to start again."
        )
    return state


def load_checkpoint(path: Path, module, optimizer, ema, fingerprint: dict) -> TrainingState:
    """Restore weights, optimizer and average in place, on every rank; returns the counters.

    Raises:
        ValueError: `read_state` refuses the checkpoint, or it holds another model.
    """
    state = read_state(path, fingerprint)
    tensors = load_file(path / "model.safetensors")
    ours = {name: tensor.shape for name, tensor in trainable_tensors(module).items()}
    if ours != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError(f"{path} holds another model than the one being trained; name another --output_dir.")
    module.load_state_dict(tensors, strict=False)
    _restore_optimizer(optimizer, load_file(path / "optimizer.safetensors"))
    if ema is not None:
        shadow = load_file(path / "ema.safetensors")
        for index, parameter in enumerate(ema.shadow_params):
            parameter.data.copy_(shadow[str(index)])
        ema.optimization_step = state.step
    return state
