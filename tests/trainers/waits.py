"""What a training's forward pass copies to its device, and so waits for.

On meta, whose tensors have no values: whoever asks for one fails, and what is copied to it can be counted.
"""

import copy

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from seggen_hf.trainers.stream import to_device


class Copies(TorchDispatchMode):
    """Notes tensors that go from the CPU to the device."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = [x for x in args if torch.is_tensor(x)]
        if torch.is_tensor(out) and out.is_meta and given and all(x.device.type == "cpu" for x in given):
            self.found.append(function.overloadpacket.__name__)
        return out


class Literals(TorchFunctionMode):
    """Notes tensors made there of Python's numbers: they are made on the CPU and copied."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor) and out.is_meta:
            self.found.append(function.__name__)
        return out


def copies_of_a_step(task, *frozen: torch.nn.Module) -> list[str]:
    """What the second loss of a training copies to its device; the first may fetch tables that stay there."""
    if hasattr(task, "draw"):
        batch = task.draw(0)
    else:
        batch = task.collate([task.sample(i, np.random.default_rng(i), 0) for i in range(2)])
    for module in (task.trainable, *frozen):
        module.to("meta")
    for _ in range(2):
        found: list[str] = []
        on_device = to_device(copy.copy(batch), torch.device("meta"))
        with Copies(found), Literals(found):
            loss, _ = task.loss(task.trainable.train(), on_device)
    assert loss.is_meta and loss.ndim == 0
    return found
