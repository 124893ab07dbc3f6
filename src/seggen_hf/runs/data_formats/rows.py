"""The records of an export one by one: their maps and instances, and their images' own bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ...data.clean_copy import SUFFIXES
from ...data.schema import open_image, read_map, read_panoptic
from ...labels import LabelSet
from ...storage.files import write_bytes

SPLIT = "train"


def iterate_rows(records: Dataset) -> Iterator[dict]:
    """Rows whose pictures are bytes and paths. Raises: `ValueError` for an image_id that leads out of its folder."""
    for name, feature in records.features.items():
        if isinstance(feature, Image):
            records = records.cast_column(name, Image(decode=False))
    for row in cast(Iterator[dict], tqdm(records, "Exporting", delay=2)):
        if Path(row["image_id"]).is_absolute() or ".." in Path(row["image_id"]).parts:
            raise ValueError(
                f"The image_id {row['image_id']!r} leads out of the export's folder; give it another one."
            )
        yield row


def has_segments(records: Dataset) -> bool:
    return "panoptic_map" in records.column_names


def copy_image(row: dict, folder: Path) -> str:
    """The image's own bytes under the record's id; returns the file's name."""
    value = row["image"]
    with open_image(value) as image:
        suffix = SUFFIXES.get(image.format or "", ".png")
    data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    name = f"{row['image_id']}{suffix}"
    write_bytes(folder / name, data, sync=False)
    return name


def map_from_one(row: dict, labels: LabelSet) -> np.ndarray:
    """Label ids plus 1, and 0 for void, int32 `(height, width)`: formats whose 0 is nothing."""
    ids = read_map(row["segmentation_map"])
    return np.where(ids == labels.ignore_index, 0, ids + 1)


def list_instances(row: dict, labels: LabelSet) -> list[tuple[dict, np.ndarray]]:
    """A record's things, crowds too, with the bool mask `(height, width)` of each; none where it has no segments."""
    if "panoptic_map" not in row:
        return []
    ids = read_panoptic(row["panoptic_map"])
    return [(s, ids == s["id"]) for s in row["segments_info"] if s["category_id"] in labels.things]
