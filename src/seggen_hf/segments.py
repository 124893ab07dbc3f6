"""Segments of a panoptic map: their measures, and the label of each pixel."""

from collections.abc import Sequence

import numpy as np


def measure_segments(panoptic_map: np.ndarray, segments: list[dict]) -> list[dict]:
    """The segments with area (pixels), bbox (x, y, width, height) and iscrowd added; those without a pixel left out.

    Args:
        panoptic_map: `(height, width)` integers, 0 for void; `segments`: with `id` each.
    """
    ids = np.array([0, *(segment["id"] for segment in segments)], np.int64)
    order = np.argsort(ids)
    places = order[np.searchsorted(ids[order], panoptic_map).clip(max=len(ids) - 1)]
    places[ids[places] != panoptic_map] = 0
    rows, columns = np.nonzero(places)
    found = places[rows, columns]
    areas = np.bincount(found, minlength=len(ids))
    low, high = np.full((2, len(ids)), max(panoptic_map.shape)), np.full((2, len(ids)), -1)
    for axis, values in enumerate((columns, rows)):
        np.minimum.at(low[axis], found, values)
        np.maximum.at(high[axis], found, values)
    return [
        {
            **segment,
            "iscrowd": bool(segment.get("iscrowd", False)),
            "area": int(areas[i]),
            "bbox": [int(v) for v in (*low[:, i], *(high[:, i] - low[:, i] + 1))],
        }
        for i, segment in enumerate(segments, start=1)
        if areas[i]
    ]


def measure_shapes(panoptic_map: np.ndarray, segments: Sequence[dict]) -> dict[int, tuple[int, float]]:
    """Of each segment that the border of the map does not cut: its area in pixels, and its compactness.

    Compactness is 16 area / perimeter^2, the perimeter counted in sides of pixels: 1 for a square, 0.8 for a disk, and
    less for what is long, ragged or grown together.

    Args:
        panoptic_map: `(height, width)` integers, 0 for void; `segments`: with `id` each.
    Returns: `{segment id: (area, compactness)}`.
    """
    ids = np.array(sorted({0, *(segment["id"] for segment in segments)}), np.int64)
    places = np.searchsorted(ids, panoptic_map).clip(max=len(ids) - 1)
    places[ids[places] != panoptic_map] = 0
    padded = np.pad(places, 1, constant_values=-1)
    sides = np.zeros(len(ids), np.int64)
    for one, other in ((padded[:, :-1], padded[:, 1:]), (padded[:-1], padded[1:])):
        border = one != other
        for side in (one[border], other[border]):
            sides += np.bincount(side[side >= 0], minlength=len(ids))
    cut = np.unique(np.concatenate([places[0], places[-1], places[:, 0], places[:, -1]]))
    areas = np.bincount(places.ravel(), minlength=len(ids))
    whole = [i for i in range(1, len(ids)) if areas[i] and i not in cut]
    return {int(ids[i]): (int(areas[i]), float(16 * areas[i] / sides[i] ** 2)) for i in whole}


def label_map(panoptic_map: np.ndarray, segments: Sequence[dict], ignore_index: int) -> np.ndarray:
    """Label ids int32 `(height, width)` of segments; void and crowds are `ignore_index`."""
    segments = sorted((s for s in segments if not s.get("iscrowd", False)), key=lambda segment: segment["id"])
    ids = np.array([0, *(segment["id"] for segment in segments)], np.int64)
    labels = np.array([ignore_index, *(segment["category_id"] for segment in segments)], np.int32)
    places = np.searchsorted(ids, panoptic_map).clip(max=len(ids) - 1)
    return np.where(ids[places] == panoptic_map, labels[places], ignore_index).astype(np.int32)
