"""Large or crowded images cut into tiles, records of their own."""

import numpy as np
from datasets import Dataset, Image
from datasets.fingerprint import Hasher

from ..segments import measure_segments
from .schema import (
    attach_labels,
    encode_image,
    encode_map,
    encode_panoptic,
    labels_of,
    read_image,
    read_map,
    read_panoptic,
)

FORMAT = 1  # raised when tiles are cut otherwise, so that older caches are left alone


def tile_records(records: Dataset, tiles: int) -> Dataset:
    """Cut each record into about square tiles without gaps or overlap, `tiles` along its short side.

    Tiles are named `IMAGE_ID-r0c0` by row and column. Segments that are cut become one in each tile, measured anew.
    The result is kept in the cache of `datasets`. With `tiles` 1 the records are given back as they are.
    """
    if tiles == 1:
        return records
    labels = labels_of(records)

    def cut(batch: dict) -> dict:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        made = [tile for row in rows for tile in _cut_row(row, tiles, labels.num_labels)]
        return {name: [tile[name] for tile in made] for name in records.column_names}

    pictures = [name for name, feature in records.features.items() if isinstance(feature, Image)]
    undecoded = records
    for name in pictures:
        undecoded = undecoded.cast_column(name, Image(decode=False))
    cut_records = undecoded.map(
        cut,
        batched=True,
        batch_size=1,  # one image in memory: it may have hundreds of megapixels
        writer_batch_size=100,
        features=records.features,
        new_fingerprint=Hasher.hash([records._fingerprint, tiles, FORMAT]),
        desc="Cutting tiles",
    )
    return attach_labels(cut_records, labels)


def _cut_row(row: dict, tiles: int, num_labels: int) -> list[dict]:
    image = read_image(row["image"])
    segmentation_map = read_map(row["segmentation_map"]) if row.get("segmentation_map") is not None else None
    panoptic_map = read_panoptic(row["panoptic_map"]) if row.get("panoptic_map") is not None else None
    found = []
    for r, (top, bottom) in enumerate(_bounds(image.shape[0], min(image.shape[:2]), tiles)):
        for c, (left, right) in enumerate(_bounds(image.shape[1], min(image.shape[:2]), tiles)):
            window, name = np.s_[top:bottom, left:right], f"{row['image_id']}-r{r}c{c}"
            tile = row | {"image": encode_image(image[window], name), "image_id": name}
            if segmentation_map is not None:
                tile["segmentation_map"] = encode_map(segmentation_map[window], num_labels, name)
            if panoptic_map is not None:
                tile["panoptic_map"] = encode_panoptic(panoptic_map[window], name)
                tile["segments_info"] = measure_segments(panoptic_map[window], row["segments_info"])
            found.append(tile)
    return found


def _bounds(side: int, short_side: int, tiles: int) -> list[tuple[int, int]]:
    """Begin and end of the tiles along a side, of sizes that differ by at most one pixel."""
    if short_side < tiles:
        raise ValueError(f"An image is {short_side} pixels high or wide; it cannot be cut into {tiles} tiles.")
    count = max(1, round(side * tiles / short_side))
    edges = [round(side * i / count) for i in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))
