"""One process at a time fills a run folder."""

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO

from filelock import lock_descriptor

from ..storage.folders import RUN, claim_folder
from .folder import RunFolder


@contextlib.contextmanager
def lock_run(out: str | os.PathLike) -> Iterator[int]:
    """Keep other processes out of a run folder while the block runs; the system frees the lock of one that dies.

    Yields: the lock's file descriptor; a process that inherits it has the lock too.
    Raises: `ValueError` that names the process which has it, or what is in a folder that is no run's.
    """
    claim_folder(out, RUN)
    path = RunFolder(out).lock
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as lock:
        # Of a descriptor that is ours: one of `filelock.FileLock` cannot be handed on to the workers.
        if not lock_descriptor(lock.fileno(), blocking=False):
            raise ValueError(f"{out} is in use by {_holder(lock)}. Wait for it, or use another --out.")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _holder(lock: TextIO) -> str:
    lock.seek(0)
    with contextlib.suppress(PermissionError):  # on Windows nobody else may read what is locked
        return f"process {lock.read().strip()}"
    return "another process"
