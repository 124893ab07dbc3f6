"""Masks that hold the number of an instance in each pixel, as tools for cells write them (Cellpose, StarDist)."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets.config
import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ...labels import LabelSet
from ...storage.files import write_bytes, write_json
from ..schema import encode_panoptic, read_map
from .checks import UNREADABLE, explain, fingerprint_of

FORMAT = 1  # raised when painting changes, so that older caches are left alone


def check_instance_labels(labels: LabelSet) -> tuple[int, int | None]:
    """The label of every instance, and that of what is none, if it has one: the thing and the stuff of `labels`.

    Raises: `ValueError` for other labels: nothing in such masks would tell them apart.
    """
    stuff = [label for label in range(labels.num_labels) if label not in labels.things]
    if len(labels.things) != 1 or len(stuff) > 1:
        raise ValueError(
            'masks is "instances": the masks tell instances and no classes, so that categories must be one with '
            '"isthing": 1, and at most one other, of what is no instance. '
            f"There are {len(labels.things)} things and {len(stuff)} others."
        )
    return labels.things[0], stuff[0] if stuff else None


def paint_instances(rows: Dataset, labels: LabelSet) -> tuple[dict[str, list], list[str]]:
    """Panoptic PNGs of rows whose masks hold instances, 0 for none; painted once, and kept in the cache of `datasets`
    as long as the masks stay the same.

    Returns: the columns image, segmentation_map (paths), caption, image_id and segments_info of those that can be
        read, and a line for each that cannot.
    """
    thing, stuff = check_instance_labels(labels)
    masks = [row["path"] for row in rows["segmentation_map"]]
    stamps = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in masks]
    fingerprint = fingerprint_of([stamps, thing, stuff, FORMAT])
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf" / f"instance-masks-{fingerprint}"
    listing = folder / "listing.json"
    if not listing.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        files = (folder / f"{place:08d}.png" for place in range(len(masks)))
        with ThreadPoolExecutor(max_workers=4) as pool:
            painted = pool.map(lambda mask, file: _paint(mask, file, thing, stuff), masks, files)
            write_json(listing, list(tqdm(painted, "Reading instances", total=len(masks), delay=3, leave=False)))
    listed, problems = json.loads(listing.read_text()), []
    columns = {name: [] for name in ("image", "segmentation_map", "caption", "image_id", "segments_info")}
    for place, found in enumerate(listed):
        if isinstance(found, str):
            problems.append(found)
            continue
        row = rows[place]
        columns["image"].append(row["image"]["path"])
        columns["segmentation_map"].append(str(folder / f"{place:08d}.png"))
        columns["caption"].append(row["caption"])
        columns["image_id"].append(row["image_id"])
        columns["segments_info"].append(found)
    return columns, problems


def _paint(mask: str, file: Path, thing: int, stuff: int | None) -> list[dict] | str:
    """The segments of one mask, whose panoptic map is written; or the reason why it cannot be read."""
    try:
        numbers = read_map(mask)
        if numbers.min() < 0:
            raise ValueError("the mask holds numbers below 0")
    except UNREADABLE as error:
        return f"{mask}: {explain(error, {'path': mask, 'bytes': None})}"
    values, places = np.unique(numbers, return_inverse=True)
    ids = np.zeros(len(values), np.int32)
    ids[values > 0] = np.arange(1, 1 + (values > 0).sum())
    labels = [thing] * int(ids.max(initial=0))
    if stuff is not None and values[0] == 0:
        ids[0] = len(labels) + 1
        labels.append(stuff)
    write_bytes(file, encode_panoptic(ids[places].reshape(numbers.shape))["bytes"], sync=False)
    return [
        {"id": number, "category_id": label, "isthing": label == thing, "iscrowd": False, "area": 0, "bbox": []}
        for number, label in enumerate(labels, start=1)
    ]
