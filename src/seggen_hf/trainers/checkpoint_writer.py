"""Checkpoints written beside the training: it waits for a copy in host memory, not for the disk.

A training of SDXL's U-Net with an average keeps 41 GB.
"""

import json
import logging
import os
import shutil
import threading
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from .checkpoints import (
    STATE,
    TrainingState,
    checkpoint_name,
    checkpoint_tensors,
    make_room,
    rotate_checkpoints,
    update_state,
)

logger = logging.getLogger(__name__)

BLOCK, ALIGNMENT = 2**30, 64  # bytes


class CheckpointWriter:
    """Writes the checkpoints of a training into `folder`, at most one at a time. Main process only.

    At every moment at least one whole checkpoint is there, once there is one, and never more of them, the one being
    written included, than `limit` or two.

    Raises, from any method but `finish`: `OSError` if a checkpoint could not be written, once.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self._host: dict[str, dict[str, torch.Tensor]] = {}
        self._thread: threading.Thread | None = None
        self._failure: OSError | None = None

    def begin(self, module, optimizer, average, state: TrainingState) -> None:
        """Copy what is to be kept, and write it from there; what is being written is waited for first."""
        self.wait()
        tensors = checkpoint_tensors(module, optimizer, average)
        self.folder.mkdir(parents=True, exist_ok=True)
        make_room(self.folder, self.limit, sum(t.nbytes for part in tensors.values() for t in part.values()))
        self._copy(tensors)
        device = next((t.device for part in tensors.values() for t in part.values() if t.is_cuda), None)
        copied = torch.cuda.current_stream(device).record_event() if device else None
        self._thread = threading.Thread(
            target=self._write,
            args=(checkpoint_name(state.step), json.dumps(vars(state)), copied),
            name="checkpoint",
            daemon=True,  # who ends at once does not wait: what was begun has another name until it is whole
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what has failed; does not wait."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def finish(self) -> None:
        """Wait, where another error is about to be told: one of the writing is only logged."""
        try:
            self.wait()
        except OSError as error:
            logger.warning("%s", error)

    def update(self, state: TrainingState) -> None:
        """Write what validation added into the checkpoint of this step, if there is one."""
        self.wait()
        update_state(self.folder, state)

    def _copy(self, tensors: dict[str, dict[str, torch.Tensor]]) -> None:
        """Contiguous copies in host memory, in the buffers of the copy before. Pinned, those of a GPU are made in a
        tenth of the time, and in the order of its work, so that the training goes on at once."""
        if _layout(self._host) != _layout(tensors):
            self._host = {}  # room for the new ones
            on_gpu = sum(_padded(t) for part in tensors.values() for t in part.values() if t.is_cuda)
            blocks = HostBlocks(on_gpu, pin=True)
            self._host = {
                file: {
                    name: blocks.take(t) if t.is_cuda else torch.empty(t.shape, dtype=t.dtype)
                    for name, t in part.items()
                }
                for file, part in tensors.items()
            }
        for file, part in tensors.items():
            for name, tensor in part.items():
                buffer = self._host[file][name]
                buffer.copy_(tensor, non_blocking=buffer.is_pinned())

    def _write(self, name: str, state: str, copied: torch.cuda.Event | None) -> None:
        temporary = self.folder / f".{name}.tmp"
        try:
            if copied:
                copied.synchronize()
            temporary.mkdir()
            for file, tensors in self._host.items():
                save_file(tensors, temporary / file)  # from the buffers themselves, without a copy
                _sync(temporary / file)
            (temporary / STATE).write_text(state)
            _sync(temporary / STATE)
            shutil.rmtree(self.folder / name, ignore_errors=True)  # nothing whole: no step is made twice
            os.replace(temporary, self.folder / name)
            rotate_checkpoints(self.folder, self.limit)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self._failure = OSError(
                f"The checkpoint {self.folder / name} could not be written: {error}. Cure that and call again; the "
                "training continues from the last whole checkpoint."
            )


class HostBlocks:
    """Buffers cut from large blocks of host memory, `total` bytes in all.

    PyTorch rounds what it pins up to a power of two: SDXL's weights one by one would take a third more.
    """

    def __init__(self, total: int, pin: bool):
        self._left, self._pin = total, pin
        self._free = torch.empty(0, dtype=torch.uint8)

    def take(self, like: torch.Tensor) -> torch.Tensor:
        """A contiguous buffer of the shape and the type of `like`."""
        size = _padded(like)
        if self._free.numel() < size:
            self._free = self._block(max(size, min(BLOCK, 1 << (self._left - 1).bit_length())))
        taken, self._free = self._free[: like.nbytes], self._free[size:]
        self._left -= size
        return taken.view(like.dtype).view(like.shape)

    def _block(self, size: int) -> torch.Tensor:
        if self._pin:
            try:
                return torch.empty(size, dtype=torch.uint8, pin_memory=True)
            except RuntimeError:  # the system pins no more; any memory will do
                self._pin = False
        return torch.empty(size, dtype=torch.uint8)


def _padded(tensor: torch.Tensor) -> int:
    """Bytes of `tensor`, so that what follows begins where every type may."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _layout(tensors: dict[str, dict[str, torch.Tensor]]) -> dict:
    return {file: {name: (t.shape, t.dtype) for name, t in part.items()} for file, part in tensors.items()}


def _sync(path: Path) -> None:
    """Have the disk hold the file: network disks and quotas refuse it only now."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
