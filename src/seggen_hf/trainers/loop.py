"""The one training loop: step, accumulate, clip, average, log, validate, checkpoint, resume.

Every random draw of a sample follows from its place in the stream of samples: place `p` draws from
`np.random.default_rng([seed, p])`. So one process, many processes and a resumed run see the same samples, and a
checkpoint carries no random state.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import filter_trackers
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from ..config import TrainingConfig, save_config
from ..folders import TRAINING, claim_folder
from ..markers import HOW_ONLY
from .checkpoints import (
    TrainingState,
    find_checkpoint,
    load_checkpoint,
    read_state,
    rotate_checkpoints,
    save_checkpoint,
    set_aside,
    update_state,
)

logger = logging.getLogger(__name__)

# What one process does while the others wait (captions of a whole data set, converted maps) may take hours.
PROCESS_TIMEOUT = timedelta(days=1)


class Task(Protocol):
    """What is trained. The loop never asks which task it runs.

    A task with a method `epoch_order(rng)` has its own permutation of `num_records`; others are shuffled.
    """

    num_records: int
    trainable: torch.nn.Module

    def facts(self) -> dict:
        """JSON values of what the settings do not tell: records, labels, weights. Asked for before `to`."""

    def parameter_groups(self) -> list[dict]: ...

    def sample(self, index: int, rng: np.random.Generator, step: int) -> dict: ...

    def collate(self, samples: list[dict]) -> dict: ...

    def loss(self, module: torch.nn.Module, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]: ...

    def validate(self, step: int, folder: Path) -> dict[str, float]: ...

    def save(self, folder: Path) -> None: ...

    def to(self, device: torch.device, dtype: torch.dtype) -> None: ...


@dataclass
class Run:
    """A finished training: its folder, optimizer steps, log lines and seconds (all parts of a resumed run)."""

    folder: Path
    steps: int
    history: list[dict]
    seconds: float


class SampleStream(Dataset):
    """Sample number `position` of the endless, shuffled stream over a task's records."""

    def __init__(self, task: Task, seed: int, samples_per_step: int):
        self.task, self.seed, self.samples_per_step = task, seed, samples_per_step
        self._epoch, self._permutation = -1, None

    def record_index(self, position: int) -> int:
        epoch, place = divmod(position, self.task.num_records)
        if epoch != self._epoch:
            self._epoch = epoch
            rng = np.random.default_rng([self.seed, 2**32, epoch])
            order = getattr(self.task, "epoch_order", None)
            self._permutation = order(rng) if order else rng.permutation(self.task.num_records)
        return int(self._permutation[place])

    def __getitem__(self, position: int) -> dict:
        rng = np.random.default_rng([self.seed, position])
        return self.task.sample(self.record_index(position), rng, position // self.samples_per_step)


class RankBatches(Sampler):
    """Stream positions of one rank's batches, from `first_step` on: ranks lie side by side in each batch."""

    def __init__(
        self, first_step: int, last_step: int, accumulation: int, batch_size: int, rank: int, world_size: int
    ):
        self.steps, self.accumulation, self.batch_size = range(first_step, last_step), accumulation, batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for micro in range(self.accumulation):
                batch = (step * self.accumulation + micro) * self.world_size + self.rank
                yield list(range(batch * self.batch_size, (batch + 1) * self.batch_size))


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


def build_accelerator(config: TrainingConfig) -> Accelerator:
    """The only place where Accelerate is configured.

    Raises:
        ValueError: the tracker is unknown or not installed.
    """
    tracker = None if config.report_to == "none" else config.report_to
    if tracker and not filter_trackers(tracker, logging_dir=f"{config.output_dir}/log"):
        raise ValueError(f"--report_to {tracker} needs a package that is not installed: pip install {tracker}")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.mixed_precision:
        # Accelerate keeps the first precision for the life of the process; a run's stages may differ in it.
        AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=config.mixed_precision,
        log_with=tracker,
        project_config=ProjectConfiguration(project_dir=config.output_dir, logging_dir=f"{config.output_dir}/log"),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)],
    )


@contextlib.contextmanager
def averaged_weights(ema: EMAModel | None, parameters: list[torch.nn.Parameter]):
    """Within the block the parameters hold their average; without one they stay as they are."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def _to_device(batch, device):
    if torch.is_tensor(batch):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {k: _to_device(v, device) for k, v in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [_to_device(v, device) for v in batch]
    return batch


def _write_history(folder: Path, history: list[dict]) -> None:
    temporary = folder / ".history.jsonl.tmp"
    temporary.write_text("".join(json.dumps(line) + "\n" for line in history))
    os.replace(temporary, folder / "history.jsonl")


def describe_training(task: Task, config: TrainingConfig, processes: int) -> dict:
    """All that decides what a step computes: a checkpoint made with anything else is another training's."""
    # The place of the synthetic data is no setting; the task tells what is in it.
    places = {"synthetic_dataset", "synthetic_config_name", "synthetic_revision"}
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in HOW_ONLY | places}
    return settings | task.facts() | {"processes": processes}


def train(task: Task, config: TrainingConfig, accelerator: Accelerator | None = None) -> Run:
    """Train `task` for `config.max_train_steps` optimizer steps and save it to `config.output_dir`.

    Called by every rank: preparing, reducing and waiting are collective. Files are written by the main process. The
    process group stays: who built the accelerator calls `end_training`.

    Raises:
        FloatingPointError: the loss became infinite or NaN; the last whole checkpoint stays as it is.
        ValueError: a checkpoint in the folder was made with other settings or data, or is beyond the last step; or the
            folder holds what is no training's.
    """
    accelerator = accelerator or build_accelerator(config)
    try:
        return _train(task, config, accelerator)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def _train(task: Task, config: TrainingConfig, accelerator: Accelerator) -> Run:
    folder = Path(config.output_dir)
    claim_folder(folder, TRAINING, accelerator.is_main_process)
    checkpoints = folder / "checkpoints"
    fingerprint = describe_training(task, config, accelerator.num_processes)
    if not config.resume:
        if accelerator.is_main_process and (replaced := set_aside(checkpoints)):
            logger.warning("The checkpoints of an earlier training are now in %s", replaced)
        accelerator.wait_for_everyone()
    begun_at = find_checkpoint(checkpoints, config.max_train_steps)
    if begun_at:  # refused before the task makes or removes a cache
        planned = read_state(begun_at, fingerprint).fingerprint.get("max_train_steps", config.max_train_steps)
        if planned != config.max_train_steps:
            logger.warning(
                "%s was planned for %d steps and is now to end at %d: its learning rates were those of the former.",
                begun_at, planned, config.max_train_steps,
            )  # fmt: skip
    weight_dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    task.to(accelerator.device, weight_dtype)

    optimizer = torch.optim.AdamW(
        task.parameter_groups(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
    base_rates = [group["lr"] for group in optimizer.param_groups]
    module, optimizer = accelerator.prepare(task.trainable, optimizer)
    bare = accelerator.unwrap_model(module)
    parameters = [p for p in bare.parameters() if p.requires_grad]
    ema = EMAModel(parameters, decay=config.ema_decay, foreach=True) if config.ema_decay > 0 else None

    state = TrainingState()
    if begun_at:
        state = load_checkpoint(begun_at, bare, optimizer, ema, fingerprint)
        if state.loss_scale and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state.loss_scale)
        logger.info("Continuing at step %d of %s", state.step, folder)
    state.fingerprint = fingerprint
    if accelerator.is_main_process:
        save_config(config, folder)
        if config.report_to != "none":
            accelerator.init_trackers("seggen_hf", config={k: str(v) for k, v in vars(config).items()})

    accumulation = config.gradient_accumulation_steps
    samples_per_step = config.train_batch_size * accumulation * accelerator.num_processes
    loader = DataLoader(
        SampleStream(task, config.seed, samples_per_step),
        batch_sampler=RankBatches(
            state.step,
            config.max_train_steps,
            accumulation,
            config.train_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
        ),
        collate_fn=task.collate,
        num_workers=config.dataloader_num_workers,
        persistent_workers=config.dataloader_num_workers > 0,
    )

    def checkpoint() -> None:
        state.loss_scale = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        if accelerator.is_main_process:
            save_checkpoint(checkpoints, bare, optimizer, ema, state)
            rotate_checkpoints(checkpoints, config.checkpoints_total_limit)
            _write_history(folder, state.history)
        accelerator.wait_for_everyone()

    def validate() -> None:
        bare.eval()
        with averaged_weights(ema, parameters), torch.no_grad():
            if accelerator.is_main_process:
                numbers = task.validate(state.step, folder / "validation")
                if numbers:
                    state.history.append({"step": state.step} | {f"validation/{k}": v for k, v in numbers.items()})
                    accelerator.log({f"validation/{k}": v for k, v in numbers.items()}, step=state.step)
        bare.train()
        state.validated = state.step
        if accelerator.is_main_process:
            update_state(checkpoints, state)
        accelerator.wait_for_everyone()

    def validation_is_due() -> bool:
        regular = config.validation_steps and state.step and state.step % config.validation_steps == 0
        return state.validated < state.step and bool(regular or state.step == config.max_train_steps)

    if validation_is_due():  # the run ended between a checkpoint and its validation
        validate()
    bar = tqdm(
        total=config.max_train_steps,
        initial=state.step,
        desc=folder.name,
        unit="step",
        disable=not accelerator.is_local_main_process,
        mininterval=1.0,
    )
    bare.train()
    begun, seconds_before = time.monotonic(), state.seconds
    sums, window_start = {}, time.monotonic()
    window_steps = 0
    batches = iter(loader)
    while state.step < config.max_train_steps:
        # Dropout and the like draw from the global generator: tied to the step, so that resuming repeats it.
        torch.manual_seed((config.seed * 1_000_003 + state.step) * 1_009 + accelerator.process_index)
        factor = lr_factor(config, state.step)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        for micro in range(accumulation):
            batch = _to_device(next(batches), accelerator.device)
            synced = micro == accumulation - 1
            with contextlib.nullcontext() if synced else accelerator.no_sync(module):
                with accelerator.autocast():
                    loss, parts = task.loss(module, batch)
                accelerator.backward(loss / accumulation)
            numbers = torch.stack([loss.detach().float(), *(v.detach().float() for v in parts.values())])
            numbers = accelerator.reduce(numbers, reduction="mean")
            if not torch.isfinite(numbers[0]):
                raise FloatingPointError(
                    f"The loss became {numbers[0].item()} at step {state.step} of {folder}. Lower --learning_rate or "
                    "use --mixed_precision no; the training continues from the last checkpoint."
                )
            for name, value in zip(("loss", *parts), numbers.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value / accumulation
        if config.max_grad_norm > 0:
            norm = float(accelerator.clip_grad_norm_(parameters, config.max_grad_norm))
            if not math.isfinite(norm) and accelerator.scaler is None:  # a scaler skips such steps by itself
                raise FloatingPointError(
                    f"The gradient became {norm} at step {state.step} of {folder}. Lower --learning_rate or use "
                    "--mixed_precision no; the training continues from the last checkpoint."
                )
            sums["grad_norm"] = sums.get("grad_norm", 0.0) + norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            ema.step(parameters)
        state.step += 1
        window_steps += 1
        state.seconds = seconds_before + time.monotonic() - begun
        bar.update()

        last = state.step == config.max_train_steps
        if state.step % config.logging_steps == 0 or last:
            rate = window_steps * samples_per_step / (time.monotonic() - window_start)
            line = {name: value / window_steps for name, value in sums.items()}
            line |= {"lr": optimizer.param_groups[0]["lr"], "samples_per_second": rate}
            bar.set_postfix(loss=f"{line['loss']:.4f}", rate=f"{rate:.0f}/s")
            accelerator.log(line, step=state.step)
            state.history.append({"step": state.step} | line)
            sums, window_steps, window_start = {}, 0, time.monotonic()
        # The checkpoint first: should validation fail, nothing is lost, and its settings may change.
        if (config.checkpointing_steps and state.step % config.checkpointing_steps == 0) or last:
            checkpoint()
        if validation_is_due():
            validate()
        if window_steps == 0:
            window_start = time.monotonic()  # validation and checkpoints are no part of the rate
    bar.close()

    with averaged_weights(ema, parameters):
        if accelerator.is_main_process:
            bare.eval()
            task.save(folder)
            _write_history(folder, state.history)
    accelerator.wait_for_everyone()
    return Run(folder=folder, steps=state.step, history=state.history, seconds=state.seconds)
