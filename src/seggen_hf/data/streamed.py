"""Records of a Hub data set read while training: row groups by HTTP range, no shard is downloaded whole.

`datasets`' own streaming reads in one direction and forgets its shuffle buffer when a training is resumed. Here every
record has a number, as in a data set on disk, so that the stream of samples stays a function of the seed alone.
"""

import logging
import re
import time
from collections import OrderedDict
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, Image, load_dataset_builder
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx

from seggen_hf.config import DataConfig
from seggen_hf.data.hub_source import columns_of, labels_for
from seggen_hf.data.map_decoder import LabelFile, MapDecoder, read_label_file
from seggen_hf.data.schema import open_image, with_labels
from seggen_hf.labels import LabelSet

logger = logging.getLogger(__name__)

CACHE_BYTES = 256_000_000  # of row groups, in each process that reads
WINDOW_ROWS = 400  # read together: far fewer than this would be correlated, far more would not fit the cache
WAITS = (1, 2, 4, 8, 16)  # seconds between attempts; a training of days meets a Hub that is away for some of them
CONNECTION_ERRORS = (HfHubHTTPError, httpx.HTTPError, ConnectionError, TimeoutError)


class StreamedRecords:
    """Records in Parquet files behind addresses, by number. Row groups that were read last stay in memory.

    Args:
        addresses (`list` of `str`): of the shards, in order; anything that fsspec opens.
        features (`Features`): of the files' columns.
        columns (`dict`): ours -> the files' names of the columns that are read.
        decoder (`MapDecoder`): how the maps become label ids.
        labels (`LabelSet`): what the ids mean.
        max_records (`int`): only the first records.
    """

    def __init__(
        self,
        addresses: list[str],
        features: Features,
        columns: dict[str, str],
        decoder: MapDecoder,
        labels: LabelSet,
        max_records: int | None = None,
    ):
        self.addresses, self.columns, self.decoder = addresses, columns, decoder
        self.features = Features({name: features[theirs] for name, theirs in columns.items()})
        self.info = with_labels(DatasetInfo(features=self.features), labels)
        self._files: dict[int, pq.ParquetFile] = {}
        self._cache: OrderedDict[int, list[dict]] = OrderedDict()
        self._sizes: dict[int, int] = {}
        footers = [_retry(lambda shard=shard: self._file(shard).metadata) for shard in range(len(addresses))]
        self._groups = [(shard, i) for shard, footer in enumerate(footers) for i in range(footer.num_row_groups)]
        counts = [footers[shard].row_group(i).num_rows for shard, i in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if max_records is not None:
            self._starts = np.unique(np.minimum(self._starts, max_records))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    @property
    def facts(self) -> list:
        """What tells these records from others: an address names a commit, and a commit never changes."""
        return [*self.addresses, len(self)]

    def __getitem__(self, index: int) -> dict:
        """The record: `image` as `{"bytes", "path"}`, `segmentation_map` as int32 `(height, width)`.

        Raises: `IndexError`; `ValueError` for a map that holds other ids than the labels have; `OSError` where the
            Hub stays away.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} records, numbered from 0; {index} is none of them.")
        group = int(np.searchsorted(self._starts, index, "right")) - 1
        record = dict(self._read(group)[index - int(self._starts[group])])
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

    def _read(self, group: int) -> list[dict]:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        shard, number = self._groups[group]

        def fetch():
            return self._file(shard).read_row_group(number, columns=list(self.columns.values()))

        table = _retry(fetch, lambda: self._files.pop(shard, None))
        ours = {theirs: name for name, theirs in self.columns.items()}
        table = table.rename_columns([ours[name] for name in table.column_names])
        self._cache[group], self._sizes[group] = table.to_pylist(), table.nbytes
        while len(self._cache) > 1 and sum(self._sizes.values()) > CACHE_BYTES:
            oldest, _ = self._cache.popitem(last=False)
            del self._sizes[oldest]
        return self._cache[group]

    def _file(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            self._files[shard] = _open(self.addresses[shard])
        return self._files[shard]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": {}, "_cache": OrderedDict(), "_sizes": {}}  # workers connect themselves


def _open(address: str) -> pq.ParquetFile:
    """Its footer is read. Only what Parquet asks for is fetched: fsspec's cache would read 5 MB ahead each time."""
    return pq.ParquetFile(fsspec.open(address, cache_type="none").open(), pre_buffer=True)


def _retry(call, before_again=lambda: None):
    for wait in (*WAITS, None):
        try:
            return call()
        except CONNECTION_ERRORS as error:
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if wait is None or (status < 500 and status not in (408, 429)):
                raise OSError(f"The Hub does not give a part of the data: {error}") from error
            logger.warning("Reading from the Hub failed (%s); again in %d s.", type(error).__name__, wait)
            time.sleep(wait)
            before_again()


def stream_split(data: DataConfig, split: str, max_records: int | None) -> StreamedRecords:
    """The records of one split of the Hub id that `data` names, as a stream."""
    return stream_records(
        data.dataset_name,
        split,
        image_column=data.image_column,
        mask_column=data.mask_column,
        labels=read_label_file(data.labels) if data.labels else None,
        max_records=max_records,
        zero_is_void=data.zero_is_void,
        config_name=data.dataset_config_name,
        revision=data.dataset_revision,
    )


def stream_records(
    source: str,
    split: str = "train",
    *,
    image_column: str | None = None,
    mask_column: str | None = None,
    labels: LabelFile | None = None,
    max_records: int | None = None,
    zero_is_void: bool = False,
    config_name: str | None = None,
    revision: str | None = None,
) -> StreamedRecords:
    """Open a split of a Hub id (or a folder of Parquet files) whose shards are Parquet; only footers are read.

    Arguments as in `load_records`. Nothing is checked before it is read: a broken record shows when its turn comes.

    Raises: `ValueError` for a split or column that it lacks, missing labels, and data in other files than Parquet.
    """
    where = f"{source} ({split})"
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
    labels = labels or labels_for(features, source, revision, where)
    decoder = labels.decoder.with_zero_void() if zero_is_void else labels.decoder
    return StreamedRecords(addresses, features, columns, decoder, labels.labels, max_records)
