"""The cache of latents and embeddings: encoded once, read from memory-mapped chunks, never taken for another's.

A folder `cache/<digest>/` holds `chunk-XXXXX.safetensors` of consecutive records. The digest covers whatever the
content depends on (records, encoders, settings), so a cache that no longer fits is not found rather than trusted. A
chunk is written under a temporary name and renamed; a killed run goes on with the chunks that are missing, whatever
the number of processes. Chunks do not depend on the number of processes.
"""

import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from safetensors import safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from ..storage.digests import digest_of
from ..storage.files import write_json

logger = logging.getLogger(__name__)

CACHE = "cache"  # in the folder of a training
_MIN_CHUNK, _MAX_CHUNKS = 64, 256  # records in a chunk at least; chunks (open memory maps) at most


def compress_map(segmentation_map: np.ndarray) -> bytes:
    """One map's bytes, compressed."""
    return zlib.compress(np.ascontiguousarray(segmentation_map).tobytes(), 1)


def pack_maps(parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Join compressed maps: all bytes (uint8) and each map's (start, length), int64 `(len(parts), 2)`."""
    lengths = np.array([len(p) for p in parts], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), np.stack([starts, lengths], axis=1)


def unpack_map(data: np.ndarray, dtype, shape: tuple[int, int]) -> np.ndarray:
    """One map out of its compressed bytes."""
    return np.frombuffer(zlib.decompress(data.data), dtype).reshape(shape)


class LatentCache:
    """Rows of arrays over records, in chunks. Every array's first axis is the record, but for flat `*_bytes` arrays.

    Args:
        root (`Path`): the folder `cache` of a training; caches of other digests in it are removed when one is built.
        facts (`dict`): JSON values on which the content depends.
    """

    def __init__(self, root: Path, facts: dict, num_records: int):
        self.facts, self.num_records = facts, num_records
        self.folder = Path(root) / digest_of(facts)
        self.chunk_size = max(_MIN_CHUNK, -(-num_records // _MAX_CHUNKS))
        self.num_chunks = -(-num_records // self.chunk_size)
        self._slices: dict[tuple[int, str], object] = {}
        self._files: dict[int, Any] = {}

    def _path(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:05d}.safetensors"

    def _range(self, chunk: int) -> range:
        return range(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, self.num_records))

    @property
    def is_complete(self) -> bool:
        return all(self._path(chunk).is_file() for chunk in range(self.num_chunks))

    def build(self, encode: Callable[[range], dict[str, np.ndarray]], estimated_bytes: int, max_gb: float) -> None:
        """Encode the chunks that are missing, each rank its share; returns when all ranks' chunks are there.

        Collective: every rank calls it.

        Raises:
            ValueError: the cache would be larger than `max_gb` or than the disk has room; nothing is written then.
        """
        state = PartialState()
        missing = [chunk for chunk in range(self.num_chunks) if not self._path(chunk).is_file()]
        if missing:
            self._check_room(estimated_bytes, max_gb, share=len(missing) / self.num_chunks)
            state.wait_for_everyone()  # all ranks have seen the same chunks missing
            if state.is_main_process:
                self._begin()
            state.wait_for_everyone()
            mine = missing[state.process_index :: state.num_processes]
            for chunk in tqdm(mine, desc="latents", unit="chunk", disable=not state.is_local_main_process):
                arrays = encode(self._range(chunk))
                temporary = self._path(chunk).with_name(f".{self._path(chunk).name}.{os.getpid()}.tmp")
                save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)
                os.replace(temporary, self._path(chunk))
        state.wait_for_everyone()

    def _check_room(self, estimated_bytes: int, max_gb: float, share: float) -> None:
        gigabytes = estimated_bytes / 1e9
        need = f"Caching {self.num_records} records takes about {gigabytes:.1f} GB in {self.folder.parent}"
        if gigabytes > max_gb:
            raise ValueError(
                f"{need}; --cache_max_gb allows {max_gb:g}. Raise it, lower --cache_variants, or encode in every step "
                "with --no_cache_latents."
            )
        existing = next(p for p in (self.folder, *self.folder.parents) if p.is_dir())
        free = shutil.disk_usage(existing).free
        if estimated_bytes * share > free:
            raise ValueError(f"{need}; the disk has {free / 1e9:.1f} GB left. Lower --cache_variants or free space.")

    def _begin(self) -> None:
        """Make the folder; remove what no run can use: caches of other facts, parts that killed runs left."""
        for other in self.folder.parent.glob("*"):
            if other.is_dir() and other != self.folder and (other / "facts.json").is_file():
                logger.info("Removing the cache %s: records or settings have changed since.", other)
                shutil.rmtree(other)
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in self.folder.glob(".chunk-*.tmp"):
            part.unlink(missing_ok=True)
        write_json(self.folder / "facts.json", self.facts, sort_keys=True)

    def _slice(self, chunk: int, name: str) -> Any:
        found = self._slices.get((chunk, name))
        if found is None:
            if chunk not in self._files:
                self._files[chunk] = safe_open(self._path(chunk), framework="numpy")
            found = self._slices[chunk, name] = self._files[chunk].get_slice(name)
        return found

    def read(self, name: str, index: int, *place: int) -> np.ndarray:
        """Row `index` of array `name`, or the part of it at `place`. A copy; 20 microseconds."""
        chunk, row = divmod(index, self.chunk_size)
        return self._slice(chunk, name)[(row, *place)]

    def read_bytes(self, name: str, index: int, *place: int) -> np.ndarray:
        """The bytes that row `index` of `name`_places points to in the flat array `name`_bytes of its chunk."""
        start, length = self.read(f"{name}_places", index, *place).tolist()
        return self._slice(index // self.chunk_size, f"{name}_bytes")[start : start + length]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_slices": {}, "_files": {}}  # worker processes map the files themselves

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("chunk-*.safetensors"))
