"""Bytes that tensors hold and floating point operations that they cost, counted while a step runs on meta."""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_BLOCK = 512  # bytes; torch's allocator on CUDA hands out multiples

aten = torch.ops.aten


def _norm_backward(gradient, values, weight, mask):
    """Gradients of what a norm reads, its weight and its bias, each where `mask` asks for it."""
    made = [torch.empty_like(values), *((torch.empty_like(weight),) * 2 if weight is not None else (None, None))]
    return tuple(tensor if wanted else None for tensor, wanted in zip(made, mask, strict=True))


def _layer_norm(values, shape, weight, bias, eps):
    statistics = values.new_empty([*values.shape[: values.ndim - len(shape)], *[1] * len(shape)], dtype=torch.float32)
    return torch.empty_like(values), statistics, torch.empty_like(statistics)


def _group_norm(values, weight, bias, batch, channels, pixels, groups, eps):
    statistics = values.new_empty((batch, groups), dtype=torch.float32)
    return torch.empty_like(values), statistics, torch.empty_like(statistics)


def _of_equals(operation):
    """`operation` on two tensors; of the same shape and type the result is like the first."""

    def shortcut(left, right, **settings):
        is_alike = isinstance(right, torch.Tensor) and left.shape == right.shape and left.dtype == right.dtype
        return torch.empty_like(left) if is_alike and left.is_floating_point() else operation(left, right, **settings)

    return shortcut


# Operations whose results torch works out on meta by many steps in Python: three quarters of a plan's time. The shapes
# are the same, as a test says that runs a step with both.
SHORTCUTS = {
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.native_layer_norm_backward.default: (
        lambda gradient, values, shape, mean, rstd, weight, bias, mask: _norm_backward(gradient, values, weight, mask)
    ),
    aten.native_group_norm_backward.default: (
        lambda gradient, values, mean, rstd, weight, n, c, pixels, groups, mask: _norm_backward(
            gradient, values, weight, mask
        )
    ),
    aten.add.Tensor: _of_equals(aten.add.Tensor),
    aten.mul.Tensor: _of_equals(aten.mul.Tensor),
    aten.div.Tensor: _of_equals(aten.div.Tensor),
    aten.mm.default: lambda left, right: left.new_empty((left.shape[0], right.shape[1])),
    aten.grid_sampler_2d.default: lambda values, grid, *settings: values.new_empty(
        (*values.shape[:2], *grid.shape[1:3])
    ),
    aten.gelu.default: lambda values, *, approximate="none": torch.empty_like(values),
    aten.gelu_backward.default: lambda gradient, values, *, approximate="none": torch.empty_like(values),
    aten.addmm.default: (
        lambda bias, left, right, *, beta=1, alpha=1: left.new_empty((left.shape[0], right.shape[1]))
    ),
}


class MemoryTracker(TorchDispatchMode):
    """Within the block every storage on `device` counts from its first appearance until the last tensor on it is gone.

    Attributes:
        now, peak (`int`): bytes held, and the most there ever were.
        flops (`int`): of matrix products and convolutions, a multiplication with its addition as two.
    """

    def __init__(self, device: str = "meta"):
        super().__init__()
        self.device = device
        self.now, self.peak, self.flops = 0, 0, 0
        self._held: dict[int, tuple[int, weakref.ref]] = {}

    def hold(self, tensors: Iterable[torch.Tensor]) -> int:
        """Count what is there before the block; returns the bytes that were new."""
        before = self.now
        for tensor in tensors:
            self._see(tensor)
        return self.now - before

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK
        self._held[key] = (size, weakref.ref(storage, lambda _: self._let_go(key)))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _let_go(self, key: int) -> None:
        self.now -= self._held.pop(key)[0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        shortcut = SHORTCUTS.get(func) if self.device == "meta" else None
        output = shortcut(*args, **kwargs) if shortcut else func(*args, **kwargs)
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=output)
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self.device:
                self._see(tensor)
        return output
