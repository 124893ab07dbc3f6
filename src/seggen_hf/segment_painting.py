"""Panoptic maps as pictures for people: colors of the classes, instances told apart."""

from collections.abc import Mapping, Sequence

import numpy as np

SHADES = (0.0, 0.35, -0.3, 0.18, -0.15)  # towards white, or black if negative, by turns among a class's instances


def paint_segments(panoptic_map: np.ndarray, segments_info: Sequence[Mapping], codec) -> np.ndarray:
    """Paint segments in their classes' colors: instances lighter and darker by turns, with dark outlines.

    Args:
        panoptic_map: `(height, width)` segment ids, 0 for void.
        segments_info: `id`, `category_id` and `isthing` of each segment; crowds are painted void.
        codec (`ColormapCodec`): of the labels; its void color stands for what is no listed segment.
    Returns: uint8 `(height, width, 3)`.
    """
    ids, index = np.unique(panoptic_map, return_inverse=True)
    index = index.reshape(panoptic_map.shape)
    colors = np.tile(np.array(codec.void_color, np.float64), (len(ids), 1))
    place_of = {int(i): place for place, i in enumerate(ids)}
    painted: dict[int, int] = {}
    for segment in segments_info:
        label, place = segment["category_id"], place_of.get(int(segment["id"]))
        if place is None or segment.get("iscrowd", False):
            continue
        color = codec.palette[label].astype(np.float64)
        if segment["isthing"]:
            shade = SHADES[painted.get(label, 0) % len(SHADES)]
            painted[label] = painted.get(label, 0) + 1
            color += abs(shade) * ((255 if shade > 0 else 0) - color)
        colors[place] = color
    rgb = np.rint(colors).astype(np.uint8)[index]
    rgb[_outline(index)] //= 3
    return rgb


def _outline(index: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour is of another segment."""
    found = np.zeros(index.shape, bool)
    found[:-1] |= index[:-1] != index[1:]
    found[:, :-1] |= index[:, :-1] != index[:, 1:]
    return found
