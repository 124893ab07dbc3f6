"""What a training tells of its steps, gathered on the device and read once for many steps."""

import math
from typing import Any

import torch
from accelerate import Accelerator

_CURE = "Lower --learning_rate or use --mixed_precision no; the training continues from the last checkpoint."


class LogWindow:
    """The numbers of the steps since the last log line.

    To read a number is to wait for the device, which then idles while the next step is prepared: losses and norms stay
    where they are until a log line or a checkpoint needs them.

    Args:
        place: what an error calls the training.
        forgives_gradients: whether a gradient may be infinite: a scaler skips such steps by itself.
    """

    def __init__(self, accelerator: Accelerator, accumulation: int, place: str, forgives_gradients: bool):
        self.accelerator, self.accumulation, self.place = accelerator, accumulation, place
        self.forgives_gradients = forgives_gradients
        self.steps = 0  # since the last line
        self._names: tuple[str, ...] = ()
        self._losses: list[torch.Tensor] = []  # of each micro-step, (names,) float32, on the device
        self._norms: list[torch.Tensor] = []  # of each step
        self._first = 0  # the step of the first of them
        self._sums: dict[str, float] = {}
        self._skipped = 0  # steps whose gradient was infinite

    def add_loss(self, step: int, loss: torch.Tensor, parts: dict[str, torch.Tensor]) -> None:
        """Take in a micro-step of `step` (0-based); the names of `parts` are the same at each."""
        names = ("loss", *parts)
        assert names == self._names or not self._losses, f"the loss had the parts {self._names} and now has {names}"
        if not self._losses:
            self._names, self._first = names, step
        self._losses.append(torch.stack([loss.detach().float(), *(v.detach().float() for v in parts.values())]))

    def end_step(self, norm: torch.Tensor | None) -> None:
        """Count a step; `norm` is that of its gradient, where it is known."""
        self.steps += 1
        if norm is not None:
            self._norms.append(norm.detach())

    def settle(self, collective: bool = True) -> None:
        """Read what is on the device. With `collective`, called by every rank, the losses are their mean.

        Raises: `FloatingPointError` naming the first step with a loss or a gradient that is infinite or NaN.
        """
        if not self._losses:
            return
        losses: Any = torch.stack(self._losses)  # a tensor, also when it has been reduced
        if collective:
            losses = self.accelerator.reduce(losses, reduction="mean")
        norms = torch.stack(self._norms) if self._norms else losses.new_zeros(0)
        numbers = torch.cat([losses.flatten(), norms.to(losses)]).tolist()
        width, split = len(self._names), losses.numel()
        micro_steps = [numbers[start : start + width] for start in range(0, split, width)]
        norms = numbers[split:]
        self._losses, self._norms = [], []
        for i, values in enumerate(micro_steps):
            step, micro = divmod(i, self.accumulation)
            self._check("loss", values[0], self._first + step)
            for name, value in zip(self._names, values, strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + value / self.accumulation
            if micro == self.accumulation - 1 and step < len(norms):
                if not self.forgives_gradients:
                    self._check("gradient", norms[step], self._first + step)
                if math.isfinite(norms[step]):
                    self._sums["grad_norm"] = self._sums.get("grad_norm", 0.0) + norms[step]
                else:
                    self._skipped += 1

    def _check(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(f"The {what} became {value} at step {step} of {self.place}. {_CURE}")

    def line(self) -> dict[str, float]:
        """The means over the steps since the last line, that of the gradient's norm over those that a scaler did not
        skip; begins the next window. Collective; raises as `settle`."""
        self.settle()
        counts = {"grad_norm": self.steps - self._skipped}
        means = {name: value / counts.get(name, self.steps) for name, value in self._sums.items()}
        self._sums, self.steps, self._skipped = {}, 0, 0
        return means
