"""Bytes that tensors hold and floating point operations that they cost, counted while a step runs on meta."""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_BLOCK = 512  # bytes; torch's allocator on CUDA hands out multiples


def count_flops(func, args: tuple, kwargs: dict, output) -> int:
    """Of a matrix product or a convolution, a multiplication with its addition as two; 0 of anything else."""
    formula = flop_registry.get(func.overloadpacket)
    return formula(*args, **kwargs, out_val=output) if formula is not None else 0


class Remembered:
    """What operations give and cost on meta, by the shapes and settings that they were given.

    torch works much of that out by many steps in Python, half of a plan's time, and networks repeat their blocks. What
    shares memory with its inputs, or writes into them, is run each time.
    """

    def __init__(self):
        self._pure: dict = {}  # of each operation whether its declaration allows to remember it
        self._results: dict[tuple, tuple | None] = {}  # None: of what shares memory all the same

    def run(self, func, args: tuple, kwargs: dict) -> tuple[Any, int]:
        """The output, and the floating point operations."""
        if func not in self._pure:
            schema = func._schema
            shares = schema.is_mutable or any(value.alias_info is not None for value in schema.returns)
            self._pure[func] = not shares and not func.is_view
        if not self._pure[func]:
            return run_anew(func, args, kwargs)
        try:
            key = (func, _signature(args), _signature(tuple(kwargs.items())))
            known = self._results.get(key, ())
        except TypeError:  # a setting that nobody can look up
            return run_anew(func, args, kwargs)
        if known:
            return _rebuild(*known[:2]), known[2]
        output, flops = run_anew(func, args, kwargs)
        if known is not None:
            described = _describe(output, (*args, *kwargs.values()))
            self._results[key] = described and (*described, flops)
        return output, flops


def run_anew(func, args: tuple, kwargs: dict) -> tuple[Any, int]:
    output = func(*args, **kwargs)
    return output, count_flops(func, args, kwargs, output)


def _signature(value):
    """What a result on meta depends on; numbers with their type, since 1 and 1.0 are one key."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device.type
    if isinstance(value, (list, tuple)):
        return tuple(map(_signature, value))
    return type(value), value


def _describe(output, inputs: tuple) -> tuple | None:
    """How to make the like of `output`; None if it is not all new tensors (`_unsafe_view` does not declare it)."""
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    given = {tensor.untyped_storage()._cdata for tensor in _tensors(inputs)}
    places = set()
    for tensor in outputs:
        if tensor is None:
            continue
        if not isinstance(tensor, torch.Tensor) or tensor.device.type != "meta" or tensor.storage_offset():
            return None
        place = tensor.untyped_storage()._cdata
        if place in given or place in places:
            return None
        places.add(place)
    made = tuple(None if t is None else (tuple(t.shape), t.stride(), t.dtype) for t in outputs)
    return (type(output) if isinstance(output, (tuple, list)) else None, made)


def _tensors(values) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _rebuild(kind: type | None, made: tuple):
    tensors = [
        None if one is None else torch.empty_strided(one[0], one[1], dtype=one[2], device="meta") for one in made
    ]
    return tensors[0] if kind is None else kind(tensors)


REMEMBERED = Remembered()


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
        run = REMEMBERED.run if self.device == "meta" else run_anew
        output, flops = run(func, args, kwargs)
        self.flops += flops
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self.device:
                self._see(tensor)
        return output
