"""Digests that tell weights and records apart: quick, and the same on every machine."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from datasets import Dataset, Image


def vocabulary_digest(tokenizers: Iterable) -> str:
    """Digest of the tokens that tokenizers know, and of their numbers."""
    vocabulary = [sorted(tokenizer.get_vocab().items()) for tokenizer in tokenizers]
    return hashlib.blake2b(json.dumps(vocabulary).encode(), digest_size=16).hexdigest()


def even_places(length: int, count: int) -> torch.Tensor:
    """Up to `count` evenly spread positions of 0 .. `length` - 1, the first and the last among them, int64 `(n,)`.

    In whole numbers, unlike `spacing.spread`: a tensor has more elements than floats count exactly.
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
    """Digest of `columns` of the records in their order; image columns by parts of their bytes, undecoded."""
    records = records.select_columns(list(columns))
    images = [name for name in columns if isinstance(records.features[name], Image)]
    for name in images:
        records = records.cast_column(name, Image(decode=False))
    hasher = hashlib.blake2b(digest_size=16)
    for record in cast(Iterator[dict], iter(records)):  # `datasets` leaves open that these are rows
        for name in columns:
            value = record[name]
            content = _stamp(value) if name in images else json.dumps(value).encode()
            hasher.update(len(content).to_bytes(8, "little") + content)
    return hasher.hexdigest()


def _stamp(value: dict) -> bytes:
    """What identifies an undecoded image: the length and three parts of its bytes, wherever they lie. A file's time
    would not do: copies of one data set on several machines are the same records."""
    if value["bytes"] is not None:
        data = value["bytes"]
        return _parts(len(data), lambda start: data[start : start + 2048])
    with open(value["path"], "rb") as file:
        return _parts(file.seek(0, 2), lambda start: (file.seek(start), file.read(2048))[1])


def _parts(length: int, read) -> bytes:
    places = (0, length // 2, max(length - 2048, 0))
    return length.to_bytes(8, "little") + b"".join(read(start) for start in places)
