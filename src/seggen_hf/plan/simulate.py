"""One forward and backward pass on the meta device: the bytes and the operations that a real one takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .memory_tracker import MemoryTracker
from .meta_mode import MetaMode

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Cost:
    """Of one pass over a batch.

    weights (bytes of the modules), peak (bytes at the worst moment, weights and gradients among them, optimizer and
    average not), gradients (bytes), flops (matrix products and convolutions; recomputation among them).
    """

    weights: int
    peak: int
    gradients: int
    flops: int

    @property
    def activations(self) -> int:
        """Bytes beside weights and gradients at the worst moment."""
        return self.peak - self.weights - self.gradients


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor without values."""
    return torch.empty(shape, dtype=dtype, device="meta")


def cost_of_training(
    modules: list[nn.Module], loss: Callable[[], torch.Tensor], mixed_precision: str, accumulates: bool = False
) -> Cost:
    """What a training's forward and backward pass takes.

    Args:
        modules: all that lies on the device, on meta and in the precision of the training.
        loss: the forward pass, to a scalar.
        mixed_precision: no, fp16 or bf16: that of autocast.
        accumulates (`bool`): gradients of an earlier pass are there already.
    """
    tracker, mode = MemoryTracker(), MetaMode(None if mixed_precision == "no" else DTYPES[mixed_precision])
    weights = tracker.hold(_tensors(modules))
    trained = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    gradients = sum(parameter.nbytes for parameter in trained)
    if accumulates:
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        tracker.hold(parameter.grad for parameter in trained if parameter.grad is not None)
    with tracker:
        with mode.forward():
            scalar = loss()
        mode.backward(scalar)
    return Cost(weights, tracker.peak, gradients, tracker.flops)


def cost_of_inference(modules: list[nn.Module], run: Callable[[], object], mixed_precision: str = "no") -> Cost:
    """The same of a forward pass without gradients."""
    tracker, mode = MemoryTracker(), MetaMode(None if mixed_precision == "no" else DTYPES[mixed_precision])
    weights = tracker.hold(_tensors(modules))
    with tracker, torch.no_grad(), mode.forward():
        run()
    return Cost(weights, tracker.peak, 0, tracker.flops)


def _tensors(modules: list[nn.Module]) -> Iterator[torch.Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()
