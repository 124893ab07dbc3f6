"""One process at a time fills a run folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from ..folders import RUN, claim_folder
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
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(
                f"{out} is in use by process {lock.read().strip()}. Wait for it, or use another --out."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()
