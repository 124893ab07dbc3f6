"""Records of a Hub data set read while training: row groups by HTTP range, no shard is downloaded whole.

`datasets`' own streaming reads in one direction and forgets its shuffle buffer when a training is resumed. Here every
record has a number, as in a data set on disk, so that the stream of samples stays a function of the seed alone.
"""

import copy
import itertools
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

import fsspec
import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, DatasetInfo, Features, Image, load_dataset_builder

from ...config import SCENES, DataConfig
from ...labels import LabelSet, differing_labels
from ...process.retry import repeat, status_of
from ..schema import allow_megapixels, labels_of, open_image, with_labels
from .hub import CONNECTION_ERRORS, ask_hub, columns_of, labels_for
from .map_decoder import LabelFile, MapDecoder, read_label_file
from .roots import Roots
from .split import load_split, reading_of

logger = logging.getLogger(__name__)

CACHE_BYTES = 256_000_000  # of row groups, in each process that reads
OPEN_FILES = 64  # in each process that reads: a system may allow 1024, and each keeps its footer, 0.1 MB
FOOTERS_AT_ONCE = 8
WINDOW_ROWS = 400  # read together: far fewer than this would be correlated, far more would not fit the cache
WAITS = (1, 2, 4, 8, 16)  # seconds between attempts; a training of days meets a Hub that is away for some of them


class StreamedRecords:
    """Records in Parquet files behind addresses, by number. Row groups that were read last stay in memory.

    Args:
        addresses (`list` of `str`): of the shards, in order; anything that fsspec opens.
        features (`Features`): of the files' columns.
        columns (`dict`): ours -> the files' names of the columns that are read.
        decoder (`MapDecoder`): how the maps become label ids.
        labels (`LabelSet`): what the ids mean.
        max_records (`int`): only the first records.
        roots (`Roots`): where pictures without bytes may lie.
    """

    def __init__(
        self,
        addresses: list[str],
        features: Features,
        columns: dict[str, str],
        decoder: MapDecoder,
        labels: LabelSet,
        max_records: int | None,
        roots: Roots,
    ):
        self.addresses, self.columns, self.decoder, self.roots = addresses, columns, decoder, roots
        self._there = frozenset(features)
        self.features = Features({name: features[theirs] for name, theirs in columns.items()})
        self.info = with_labels(DatasetInfo(features=self.features), labels)
        self._captions: list[str] | None = None
        self._forget()
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:  # of the Hub each is a wait, and a million records have 5000
            sizes = list(pool.map(_group_sizes, addresses))
        self._groups = [(shard, i) for shard, counts in enumerate(sizes) for i in range(len(counts))]
        self._starts = np.cumsum([0, *itertools.chain(*sizes)], dtype=np.int64)
        if max_records is not None:
            self._starts = np.unique(np.minimum(self._starts, max_records))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def column_names(self) -> list[str]:
        return [*self.columns, *(["caption"] if self._captions is not None else [])]

    def has_column(self, name: str) -> bool:
        """Whether the files have a column of that name, read or not."""
        return name in self._there

    def select_columns(self, names: str | list[str]) -> "StreamedRecords":
        """The same records with fewer columns: the others are not fetched."""
        names = [names] if isinstance(names, str) else list(names)
        chosen = copy.copy(self)
        chosen.columns = {name: self.columns[name] for name in names if name in self.columns}
        chosen.features = Features({name: self.features[name] for name in names if name in self.features})
        chosen._captions = self._captions if "caption" in names else None
        chosen._forget()
        return chosen

    def with_captions(self, captions: list[str]) -> "StreamedRecords":
        """The same records with these captions, one each, in the place of any that they have."""
        if len(captions) != len(self):
            raise ValueError(f"There are {len(captions)} captions for {len(self)} records.")
        captioned = self.select_columns([name for name in self.columns if name != "caption"])
        captioned._captions = list(captions)
        return captioned

    @property
    def facts(self) -> list:
        """What tells these records from others: an address names a commit, and a commit never changes."""
        return [*self.addresses, len(self)]

    @overload
    def __getitem__(self, index: int) -> dict: ...

    @overload
    def __getitem__(self, index: str) -> list: ...

    def __getitem__(self, index: int | str) -> dict | list:
        """The record of a number, or a column as a list, of which nothing else is fetched.

        A record has `image` as `{"bytes", "path"}`, `segmentation_map` as int32 `(height, width)`.

        Raises: `IndexError`; `ValueError` for a map that holds other ids than the labels have; `OSError` where the
            Hub stays away. `ValueError` too for a picture that is a file outside the data set.
        """
        if isinstance(index, str):
            return self._column(index)
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} records, numbered from 0; {index} is none of them.")
        group = int(np.searchsorted(self._starts, index, "right")) - 1
        record = dict(self._read(group)[index - int(self._starts[group])])
        if self._captions is not None:
            record["caption"] = self._captions[index]
        if "segmentation_map" not in record:
            return record
        try:
            with open_image(record["segmentation_map"]) as mask:
                record["segmentation_map"] = self.decoder.decode(mask, record.get("segments_info"))
        except ValueError as error:
            raise ValueError(f"record {index} of {self.addresses[self._groups[group][0]]}: {error}") from error
        return record

    def windows(self) -> list[range]:
        """Runs of neighbouring records, whole row groups of at least WINDOW_ROWS together: what is read at once."""
        found, start = [], 0
        for stop in self._starts[1:].tolist():
            if stop - start >= WINDOW_ROWS:
                found.append(range(start, stop))
                start = stop
        return found + ([range(start, len(self))] if start < len(self) else [])

    def _column(self, name: str) -> list:
        if name == "caption" and self._captions is not None:
            return list(self._captions)
        if name == "image_id" and name not in self.columns:
            return [f"{index:08d}" for index in range(len(self))]
        alone = self.select_columns(name)
        counts = np.diff(self._starts).tolist()  # the last group may be cut by max_records
        return [row[name] for group, count in enumerate(counts) for row in alone._read(group)[:count]]

    def _read(self, group: int) -> list[dict]:
        with self._lock:  # captions are made by several threads
            return self._read_locked(group)

    def _read_locked(self, group: int) -> list[dict]:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        shard, number = self._groups[group]

        def fetch():
            return self._file(shard).read_row_group(number, columns=list(self.columns.values()))

        table = _retry(fetch, lambda: self._files.pop(shard, None))
        ours = {theirs: name for name, theirs in self.columns.items()}
        table = table.rename_columns([ours[name] for name in table.column_names])
        rows = table.to_pylist()
        pictures = [name for name in self.columns if isinstance(self.features[name], Image)]
        for index, row in enumerate(rows, int(self._starts[group])):
            record = f"record {row.get('image_id') or index}"
            self.roots.check_pictures((row[name] for name in pictures), self.addresses[shard], record)
        self._cache[group], self._sizes[group] = rows, table.nbytes
        while len(self._cache) > 1 and sum(self._sizes.values()) > CACHE_BYTES:
            oldest, _ = self._cache.popitem(last=False)
            del self._sizes[oldest]
        return self._cache[group]

    def _file(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            self._files[shard] = _open(self.addresses[shard])
        self._files.move_to_end(shard)
        while len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1].close(force=True)
        return self._files[shard]

    def _forget(self) -> None:
        """Begin without connections and without anything in memory."""
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()  # those read last
        self._cache: OrderedDict[int, list[dict]] = OrderedDict()
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {name: v for name, v in self.__dict__.items() if name not in ("_files", "_cache", "_sizes", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forget()  # workers connect themselves


def _open(address: str) -> pq.ParquetFile:
    """Its footer is read. Only what Parquet asks for is fetched: fsspec's cache would read 5 MB ahead each time."""
    file: Any = fsspec.open(address, cache_type="none")  # one address, one file, which fsspec's types leave open
    return pq.ParquetFile(file.open(), pre_buffer=True)


def _group_sizes(address: str) -> list[int]:
    """Number of records in each row group of a shard."""
    footer = _retry(lambda: _read_footer(address))
    return [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]


def _read_footer(address: str) -> pq.FileMetaData:
    file = _open(address)
    try:
        return file.metadata
    finally:
        file.close(force=True)


def _retry(call, before_again=lambda: None):
    """The result of `call`, repeated while the Hub is away. Raises: `OSError` if it stays away, or refuses."""

    def tell(error: Exception, wait: float, left: int) -> None:
        logger.warning("Reading from the Hub failed (%s); again in %d s.", type(error).__name__, wait)
        before_again()

    try:
        return repeat(call, WAITS, CONNECTION_ERRORS, _passes, tell)
    except CONNECTION_ERRORS as error:
        raise OSError(f"The Hub does not give a part of the data: {error}") from error


def _passes(error: Exception) -> bool:
    status = status_of(error) or 500
    return status >= 500 or status in (408, 429)


def read_split(data: DataConfig, split: str, max_records: int | None) -> Dataset | StreamedRecords:
    """The records of one split as `data` describes their source: streamed if it says so and they lie on the Hub."""
    # `datasets` would download all splits of a repository to read one. What lies here needs no stream.
    is_streamed = data.streaming and data.dataset_name != SCENES and not os.path.isdir(data.dataset_name)
    return (stream_split if is_streamed else load_split)(data, split, max_records)


def join_streams(parts: list[StreamedRecords], names: list[str]) -> StreamedRecords:
    """The records of several streams, one after the other.

    Args:
        names: of the parts, for errors.
    Raises: `ValueError` for parts with other labels or columns than the first.
    """
    first = parts[0]
    labels = labels_of(first)
    for name, part in zip(names, parts, strict=True):
        if differences := differing_labels(labels, labels_of(part)):
            raise ValueError(
                f"{names[0]} and {name} have different labels; they cannot be used together: {differences}."
            )
        if part.columns != first.columns:
            raise ValueError(f"{names[0]} and {name} have different columns; they cannot be streamed together.")
    joined = copy.copy(first)
    joined.addresses, groups, starts = [], [], [np.zeros(1, np.int64)]
    for part in parts:
        used = part._groups[: len(part._starts) - 1]  # fewer than it has after max_records
        groups += [(len(joined.addresses) + shard, number) for shard, number in used]
        joined.addresses += part.addresses
        starts.append(starts[-1][-1] + part._starts[1:])
    joined._groups, joined._starts = groups, np.concatenate(starts)
    joined._forget()
    return joined


def stream_split(data: DataConfig, split: str, max_records: int | None) -> StreamedRecords:
    """The records of one split of the Hub id that `data` names, as a stream."""
    records = stream_records(
        data.dataset_name,
        split,
        labels=read_label_file(data.labels) if data.labels else None,
        max_records=max_records,
        **reading_of(data),
    )
    if data.palette == "dataset":
        records.info = with_labels(records.info, labels_of(records).with_own_palette())
    return records


def stream_records(
    source: str,
    split: str = "train",
    *,
    image_column: str | None = None,
    mask_column: str | None = None,
    labels: LabelFile | None = None,
    max_records: int | None = None,
    zero_is_void: bool = False,
    void_ids: Sequence[int] | None = None,
    mask_suffix: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    media_roots: Sequence[str | Path] | None = None,
    max_megapixels: float | None = None,
) -> StreamedRecords:
    """Open a split of a Hub id (or a folder of Parquet files) whose shards are Parquet; only footers are read.

    Arguments as in `load_records`. Nothing is checked before it is read: a broken record shows when its turn comes.

    Raises: `ValueError` for a split or column that it lacks, missing labels, and data in other files than Parquet.
    """
    where, roots = f"{source} ({split})", Roots(source, media_roots)
    if max_megapixels:
        allow_megapixels(max_megapixels)
    if mask_suffix:
        raise ValueError(f"{source} holds no folders of images and masks; leave data.mask_suffix (--mask_suffix) out.")
    if not os.path.isdir(source):
        ask_hub(source, revision)
    try:
        builder = load_dataset_builder(source, config_name, revision=revision)
    except CONNECTION_ERRORS + (OSError,) as error:  # unknown, private, offline
        raise ValueError(f"{source} is no folder here, and as a Hub id it cannot be read: {error}") from error
    files = builder.config.data_files or {}
    if split not in files:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(map(str, files)) or 'none'}.")
    addresses = [str(address) for address in files[split]]
    other = [address for address in addresses if not re.search(r"\.parquet$", address)]
    if other:
        raise ValueError(f"{where} lies in {Path(other[0]).name}, and only Parquet can be streamed; drop --streaming.")
    features = builder.info.features or Features.from_arrow_schema(_retry(lambda: _open(addresses[0])).schema_arrow)
    features = Features(
        {name: Image(decode=False) if isinstance(value, Image) else value for name, value in features.items()}
    )
    columns = columns_of(features, where, image_column, mask_column)
    for address in addresses if os.path.isdir(source) else ():
        roots.check_file(address)
    labels = labels or labels_for(features, source, revision, where, roots)
    decoder = labels.decoder.with_zero_void() if zero_is_void else labels.decoder
    decoder = decoder.with_void(void_ids or ())
    return StreamedRecords(addresses, features, columns, decoder, labels.labels, max_records, roots)
