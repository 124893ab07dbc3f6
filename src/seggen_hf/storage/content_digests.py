"""Digests that tell weights and records apart: quick, and the same on every machine."""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import datasets.config
import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from datasets import Dataset, Image

TICK = 2_000_000_000  # ns; the coarsest clock of a file system that is in use


def vocabulary_digest(tokenizers: Iterable) -> str:
    """Digest of the tokens that tokenizers know, and of their numbers."""
    vocabulary = [sorted(tokenizer.get_vocab().items()) for tokenizer in tokenizers]
    return hashlib.blake2b(json.dumps(vocabulary).encode(), digest_size=16).hexdigest()


def even_places(length: int, count: int) -> torch.Tensor:
    """Up to `count` evenly spread positions of 0 .. `length` - 1, the first and the last among them, int64 `(n,)`.

    In whole numbers, unlike `pictures.spacing`: a tensor has more elements than floats count exactly.
    """
    count = min(count, length)
    return torch.arange(count) * (length - 1) // max(count - 1, 1)


@torch.no_grad()
def weights_digest(modules: dict[str, torch.nn.Module]) -> str:
    """Digest of the modules' weights, from 64 evenly spaced values of every tensor.

    Training changes practically every value, so a sample of them tells. Where a weight lies makes no difference, nor
    that accelerate offloads it; its precision does only where it rounds the value.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for prefix, module in sorted(modules.items()):
        offloaded = any(tensor.is_meta for tensor in module.state_dict().values())
        state = get_state_dict_offloaded_model(module) if offloaded else module.state_dict()
        for name, tensor in sorted(state.items()):
            flat = tensor.detach().reshape(-1)
            values = flat[even_places(flat.numel(), 64).to(flat.device)].cpu().double().numpy()
            hasher.update(f"{prefix}.{name}{tuple(tensor.shape)}".encode() + values.tobytes())
    return hasher.hexdigest()


def records_digest(records: Dataset, columns: Sequence[str]) -> str:
    """Digest of `columns` of the records in their order; image columns by all of their bytes, undecoded."""
    records = records.select_columns(list(columns))
    images = [name for name in columns if isinstance(records.features[name], Image)]
    for name in images:
        records = records.cast_column(name, Image(decode=False))
    hasher = hashlib.blake2b(digest_size=16)
    with kept_digests() as files:
        for record in cast(Iterator[dict], iter(records)):  # `datasets` leaves open that these are rows
            for name in columns:
                value = record[name]
                if name not in images:
                    content = json.dumps(value).encode()
                elif value["bytes"] is not None:
                    content = content_digest(value["bytes"])
                else:
                    content = files.digest(value["path"])
                hasher.update(len(content).to_bytes(8, "little") + content)
    return hasher.hexdigest()


def content_digest(content: bytes) -> bytes:
    """16 bytes; of a file's content what `FileDigests` says of the file."""
    return hashlib.blake2b(content, digest_size=16).digest()


class FileDigests:
    """Digests of whole files, each read once as long as its size and times stay: an index in one SQLite file.

    The digest is of the content alone: copies of one data set on several machines are the same records. Where the
    index cannot be kept (a folder without rights, a full disk), every file is read each time.
    """

    def __init__(self, index: Path):
        self.index, self._connection = index, None

    def __enter__(self) -> "FileDigests":
        try:
            self.index.parent.mkdir(parents=True, exist_ok=True)
            # A row at a time, without waiting for the disk: others write here too, and what is lost is read again.
            self._connection = sqlite3.connect(self.index, timeout=30, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT, digest BLOB) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error):
            self._connection = None
        return self

    def __exit__(self, *_) -> None:
        if self._connection is not None:
            self._connection.close()

    def digest(self, path: str) -> bytes:
        """16 bytes. Raises: `OSError` for a file that cannot be read."""
        real, status = os.path.realpath(path), os.stat(path)
        stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        if (known := self._known(real, stamp)) is not None:
            return known
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
        # A file that changes again within the same tick of the clock would have the same stamp.
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > TICK:
            self._keep(real, stamp, found)
        return found

    def _known(self, real: str, stamp: str) -> bytes | None:
        if self._connection is None:
            return None
        with contextlib.suppress(sqlite3.Error):
            row = self._connection.execute("SELECT stamp, digest FROM files WHERE path = ?", (real,)).fetchone()
            return row[1] if row and row[0] == stamp else None
        return None

    def _keep(self, real: str, stamp: str, digest: bytes) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (real, stamp, digest))


def kept_digests() -> FileDigests:
    """Those of the user's cache."""
    return FileDigests(Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf" / "digests.sqlite")
