"""The optimizer step: the weights that train, what moves them, and what is told of it."""

import contextlib
from collections.abc import Callable

import torch
from accelerate import Accelerator

from ..config import TrainingConfig
from .average import WeightAverage
from .optimizer import build_optimizer, lr_factor
from .stream import to_device
from .window import LogWindow


class OptimizerStep:
    """A task's weights with their optimizer, and their average if the settings ask for one. Every rank has one.

    Args:
        task (`trainers.loop.TrainingTask`): on its device already.
        place: what an error calls the training.

    Attributes:
        module: what runs, wrapped for several processes; `bare`: the same without the wrapper.
        window (`LogWindow`): the losses and gradients of the steps since the last log line.
    """

    def __init__(self, task, config: TrainingConfig, accelerator: Accelerator, place: str):
        self.task, self.config, self.accelerator = task, config, accelerator
        optimizer = build_optimizer(task.parameter_groups(), config)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self.module, self.optimizer = accelerator.prepare(task.trainable, optimizer)
        self.bare = accelerator.unwrap_model(self.module)
        self.parameters = [p for p in self.bare.parameters() if p.requires_grad]
        self.average = None
        if config.ema_decay > 0:
            every = min(config.ema_update_steps, config.max_train_steps)  # a trial of a few steps has an average too
            self.average = WeightAverage(self.parameters, config.ema_decay, every)
        forgives = accelerator.scaler is not None
        self.window = LogWindow(accelerator, config.gradient_accumulation_steps, place, forgives)

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def take(self, number: int, next_batch: Callable[[], dict]) -> None:
        """Step `number` (0-based) with what `next_batch` gives; nothing in it waits for the device."""
        config, accelerator = self.config, self.accelerator
        # Dropout and the like draw from the global generator: tied to the step, so that resuming repeats it.
        torch.manual_seed((config.seed * 1_000_003 + number) * 1_009 + accelerator.process_index)
        factor = lr_factor(config, number)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        accumulation = config.gradient_accumulation_steps
        for micro in range(accumulation):
            batch = to_device(next_batch(), accelerator.device)
            with contextlib.nullcontext() if micro == accumulation - 1 else accelerator.no_sync(self.module):
                loss, parts = self._loss(batch)
                accelerator.backward(loss / accumulation)
            self.window.add_loss(number, loss, parts)
        norm = None
        if config.max_grad_norm > 0:
            norm = accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.window.end_step(norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(number + 1)

    def _loss(self, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        try:
            with self.accelerator.autocast():
                return self.task.loss(self.module, batch)
        except Exception:
            self.window.settle(collective=False)  # an earlier step that went wrong is the cause to name
            raise

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within the block the weights are their average, if there is one."""
        return self.average.applied() if self.average is not None else contextlib.nullcontext()
