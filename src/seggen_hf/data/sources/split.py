"""The records of a split as the settings of section `data` describe them."""

import numpy as np
from datasets import Dataset

from ...config import SCENES, DataConfig
from ..held_out import HELD_OUT, draw_held_out, find_held_out
from ..schema import attach_labels, labels_of
from ..tiles import tile_records
from .load import load_records


def reading_of(data: DataConfig) -> dict:
    """What `data` says about how its source is read, under the names that `load_records` has."""
    return {
        "image_column": data.image_column,
        "mask_column": data.mask_column,
        "zero_is_void": data.zero_is_void,
        "void_ids": data.void_ids,
        "mask_suffix": data.mask_suffix,
        "config_name": data.dataset_config_name,
        "revision": data.dataset_revision,
        "media_roots": data.media_roots,
        "max_megapixels": data.max_megapixels,
    }


def load_split(data: DataConfig, split: str, max_records: int | None) -> Dataset:
    """The records of one split as `data` describes their source, cut into tiles if it says so; scenes are drawn at its
    height and width. `max_records` counts images.

    With `data.held_out` or `data.held_out_names` the training split is without its part `held-out`, which is a split
    of its own. Of the training split `data.train_records_seed` draws the records, instead of the first.

    Raises: see `load_records`; `ValueError` if `data.held_out_names` leave nothing in one of the two parts, and see
        `LabelSet.with_own_palette` if `data.palette` asks for the labels' own colors.
    """
    is_parted = (data.held_out > 0 or bool(data.held_out_names)) and split in (data.train_split, HELD_OUT)
    is_drawn = data.train_records_seed is not None and split == data.train_split
    records = load_records(
        data.dataset_name,
        data.train_split if is_parted else split,
        labels=data.labels,
        max_records=None if is_parted or is_drawn else max_records,
        **reading_of(data),
        size=(data.height, data.width) if data.dataset_name == SCENES else None,
    )
    if is_parted:
        held_out = _held_out(records["image_id"][:], data)
        kept = [index for index in range(len(records)) if (index in held_out) == (split == HELD_OUT)]
        records = records.select(kept[: None if is_drawn else max_records])
    if is_drawn:
        order = np.random.default_rng(data.train_records_seed).permutation(len(records))
        records = records.select(sorted(order[:max_records].tolist()))
    if data.palette == "dataset":
        records = attach_labels(records, labels_of(records).with_own_palette())
    return tile_records(records, data.tiles)


def _held_out(image_ids: list[str], data: DataConfig) -> set[int]:
    if not data.held_out_names:
        return set(draw_held_out(image_ids, data.held_out, data.held_out_seed))
    found = set(find_held_out(image_ids, data.held_out_names))
    if len(found) in (0, len(image_ids)):
        raise ValueError(
            f"data.held_out_names {data.held_out_names} fit {'all' if found else 'none'} of the {len(image_ids)} ids "
            f"of {data.train_split}, such as {image_ids[0]!r}."
        )
    return found
