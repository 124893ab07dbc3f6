"""Panoptic maps as pictures for people: a class by its color, instances by shades of it, and outlines between them."""

from collections.abc import Mapping, Sequence

import numpy as np

from seggen_hf.pipelines import ColormapCodec
from seggen_hf.pipelines.seggen_panoptic import choose_shades

from ..data.schema import read_map, read_panoptic

NUM_SHADES = 4  # suffice for any planar map
SHADE_STEP = 0.22  # share of black or white that each further shade is mixed with
OUTLINE = 0.3  # what is left of the color under an outline: a segment that is all rim still shows its class


def paint_segments(
    panoptic_map: np.ndarray, segments_info: Sequence[Mapping], codec: ColormapCodec, things_only: bool = False
) -> np.ndarray:
    """Paint segments in the colors of their classes.

    Instances of a thing class that lie near each other get different shades of its color, the first one the color
    itself. A segment is outlined where it meets another, one pixel wide; void, and where it meets void, is not.

    Args:
        panoptic_map (`np.ndarray` of shape `(height, width)`): segment ids, 0 for void.
        segments_info: `id` and `category_id` of each segment; pixels of others are void.
        things_only (`bool`): paint stuff as void.

    Returns: uint8 `(height, width, 3)`. Raises: `ValueError` for a category that is no label.
    """
    category_of = {int(segment["id"]): int(segment["category_id"]) for segment in segments_info}
    for number, category in category_of.items():
        if not 0 <= category < codec.num_labels:
            raise ValueError(f"Segment {number} has category {category}, which is no label.")
    if things_only:
        category_of = {number: category for number, category in category_of.items() if category in codec.things}
    category_of.pop(0, None)
    ids, index = np.unique(panoptic_map, return_inverse=True)
    index = index.reshape(np.shape(panoptic_map))
    label = np.array([category_of.get(number, -1) for number in ids.tolist()])
    is_thing = np.isin(label, codec.things)
    shades = choose_shades(index, label, is_thing, NUM_SHADES)
    colors = np.empty((len(ids), 3), np.uint8)
    for place, (category, shade) in enumerate(zip(label.tolist(), shades.tolist(), strict=True)):
        colors[place] = codec.void_color if category < 0 else _shade(codec.palette[category], max(shade, 0))
    rgb = colors[index]
    rim = _rim(np.where(label < 0, 0, np.arange(1, len(ids) + 1))[index])
    rgb[rim] = np.rint(OUTLINE * rgb[rim]).astype(np.uint8)
    return rgb


def paint_record(record: Mapping, codec: ColormapCodec, things_only: bool = False) -> np.ndarray:
    """The map of a record, painted: its segments if it has a `panoptic_map`, else its labels."""
    if record.get("panoptic_map") is None:
        return codec.encode(read_map(record["segmentation_map"]))
    return paint_segments(read_panoptic(record["panoptic_map"]), record["segments_info"], codec, things_only)


def _shade(color: np.ndarray, number: int) -> np.ndarray:
    """Shade `number` of a color: light colors get darker and dark ones lighter, so that all shades differ."""
    color = np.asarray(color, np.float64)
    luminance = color @ (0.299, 0.587, 0.114)
    share = SHADE_STEP * number
    return np.rint((1 - share) * color + share * (0 if luminance > 127 else 255)).astype(np.uint8)


def _rim(segments: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour is of another segment, neither of the two void."""
    found = np.zeros(segments.shape, bool)
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        found[here] |= (segments[here] != segments[there]) & (segments[here] != 0) & (segments[there] != 0)
    return found
