"""Records as a generator's training sees them: mirrored, scaled, zoomed, cropped, with maps that its codec paints."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, Image

from seggen_hf.pipelines import ColormapCodec, PanopticCodec

from ..config import GeneratorConfig
from ..data.mixture import shuffle_windows
from ..data.schema import check_columns, read_image, read_map, read_panoptic
from ..data.sources.streamed import StreamedRecords
from ..data.transforms import cover_crop, cover_crop_map, flip_pair, random_zoom_crop
from ..pictures.spacing import spread
from ..storage.content_digests import records_digest
from ..storage.digests import digest_of

SURVEYED = 32  # records by which sizes are judged before all of them are read


class RecordViews:
    """The views of labelled records with captions, each drawn from (record index, rng) alone.

    Args:
        records (`Dataset` or `StreamedRecords`): caption, segmentation_map (panoptic_map and segments_info with a
            `panoptic_codec`), and image with `needs_image`.
        codec (`ColormapCodec`): paints the maps.
        panoptic_codec (`PanopticCodec`): of segments. What is called a segmentation map here holds its color indices
            then, which `codec` paints.
        needs_image (`bool`): whether a view's pixels are the image; otherwise the color map.
        needs_map (`bool`): whether the records have maps; the map of a view is empty if they have none.
    Raises: `ValueError` for a column that is missing, and if there are no records.
    """

    def __init__(
        self,
        records: Dataset | StreamedRecords,
        config: GeneratorConfig,
        codec: ColormapCodec,
        panoptic_codec: PanopticCodec | None = None,
        needs_image: bool = False,
        needs_map: bool = True,
    ):
        self.config, self.codec, self.panoptic_codec, self.needs_image = config, codec, panoptic_codec, needs_image
        self.size, self.needs_map = (config.height, config.width), needs_map
        maps = ["panoptic_map", "segments_info"] if panoptic_codec else ["segmentation_map"]
        if needs_map:
            check_columns("records", records, "panoptic" if panoptic_codec else "semantic")
        else:
            maps = []
        self._columns = [*maps, "caption", *(["image"] if needs_image else [])]
        _check_columns(records, self._columns)
        self.captions = [caption or "" for caption in records["caption"][:]]
        self._original = records
        self._records = records.select_columns([name for name in self._columns if name != "caption"])
        for name in self._records.column_names:
            feature = self._records.features[name]
            if isinstance(self._records, Dataset) and isinstance(feature, Image) and feature.decode:
                self._records = self._records.cast_column(name, Image(decode=False))
        # Of a stream, images are not fetched with their maps.
        self._maps = self._records.select_columns(maps) if needs_map else self._records
        self.num_variants = self._count_variants()

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def is_streamed(self) -> bool:
        return isinstance(self._original, StreamedRecords)

    @property
    def map_dtype(self):
        return np.uint8 if self.codec.ignore_index <= 255 and self.codec.num_labels <= 255 else np.uint16

    def digest(self) -> str:
        """Of all that is read of the records."""
        if isinstance(self._original, StreamedRecords):
            return digest_of({"streamed": self._original.facts, "captions": self.captions})
        return records_digest(self._original, self._columns)

    def survey(self) -> list[int]:
        """Up to 32 records, evenly spread: what sizes are judged by before all of them are read. Of a stream the first
        ones: the others lie in as many row groups."""
        return list(range(min(SURVEYED, len(self)))) if self.is_streamed else spread(len(self), SURVEYED)

    def order(self, rng: np.random.Generator, is_fetched: bool) -> np.ndarray:
        """A permutation of the records; of a stream that `is_fetched` in it, one that keeps to what was fetched."""
        windows = self._original.windows() if isinstance(self._original, StreamedRecords) and is_fetched else None
        return shuffle_windows(len(self), windows, rng)

    # What training sees

    def view(self, index: int, flip: bool, rng: np.random.Generator) -> dict:
        """A record as training sees it: mirrored if `flip`, scaled to cover, zoomed and cropped by draws from `rng`.

        Returns: `segmentation_map` (height, width) of `map_dtype`, ids that `codec` paints; `pixels` (height, width,
        3) uint8, the image or the color map; `time_ids` (6,) int32, SDXL's original size, crop corner and target size.
        """
        record = self._records[index]
        if self.needs_map:
            segmentation_map = self._read_map(record)
            shape = segmentation_map.shape
            image = read_image(record["image"]) if self.needs_image else np.zeros((*shape, 3), np.uint8)
        else:
            image = read_image(record["image"])
            segmentation_map = np.zeros(image.shape[:2], np.uint8)
        if flip:
            image, segmentation_map = flip_pair(image, segmentation_map)
        image, segmentation_map, facts = random_zoom_crop(
            image, segmentation_map, self.size, self.config.max_crop_zoom, rng
        )
        segmentation_map = self._finish_map(segmentation_map, record) if self.needs_map else segmentation_map
        original, corner = facts["original_size"], facts["crop_top_left"]
        if self.config.size_conditioning == "target":
            original, corner = self.size, (0, 0)
        return {
            "segmentation_map": segmentation_map.astype(self.map_dtype),
            "pixels": image if self.needs_image else self.codec.encode(segmentation_map),
            "time_ids": np.array([*original, *corner, *self.size], np.int32),
        }

    def variant(self, index: int, number: int) -> dict:
        """View `number` of the `num_variants` of a record, always the same; every second one is mirrored."""
        rng = np.random.default_rng([self.config.seed, 2**33, index, number])
        mirrored = rng.random() < 0.5 if self.num_variants == 1 else number % 2 == 1
        return self.view(index, self.config.random_flip and mirrored, rng)

    def resized_map(self, index: int) -> np.ndarray:
        """A record's map as training sees it without zoom: the middle window, ids that `codec` paints."""
        record = self._maps[index]
        return self._finish_map(cover_crop_map(self._read_map(record), self.size), record)

    def resized_image(self, index: int) -> np.ndarray:
        """The image of `resized_map`, `(height, width, 3)` uint8."""
        image = read_image(self._records[index]["image"])
        return cover_crop(image, np.zeros(image.shape[:2], np.uint8), self.size)[0]

    def _read_map(self, record: dict) -> np.ndarray:
        """Ids `(height, width)` of a record's map, before it is resized: of labels, or of segments."""
        return read_panoptic(record["panoptic_map"]) if self.panoptic_codec else read_map(record["segmentation_map"])

    def _finish_map(self, resized: np.ndarray, record: dict) -> np.ndarray:
        """What `codec` paints. Shades are chosen only now: in a smaller map other instances touch."""
        if self.panoptic_codec is None:
            return resized
        return self.panoptic_codec.index(resized, record["segments_info"])

    def _count_variants(self) -> int:
        """Views cached of each record: as many as asked for, but no more than can differ."""
        ratio = self.size[0] / self.size[1]
        rows = (self._maps[i] for i in self.survey())
        shapes = (self._read_map(row).shape if self.needs_map else read_image(row["image"]).shape[:2] for row in rows)
        if self.config.max_crop_zoom > 1 or any(h / w != ratio for h, w in shapes):
            return self.config.cache_variants
        return min(self.config.cache_variants, 2 if self.config.random_flip else 1)


def _check_columns(records, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in records.column_names]
    if missing:
        raise ValueError(
            f"The records have no column {missing[0]!r}; they have {sorted(records.column_names)}."
            + (" Add captions with `seggen caption`." if missing[0] == "caption" else "")
        )
    if len(records) == 0:
        raise ValueError("There are no records to train on.")
