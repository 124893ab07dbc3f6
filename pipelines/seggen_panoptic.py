"""Color maps that carry instances: two codings of panoptic maps, painted and read back in vectorised code.

`edges` is the paper's: one color a class, every segment outlined in a reserved color (SegGen, arXiv:2311.03355). An
outline costs an object its rim, and an object that is all rim is lost. `shades` gives each thing class several colors
that lie near each other, and touching instances of a class different ones: no pixel is spent on outlines.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .seggen_choices import CODINGS
from .seggen_colormap import ColormapCodec, _join_small_regions, _read_labels, connected_regions
from .seggen_palette import generate_palette

REACH = 2  # pixels: instances of one class no further apart than this get different shades
SETTLED_AREA = 4  # times the least area of a region: in larger ones no pixel is taken for noise
SETTLED_SHARE, SETTLED_DISTANCE = 0.9, 120  # of the least distance of two colors, and at most: what noise may do


class DecodedPanoptic(NamedTuple):
    """
    Args:
        panoptic_map: (H, W) int32 segment ids from 1, 0 for void.
        segments_info: a dict each with id, category_id, isthing, iscrowd, area (pixels), bbox (x, y, width, height).
        distance: (H, W) float32, of each pixel to the nearest color that a map may hold, 0-255 RGB units.
        segmentation_map: (H, W) int64 label ids, ignore_index for void.
    """

    panoptic_map: np.ndarray
    segments_info: list[dict]
    distance: np.ndarray
    segmentation_map: np.ndarray


class PanopticCodec:
    """Paints panoptic maps and reads them back, by way of color indices: one integer for each color of the maps.

    Args:
        labels (`LabelSet`, or a dict as in labels.json): ids 0..C-1, things marked.
        coding: `shades` or `edges`.
        num_shades (`int`): colors of each thing class under `shades`; four suffice for any planar map.
        palette (array, optional): RGB of each color index; generated if not given.
        void_color (RGB triple, optional): stands for void; generated if not given.

    Attributes:
        colors (`ColormapCodec`): paints color indices.
        plain (`ColormapCodec`): paints label ids with the first color of each, for maps without segments.
        label_of_color (int64 array): the label of each color index, `-1` for that of outlines.
    """

    def __init__(self, labels, coding: str = "shades", num_shades: int = 4, palette=None, void_color=None):
        if coding not in CODINGS:
            raise ValueError(f"There is no coding {coding!r}; there are {', '.join(CODINGS)}.")
        if num_shades < 2:
            raise ValueError(f"num_shades is {num_shades}; touching instances need at least 2.")
        self.coding, self.num_shades = coding, num_shades if coding == "shades" else 1
        entries, ignore_index, *_ = _read_labels(labels)
        self.things = [label for label, _, is_thing, _ in entries if is_thing]
        counts = tuple(self.num_shades if is_thing else 1 for _, _, is_thing, _ in entries)
        outlines = [-1] if coding == "edges" else []
        self.label_of_color = np.concatenate([np.repeat(np.arange(len(counts)), counts), outlines]).astype(np.int64)
        self._first_color = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        if palette is None:
            palette, void_color = _shaded_palette(counts) if coding == "shades" else _outlined_palette(len(counts))
        colored = enumerate(self.label_of_color.tolist())
        names = {c: "(edges)" if label < 0 else f"{entries[label][1]} {c}" for c, label in colored}
        self.colors = ColormapCodec(names, palette=palette, void_color=void_color)
        categories = [{"id": label, "name": name, "isthing": is_thing} for label, name, is_thing, _ in entries]
        self.plain = ColormapCodec(
            {"categories": categories, "ignore_index": ignore_index},
            palette=self.colors.palette[self._first_color],
            void_color=self.colors.void_color,
        )
        self.id2label, self.num_labels, self.ignore_index = self.plain.id2label, len(counts), ignore_index

    def to_dict(self) -> dict:
        """Plain JSON: that of `plain`, and under `panoptic` the coding and all colors; `from_dict` restores it."""
        coding = {"coding": self.coding, "num_shades": self.num_shades, "colors": self.colors.palette.tolist()}
        return self.plain.to_dict() | {"panoptic": coding}

    @classmethod
    def from_dict(cls, d: Mapping) -> "PanopticCodec":
        coding = d["panoptic"]
        num_shades = max(2, coding["num_shades"])
        return cls(d, coding["coding"], num_shades, palette=coding["colors"], void_color=d["void_color"])

    def __eq__(self, other):
        return isinstance(other, PanopticCodec) and self.to_dict() == other.to_dict()

    __hash__: None = None

    def encode(self, panoptic_map: np.ndarray, segments_info: Sequence[Mapping]) -> np.ndarray:
        """Paint segments: uint8 (H, W, 3). Arguments and errors as in `index`."""
        return self.colors.encode(self.index(panoptic_map, segments_info))

    def index(self, panoptic_map: np.ndarray, segments_info: Sequence[Mapping]) -> np.ndarray:
        """The color index of each pixel.

        Args:
            panoptic_map: (H, W) integers, 0 for void.
            segments_info: `id` and `category_id` of each segment; those with `iscrowd` are painted void, since nobody
                knows their instances.
        Returns: int64 (H, W), void is `colors.ignore_index`. Raises: `ValueError` for an id without an entry, and a
            category that is no label.
        """
        ids, index = np.unique(panoptic_map, return_inverse=True)
        index = index.reshape(np.shape(panoptic_map))
        known = {int(s["id"]): s for s in segments_info}
        missing = [i for i in ids.tolist() if i != 0 and i not in known]
        if missing:
            raise ValueError(f"The panoptic map has ids {missing[:5]}, which segments_info lacks.")
        void = self.colors.ignore_index
        label = np.array([_label(known.get(i), void, self.num_labels) for i in ids.tolist()])
        if self.coding == "edges":
            found = label[index]
            found[outline(np.where(label == void, 0, np.arange(1, len(ids) + 1))[index])] = self.num_labels
            return found
        color = np.where(label == void, void, self._first_color[np.where(label == void, 0, label)])
        is_thing = np.isin(label, self.things)
        color[is_thing] += choose_shades(index, label, is_thing, self.num_shades)[is_thing]
        return color[index]

    def decode(self, rgb, max_distance: float | None = None, min_region_area: int | None = None) -> DecodedPanoptic:
        """Read segments: nearest color, connected regions of thing classes, all regions of a stuff class as one.

        Args:
            rgb: one color map (H, W, 3), uint8 or floats in [0, 1].
            max_distance: pixels further from every color are void; 0-255 RGB units.
            min_region_area (`int`): smaller regions join their surroundings; 2 pixels at 64 x 64 and in proportion to
                the sides above if not given.
        """
        rgb = np.asarray(rgb)
        if rgb.ndim != 3:
            raise ValueError(f"One color map (H, W, 3) is read at a time, not an array of shape {rgb.shape}.")
        if min_region_area is None:
            min_region_area = max(2, round(np.sqrt(rgb.shape[0] * rgb.shape[1]) / 32))
        void = self.colors.ignore_index
        decoded = self.colors.decode(rgb)
        color, distance = decoded.segmentation_map, decoded.distance
        if self.coding == "shades":  # outlines are thinner than any region
            self._settle(color, rgb, min_region_area)
            _join_small_regions(color, min_region_area)
        label = np.where(color == void, void, self.label_of_color[np.where(color == void, 0, color)])
        is_edge, region = label < 0, connected_regions(color)
        far = np.zeros_like(is_edge) if max_distance is None else distance > max_distance
        small = is_edge | (np.bincount(region.reshape(-1)) < min_region_area)[region]
        if small.any() and not small.all():
            from scipy import ndimage  # here, so that the pipelines load where scipy is absent

            rows_and_columns: Any = ndimage.distance_transform_edt(small, return_distances=False, return_indices=True)
            nearest = tuple(rows_and_columns)
            label, region = label[nearest], region[nearest]
        elif small.all():
            label = np.full(label.shape, void)
        label = np.where(far, void, label)
        segments = self._segments(label, region)
        return DecodedPanoptic(*segments, distance, np.where(label == void, self.ignore_index, label))

    def _settle(self, color: np.ndarray, rgb: np.ndarray, min_region_area: int) -> None:
        """Give pixels of small regions the color of a neighbour's larger one that they nearly have, in place.

        With hundreds of colors, noise makes a pixel's nearest one another. What was painted in another color is no
        nearer to the neighbour's than the least distance of two colors, and stays.
        """
        void, pixels = self.colors.ignore_index, rgb * 255.0 if rgb.dtype.kind == "f" else rgb
        palette = np.concatenate([self.colors.palette, [self.colors.void_color]]).astype(np.float32)
        reach = min(SETTLED_SHARE * self.colors.least_distance, SETTLED_DISTANCE)
        for _ in range(SETTLED_AREA):  # a fragment is eaten from its rim
            region = connected_regions(color)
            area = np.bincount(region.reshape(-1))[region]
            rows, columns = np.nonzero(area <= SETTLED_AREA * min_region_area)
            nearest = np.full(len(rows), np.inf, np.float32)
            settled = color[rows, columns]
            for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                place = (rows + down).clip(0, len(color) - 1), (columns + right).clip(0, color.shape[1] - 1)
                theirs = color[place]
                apart = palette[np.where(theirs == void, -1, theirs)] - pixels[rows, columns]
                distance = np.sqrt(np.square(apart).sum(-1))
                closer = (area[place] > area[rows, columns]) & (distance < np.minimum(nearest, reach))
                nearest[closer], settled[closer] = distance[closer], theirs[closer]
            if (settled == color[rows, columns]).all():
                return
            color[rows, columns] = settled

    def index_labels(self, segmentation_map: np.ndarray) -> np.ndarray:
        """Color indices of label ids, where nothing is known of segments: the first color of each label."""
        segmentation_map = np.asarray(segmentation_map)
        self.plain.encode(segmentation_map)  # refuses ids that are no labels
        is_void = segmentation_map == self.ignore_index
        return np.where(is_void, self.colors.ignore_index, self._first_color[np.where(is_void, 0, segmentation_map)])

    def _segments(self, label: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, list[dict]]:
        """Ids from 1 in the order of the labels: a thing's region is a segment, a stuff class is one."""
        void = self.colors.ignore_index
        is_thing = np.isin(label, self.things)
        key = label.astype(np.int64) * (int(region.max()) + 2) + np.where(is_thing, region + 1, 0)
        key[label == void] = -1
        keys, index = np.unique(key, return_inverse=True)
        index = index.reshape(key.shape) + (0 if keys[0] == -1 else 1)
        first = 1 if keys[0] == -1 else 0
        labels = keys[first:] // (int(region.max()) + 2)
        rows, columns = np.indices(index.shape).reshape(2, -1)
        flat, count = index.reshape(-1), len(labels) + 1
        bounds = np.full((4, count), -1)
        bounds[:2] = max(index.shape)
        np.minimum.at(bounds[0], flat, columns)
        np.minimum.at(bounds[1], flat, rows)
        np.maximum.at(bounds[2], flat, columns)
        np.maximum.at(bounds[3], flat, rows)
        areas = np.bincount(flat, minlength=count)
        segments = [
            {
                "id": i,
                "category_id": int(found),
                "isthing": int(found) in self.things,
                "iscrowd": False,
                "area": int(areas[i]),
                "bbox": [int(v) for v in (*bounds[:2, i], *(bounds[2:, i] - bounds[:2, i] + 1))],
            }
            for i, found in enumerate(labels.tolist(), start=1)
        ]
        return index.astype(np.int32), segments


def outline(segments: np.ndarray) -> np.ndarray:
    """Pixels (H, W) of the outlines: those whose right or lower neighbour is of another segment, so one pixel wide."""
    found = np.zeros(segments.shape, bool)
    found[:-1] |= segments[:-1] != segments[1:]
    found[:, :-1] |= segments[:, :-1] != segments[:, 1:]
    return found & (segments != 0)


def _label(segment: Mapping | None, void: int, num_labels: int) -> int:
    if segment is None or segment.get("iscrowd", False):
        return void
    if not 0 <= int(segment["category_id"]) < num_labels:
        raise ValueError(f"Segment {segment['id']} has category {segment['category_id']}, which is no label.")
    return int(segment["category_id"])


def choose_shades(index: np.ndarray, label: np.ndarray, is_thing: np.ndarray, num_shades: int) -> np.ndarray:
    """A shade for each segment, another than those of its neighbours of the same class.

    The most hemmed-in segment first (DSATUR: Brelaz 1979, doi:10.1145/359094.359101); where all shades are taken the
    one that the fewest neighbours have.
    """
    neighbours: list[set[int]] = [set() for _ in label]
    for a, b in _near_pairs(index, label, is_thing):
        neighbours[a].add(b)
        neighbours[b].add(a)
    shades = np.full(len(label), -1)
    left = {int(i) for i in np.flatnonzero(is_thing)}
    taken: list[list[int]] = [[0] * num_shades for _ in label]
    while left:
        chosen = max(left, key=lambda i: (sum(n > 0 for n in taken[i]), len(neighbours[i]), -i))
        shades[chosen] = min(range(num_shades), key=lambda shade: (taken[chosen][shade], shade))
        for other in neighbours[chosen]:
            taken[other][shades[chosen]] += 1
        left.remove(chosen)
    return shades


def _near_pairs(index: np.ndarray, label: np.ndarray, is_thing: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of thing segments of one class within REACH pixels of each other."""
    found, count = set(), len(label)
    height, width = index.shape
    for down in range(REACH + 1):
        for right in range(-REACH, REACH + 1):
            if (down, right) <= (0, 0) or down >= height or abs(right) >= width:
                continue
            a = index[: height - down, max(0, -right) : width - max(0, right)]
            b = index[down:, max(0, right) : width + min(0, right)]
            near = (a != b) & is_thing[a] & (label[a] == label[b])
            found.update(np.unique(a[near].astype(np.int64) * count + b[near]).tolist())
    return [divmod(pair, count) for pair in sorted(found)]


@functools.lru_cache(maxsize=8)
def _shaded_palette(counts: tuple[int, ...]):
    """Colors of all classes, `counts[label]` each: as far from each other as a palette of so many has them, and those
    of a class near each other, so that a color misread is likelier another instance than another class."""
    palette, _, void_color = generate_palette(sum(counts))
    free = list(map(tuple, palette.tolist()))
    chosen: list[list[tuple]] = [[] for _ in counts]
    for label in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):  # balls first, while there is room
        center = np.array(free[0])
        near = sorted(free, key=lambda color: (int(np.square(np.array(color) - center).sum()), color))
        chosen[label] = near[: counts[label]]
        free = [color for color in free if color not in chosen[label]]
    return np.array([color for group in chosen for color in group], np.uint8), void_color


def _outlined_palette(num_labels: int):
    """One color a class, and last that of outlines."""
    palette, edge_color, void_color = generate_palette(num_labels)
    return np.concatenate([palette, [edge_color]]).astype(np.uint8), void_color
