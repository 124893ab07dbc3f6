"""The one training loop: step, accumulate, clip, average, log, validate, checkpoint, resume."""

import contextlib
import dataclasses
import json
import logging
import signal
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from tqdm.auto import tqdm

from ..config import HOW_ONLY, TrainingConfig, save_config
from ..process.stopping import Stopped, StopRequest, stop_requests
from ..storage.files import write_text
from ..storage.folders import TRAINING, claim_folder, hold_folder
from .checkpoint_writer import CheckpointWriter
from .checkpoints import (
    CHECKPOINTS,
    TrainingState,
    check_room,
    checkpoint_bytes,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_state,
    set_aside,
)
from .optimizer import check_optimizer
from .step import OptimizerStep
from .stream import build_loader, draw_batches
from .trackers import list_pictures, list_trackers, open_trackers

logger = logging.getLogger(__name__)

# What one process does while the others wait (captions of a whole data set, converted maps) may take hours.
PROCESS_TIMEOUT = timedelta(days=1)
# Steps after which several processes ask each other for signals: each time they wait for their devices.
_AGREEMENT_STEPS = 10


class TrainingTask(Protocol):
    """What is trained. The loop never asks which task it runs.

    A task has the methods `sample(index, rng, step) -> dict` and `collate(samples) -> dict`, or a method
    `draw(number) -> dict` that draws whole batches itself, where its data is. One with a method `epoch_order(rng)` has
    its own permutation of `num_records`; others are shuffled. One
    whose `keeps_nothing` is true ends the training by an exception before the first checkpoint.
    """

    num_records: int

    @property
    def trainable(self) -> torch.nn.Module: ...

    def facts(self) -> dict:
        """JSON values of what the settings do not tell: records, labels, weights. Asked for before `to`."""
        ...

    def parameter_groups(self) -> list[dict]: ...

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


def build_accelerator(config: TrainingConfig) -> Accelerator:
    """The only place where Accelerate is configured.

    Raises:
        ValueError: a tracker is unknown or not installed.
    """
    list_trackers(config.report_to)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.mixed_precision:
        # Accelerate keeps the first precision for the life of the process; a run's stages may differ in it.
        AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)],
    )


def _write_history(folder: Path, history: list[dict]) -> None:
    write_text(folder / "history.jsonl", "".join(json.dumps(line) + "\n" for line in history))


def describe_training(task: TrainingTask, config: TrainingConfig, processes: int) -> dict:
    """All that decides what a step computes: a checkpoint made with anything else is another training's."""
    # The place of the synthetic data is no setting; the task tells what is in it.
    places = {"synthetic_dataset", "synthetic_config_name", "synthetic_revision"}
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in HOW_ONLY | places}
    return settings | task.facts() | {"processes": processes}


def train(task: TrainingTask, config: TrainingConfig, accelerator: Accelerator | None = None) -> Run:
    """Train `task` for `config.max_train_steps` optimizer steps and save it to `config.output_dir`.

    Called by every rank: preparing, reducing and waiting are collective. Files are written by the main process. The
    process group stays: who built the accelerator calls `end_training`.

    Raises:
        FloatingPointError: the loss became infinite or NaN; the last whole checkpoint stays as it is.
        OSError: a checkpoint could not be written.
        Stopped: after Ctrl-C or SIGTERM, with a checkpoint of the step; at Ctrl-C after that at once, without.
        ValueError: a checkpoint in the folder was made with other settings or data, or is beyond the last step; the
            folder holds what is no training's, or another process fills it; the optimizer's package is not installed.
    """
    accelerator = accelerator or build_accelerator(config)
    check_optimizer(config)
    claim_folder(config.output_dir, TRAINING, accelerator.is_main_process)
    alone = hold_folder(config.output_dir, TRAINING) if accelerator.is_main_process else contextlib.nullcontext()
    with alone:
        return _Training(task, config, accelerator).run()


class _Training:
    """What a training holds while it runs. Unless it says otherwise, a method is called by every rank."""

    def __init__(self, task: TrainingTask, config: TrainingConfig, accelerator: Accelerator):
        self.task, self.config, self.accelerator = task, config, accelerator
        self.folder = Path(config.output_dir)
        self.fingerprint = describe_training(task, config, accelerator.num_processes)
        begun_at = self._find_begun()
        precisions = {"fp16": torch.float16, "bf16": torch.bfloat16}
        task.to(accelerator.device, precisions.get(accelerator.mixed_precision, torch.float32))

        self.step = step = OptimizerStep(task, config, accelerator, str(self.folder))
        self.state = TrainingState()
        if begun_at:
            self.state = load_checkpoint(begun_at, step.bare, step.optimizer, step.average, self.fingerprint)
            if self.state.loss_scale and accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(self.state.loss_scale)
            logger.info("Continuing at step %d of %s", self.state.step, self.folder)
        self.state.fingerprint = self.fingerprint
        self.writer = CheckpointWriter(self.folder / CHECKPOINTS, config.checkpoints_total_limit)
        self.samples_per_step = (
            config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
        )

    def _find_begun(self) -> Path | None:
        """The checkpoint to go on from; refused before the task makes or removes a cache."""
        checkpoints, last_step = self.folder / CHECKPOINTS, self.config.max_train_steps
        if not self.config.resume:
            if self.accelerator.is_main_process and (replaced := set_aside(checkpoints)):
                logger.warning("The checkpoints of an earlier training are now in %s", replaced)
            self.accelerator.wait_for_everyone()
        begun_at = find_checkpoint(checkpoints, last_step)
        if begun_at:
            planned = read_state(begun_at, self.fingerprint).fingerprint.get("max_train_steps", last_step)
            if planned != last_step:
                logger.warning(
                    "%s was planned for %d steps and is now to end at %d: its learning rates were those of the "
                    "former.",
                    *(begun_at, planned, last_step),
                )
        return begun_at

    def run(self) -> Run:
        config, state = self.config, self.state
        if self.accelerator.is_main_process:
            if not getattr(self.task, "keeps_nothing", False):
                self._check_room()
            save_config(config, self.folder)
        report_to = config.report_to if self.accelerator.is_main_process else "none"
        try:
            with open_trackers(report_to, self.folder, state.step) as self.trackers, stop_requests() as request:
                self._take_steps(request)
                self.writer.wait()
                with self.step.averaged():
                    if self.accelerator.is_main_process:
                        self.step.bare.eval()
                        self.task.save(self.folder)
                        _write_history(self.folder, state.history)
                self.accelerator.wait_for_everyone()
        except Exception:  # not of a signal: who sends Ctrl-C twice does not want to wait
            self.writer.finish()
            raise
        return Run(folder=self.folder, steps=state.step, history=state.history, seconds=state.seconds)

    def _check_room(self) -> None:
        """Refuse a disk that will not hold the checkpoints before the first of them is paid for. Main process only."""
        config, found = self.config, len(list_checkpoints(self.writer.folder))
        left = config.max_train_steps - self.state.step
        coming = -(-left // config.checkpointing_steps) if config.checkpointing_steps else min(left, 1)
        held = min(max(2, config.checkpoints_total_limit), found + coming)
        trained = sum(p.numel() for p in self.step.parameters)
        buffers = sum(b.numel() for b in self.step.bare.buffers())
        size = checkpoint_bytes(trained, buffers, self.step.average is not None, config.optimizer)
        check_room(self.folder, max(0, held - found) * size)

    def _take_steps(self, request: StopRequest) -> None:
        config, state, accelerator = self.config, self.state, self.accelerator
        if self._validation_is_due():  # the run ended between a checkpoint and its validation
            self._validate()
        bar = tqdm(
            total=config.max_train_steps,
            initial=state.step,
            desc=self.folder.name,
            unit="step",
            disable=not accelerator.is_local_main_process,
            mininterval=1.0,
        )
        place = config, state.step, accelerator.process_index, accelerator.num_processes
        task: Any = self.task  # one way or the other
        if hasattr(task, "draw"):
            batches = draw_batches(task, *place)
        else:
            pinned = accelerator.device.type == "cuda"
            batches = build_loader(task, task.collate, *place, pin_memory=pinned)
        self.step.bare.train()
        begun, seconds_before = time.monotonic(), state.seconds
        self.window_start = time.monotonic()
        self.batches = iter(batches)
        with bar, contextlib.ExitStack() as stack:
            # Its processes end here; a traceback would keep them until the garbage is collected, in any thread.
            stack.callback(delattr, self, "batches")
            while state.step < config.max_train_steps:
                self.writer.check()
                self.step.take(state.step, lambda: next(self.batches))
                state.step += 1
                state.seconds = seconds_before + time.monotonic() - begun
                bar.update()
                last = state.step == config.max_train_steps
                if state.step % config.logging_steps == 0 or last:
                    self._log(bar)
                number = self._agreed_signal(request)
                # The checkpoint first: should validation fail, nothing is lost, and its settings may change.
                if (config.checkpointing_steps and state.step % config.checkpointing_steps == 0) or last or number:
                    self._checkpoint()
                if number:
                    self.writer.wait()
                    message = f"stopped at step {state.step} of {self.folder}; the same command goes on there."
                    raise Stopped(number, message)
                if self._validation_is_due():
                    self._validate()
                if self.step.window.steps == 0:
                    self.window_start = time.monotonic()  # validation and checkpoints are no part of the rate

    def _log(self, bar: tqdm) -> None:
        state, samples = self.state, self.step.window.steps * self.samples_per_step
        line = self.step.window.line()
        rate = samples / (time.monotonic() - self.window_start)
        line |= {"lr": self.step.learning_rate, "samples_per_second": rate}
        bar.set_postfix(loss=f"{line['loss']:.4f}", rate=f"{rate:.0f}/s")
        self.trackers.log(line, state.step)
        state.history.append({"step": state.step} | line)

    def _agreed_signal(self, request: StopRequest) -> int:
        """The signal that ends the training after this step, on every rank; 0 if it goes on."""
        if self.accelerator.num_processes == 1:
            return request.number
        step, config = self.state.step, self.config
        if step % _AGREEMENT_STEPS and step % config.logging_steps and step != config.max_train_steps:
            return 0
        asked = [request.number == number for number in (signal.SIGTERM, signal.SIGINT)]
        of_this = torch.tensor(asked, device=self.accelerator.device).int()
        of_all: Any = self.accelerator.reduce(of_this, reduction="sum")  # a tensor again
        terminated, interrupted = of_all.tolist()
        return signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0

    def _checkpoint(self) -> None:
        self.step.window.settle()  # no checkpoint holds weights that have become NaN
        scaler = self.accelerator.scaler
        self.state.loss_scale = scaler.state_dict() if scaler is not None else None
        if self.accelerator.is_main_process:
            self.writer.begin(self.step.bare, self.step.optimizer, self.step.average, self.state)
            _write_history(self.folder, self.state.history)

    def _validation_is_due(self) -> bool:
        config, state = self.config, self.state
        regular = config.validation_steps and state.step and state.step % config.validation_steps == 0
        return state.validated < state.step and bool(regular or state.step == config.max_train_steps)

    def _validate(self) -> None:
        state = self.state
        self.step.bare.eval()
        with self.step.averaged(), torch.no_grad():
            if self.accelerator.is_main_process:
                pictures = self.folder / "validation"
                numbers = {f"validation/{k}": v for k, v in self.task.validate(state.step, pictures).items()}
                if numbers:
                    state.history.append({"step": state.step} | numbers)
                    self.trackers.log(numbers, state.step)
                self.trackers.show(list_pictures(pictures, state.step), state.step)
        self.step.bare.train()
        state.validated = state.step
        if self.accelerator.is_main_process:
            self.writer.update(state)
        self.accelerator.wait_for_everyone()
