"""The exponential moving average of the weights that train."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch


class WeightAverage:
    """A float32 average of `parameters`, beside them on their device.

    After step n an average keeps the share `min((1 + n) / (10 + n), decay)` of its former value (diffusers' EMAModel:
    early averages forget the weights that the training began with), the first one nothing.

    Args:
        decay: the largest share kept at a step.
        every: steps between updates; an update keeps what those of all the steps would have kept.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float, every: int = 1):
        self.parameters, self.decay, self.every = list(parameters), decay, every
        self.shadow = [p.detach().clone() for p in self.parameters]

    def kept_share(self, step: int) -> float:
        """What an update after `step` steps (1-based) keeps of the average: a function of nothing else."""
        steps = range(step - self.every, step)
        return math.prod(0.0 if n == 0 else min((1 + n) / (10 + n), self.decay) for n in steps)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps, if an update is due; in place, without another copy of them."""
        if step % self.every == 0:
            torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - self.kept_share(step))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters hold the average. Both change places: nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for index, parameter in enumerate(self.parameters):
            parameter.data, self.shadow[index] = self.shadow[index], parameter.data
