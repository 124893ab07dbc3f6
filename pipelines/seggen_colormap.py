"""Color maps: label ids -> RGB that an image VAE can carry, and RGB -> label ids. Travels with the pipelines.

SegGen (arXiv:2311.03355) paints maps with one color a label and reads generated ones back by nearest color.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from .seggen_palette import furthest_color, generate_palette, pair_squares

CHUNK = 1 << 16  # pixels decoded at once: the temporaries stay in a CPU's cache


class DecodedMaps(NamedTuple):
    """Label ids (int64) and each pixel's distance to its color (float32, 0-255 units), both (H, W) or (B, H, W)."""

    segmentation_map: Any  # np.ndarray or torch.Tensor, as what was decoded
    distance: Any


class ColormapCodec:
    """Paints segmentation maps with one color a label and reads color maps back by nearest color.

    Args:
        labels (`LabelSet`, `{id: name}`, or a dict as in labels.json): ids 0..C-1.
        palette (array (C, 3), `"dataset"` or `"generated"`, optional): colors in 0..255; `"dataset"` takes the labels'
            own. What the labels say if not given; else generated (see `generate_palette`), with an edge and a void
            color kept apart from all others.
        edge_color (RGB triple, optional): outlines segments; decodes to `ignore_index`. Default: the labels', if any.
        void_color (RGB triple, optional): stands for `ignore_index`. Default: generated, or far from a given palette.
    Raises: `ValueError` for ids with gaps, missing colors, and two equal colors (with the names of both).
    """

    def __init__(self, labels, palette=None, edge_color=None, void_color=None):
        categories, self.ignore_index, own_edge_color, own_palette = _read_labels(labels)
        self.id2label = {id: name for id, name, _, _ in categories}
        self.things = [id for id, _, is_thing, _ in categories if is_thing]
        edge_color = own_edge_color if edge_color is None else edge_color
        palette = own_palette if palette is None else palette
        if isinstance(palette, str) and palette == "generated":
            palette, edge_color, void_color = generate_palette(len(categories), edge_color, void_color)
        elif isinstance(palette, str):
            if palette != "dataset":
                raise ValueError(f'palette is {palette!r}; give an array of colors, "dataset" or "generated".')
            missing = [name for _, name, _, color in categories if color is None]
            if missing:
                raise ValueError(f"Label {missing[0]!r} has no color of its own; palette='generated' has one.")
            palette = [color for _, _, _, color in categories]
        palette = np.asarray(palette)
        if palette.shape != (len(categories), 3) or palette.min() < 0 or palette.max() > 255:
            raise ValueError(
                f"palette has shape {palette.shape} and values up to {palette.max()}; it must hold one RGB color in "
                f"0..255 for each of the {len(categories)} labels."
            )
        self.palette = palette.astype(np.uint8)
        self.edge_color = None if edge_color is None else tuple(int(value) for value in edge_color)
        if void_color is None:
            void_color = furthest_color(self._colors(void=False))
        self.void_color = tuple(int(value) for value in void_color)

        names = [*self.id2label.values(), "(ignored pixels)", "(edges)"]
        name_of = {}
        for name, color in zip(names, map(tuple, self._colors().tolist()), strict=False):
            if color in name_of:
                raise ValueError(
                    f"{name_of[color]!r} and {name!r} have the same color {color}, so a color map could not tell them "
                    f"apart. Give one another color, or generate all with palette='generated'."
                )
            name_of[color] = name
        self._table = None

    @property
    def num_labels(self) -> int:
        return len(self.palette)

    @property
    def least_distance(self) -> float:
        """Distance of the two closest colors; noise of less than half of it never changes a label."""
        return math.sqrt(pair_squares(self._colors()).min())

    def to_dict(self) -> dict:
        """Plain JSON in the form of labels.json, each label with its palette color; `from_dict` restores the codec."""
        categories = [
            {"id": id, "name": name, "isthing": int(id in self.things), "color": self.palette[id].tolist()}
            for id, name in self.id2label.items()
        ]
        return {
            "categories": categories,
            "ignore_index": self.ignore_index,
            "edge_color": None if self.edge_color is None else list(self.edge_color),
            "void_color": list(self.void_color),
        }

    @classmethod
    def from_dict(cls, d: Mapping) -> "ColormapCodec":
        return cls(d, palette="dataset", void_color=d["void_color"])

    def encode(self, segmentation_map) -> Any:
        """Paint label ids.

        Args:
            segmentation_map (integer array, tensor or PIL image, `(H, W)` or `(B, H, W)`): 0..C-1 or `ignore_index`.
        Returns: uint8 colors; numpy `(..., H, W, 3)`, or for a tensor a tensor `(..., 3, H, W)` on its device.
        Raises: `ValueError` if an id is no label, or the rank is another.
        """
        if isinstance(segmentation_map, torch.Tensor):
            rgb = torch.from_numpy(self.encode(segmentation_map.cpu().numpy()))
            return rgb.movedim(-1, -3).contiguous().to(segmentation_map.device)
        segmentation_map = np.asarray(segmentation_map)
        if segmentation_map.ndim not in (2, 3) or not np.issubdtype(segmentation_map.dtype, np.integer):
            raise ValueError(
                f"A segmentation map of shape {segmentation_map.shape} and type {segmentation_map.dtype} cannot be "
                f"encoded; give integer label ids as (H, W) or (B, H, W)."
            )
        limit = max(self.num_labels - 1, self.ignore_index)
        known = np.zeros(limit + 1, dtype=bool)
        known[: self.num_labels] = known[self.ignore_index] = True
        outside = (segmentation_map < 0) | (segmentation_map > limit)
        if outside.any() or not known[segmentation_map].all():
            ids = np.unique(segmentation_map)
            wrong = [int(i) for i in ids if not (0 <= i <= limit and known[i])]
            raise ValueError(
                f"The segmentation map has ids {wrong[:10]}, which are no labels; ids must be "
                f"0..{self.num_labels - 1} or ignore_index {self.ignore_index}. `seggen doctor` finds such maps."
            )
        table = np.zeros((limit + 1, 3), dtype=np.uint8)
        table[self.ignore_index] = self.void_color
        table[: self.num_labels] = self.palette
        return table[segmentation_map]

    def decode(
        self, color_maps, max_distance: float | None = None, min_region_area: int = 0, fill_distance: int = 0
    ) -> DecodedMaps:
        """Map each pixel to the label with the nearest color; void and edge color become `ignore_index`.

        Args:
            color_maps: RGB as numpy or PIL `(H, W, 3)` or `(B, H, W, 3)`, as tensor `(3, H, W)` or `(B, 3, H, W)`, or
                a list of these; uint8, or floats in [0, 1], which are rounded to 8 bits as when an image is saved.
            max_distance (`float`, optional): pixels further from every color become `ignore_index`; 0-255 RGB units.
            min_region_area (`int`): connected regions (4-neighbours) of fewer pixels, ignored ones too, join the
                nearest larger region (JoDiffusion merges those under 20 pixels).
            fill_distance (`int`): pixels further than `max_distance` from every color take the label of the nearest
                other pixel that is at most this many pixels away: soft borders of a small or young model, whose
                mixtures of two colors are near to neither. 0 leaves them ignored.
        Returns: `DecodedMaps`, numpy for numpy and PIL, tensors on the same device for tensors.
        Raises: `ValueError` if the rank is another or floats leave [0, 1].
        """
        if isinstance(color_maps, (list, tuple)):
            if len({np.shape(color_map) for color_map in color_maps}) != 1:
                raise ValueError("A list of color maps must hold maps of one size; decode others one by one.")
            if isinstance(color_maps[0], torch.Tensor):
                color_maps = torch.stack(list(color_maps))
            else:
                color_maps = np.stack([np.asarray(m) for m in color_maps])
        if isinstance(color_maps, torch.Tensor):
            if color_maps.ndim not in (3, 4) or color_maps.shape[-3] != 3:
                raise ValueError(
                    f"A tensor of color maps is (3, H, W) or (B, 3, H, W), not {tuple(color_maps.shape)}."
                )
            rgb = color_maps.float() if color_maps.is_floating_point() else color_maps
            decoded = self.decode(rgb.movedim(-3, -1).cpu().numpy(), max_distance, min_region_area, fill_distance)
            return DecodedMaps(*(torch.from_numpy(part).to(color_maps.device) for part in decoded))

        rgb = _to_uint8(np.asarray(color_maps))
        labels = np.empty(rgb.shape[:-1], dtype=np.int64)
        distance = np.empty(rgb.shape[:-1], dtype=np.float32)
        for part in range(0, labels.size, CHUNK):
            chunk = slice(part, part + CHUNK)
            self._decode_pixels(rgb.reshape(-1, 3)[chunk], labels.reshape(-1)[chunk], distance.reshape(-1)[chunk])
        if max_distance is not None:
            far = distance > max_distance
            labels[far] = self.ignore_index
            if fill_distance > 0:
                shape = (-1, *labels.shape[-2:])
                for one, unread in zip(labels.reshape(shape), far.reshape(shape), strict=True):
                    _fill(one, unread, fill_distance)
        if min_region_area > 1:
            for one in labels.reshape(-1, *labels.shape[-2:]):  # views: changed in place
                _join_small_regions(one, min_region_area)
        return DecodedMaps(labels, distance)

    def _decode_pixels(self, rgb, labels, distance):
        """Nearest color of each of (N, 3) pixels, into labels (N,) and distance (N,)."""
        red, green, blue = (rgb[:, channel].astype(np.int32) for channel in range(3))
        index = self._nearest_table().take((red << 16) | (green << 8) | blue)
        colors = self._colors().astype(np.int32)
        squares = np.zeros(len(rgb), dtype=np.int32)
        for values, table in zip((red, green, blue), colors.T, strict=True):
            values -= table.take(index)
            values *= values
            squares += values
        np.sqrt(squares, out=distance, dtype=np.float32)
        ids = np.full(len(colors), self.ignore_index, dtype=np.int64)
        ids[: self.num_labels] = np.arange(self.num_labels)
        ids.take(index, out=labels)

    def _nearest_table(self):
        """(2^24,) index into `_colors` of the nearest color of every RGB value; made on first use."""
        if self._table is None:
            self._table = _nearest_color_table(self._colors()).reshape(-1)
        return self._table

    def _colors(self, void=True) -> np.ndarray:
        """Palette, void color, edge color: all that a color map may hold; (C + 1 or 2, 3) int64."""
        extra = [self.void_color] if void else []
        extra += [] if self.edge_color is None else [self.edge_color]
        return np.concatenate([self.palette.astype(np.int64), np.array(extra, dtype=np.int64).reshape(-1, 3)])

    def __eq__(self, other):
        return isinstance(other, ColormapCodec) and self.to_dict() == other.to_dict()

    __hash__: None = None

    def __getstate__(self):
        return {**self.__dict__, "_table": None}  # 16 MB that a worker process makes in a moment

    def __repr__(self):
        return f"ColormapCodec({self.num_labels} labels, least distance {self.least_distance:.1f})"


def _read_labels(labels) -> tuple[list[tuple[int, str, bool, Any]], int, Any, str]:
    """-> [(id, name, is_thing, color or None)] with ids 0..C-1, ignore_index, edge_color or None, palette."""
    if not isinstance(labels, Mapping):
        labels = labels.to_dict()  # a LabelSet
    settings: Mapping[str, Any] = labels
    if "categories" not in labels:
        settings = {"categories": [{"id": id, "name": name} for id, name in labels.items()]}
    categories = sorted(
        (int(c["id"]), str(c["name"]), bool(c.get("isthing", False)), c.get("color")) for c in settings["categories"]
    )
    ids = [id for id, _, _, _ in categories]
    if not ids or ids != list(range(len(ids))):
        raise ValueError(f"A codec needs label ids 0..C-1 without gaps, not {ids[:10]}; renumber them with LabelSet.")
    limit = 255 if len(ids) <= 255 else 65535
    ignore_index = settings.get("ignore_index")
    ignore_index = limit if ignore_index is None else int(ignore_index)
    if not len(ids) <= ignore_index <= limit:
        raise ValueError(f"ignore_index is {ignore_index}; it must be no label, in {len(ids)}..{limit}.")
    return categories, ignore_index, settings.get("edge_color"), settings.get("palette", "generated")


def _nearest_color_table(colors):
    """(256, 256, 256) index of the nearest of `colors` (the first, if several are equally near) of every RGB value.

    Exact: a color is compared only where it can be nearest, which a coarse grid bounds. Takes about half a second and
    less than 10 MB beside the table.
    """
    table = np.empty((256, 256, 256), dtype=np.uint8 if len(colors) <= 256 else np.uint16)
    squares = (np.arange(256) - colors.T[:, :, None]).astype(np.int32) ** 2  # (3, C, 256)
    slab = 16
    middles = np.arange(slab / 2 - 0.5, 256, slab)
    for low in range(0, 256, slab):
        # No value is further from its cell's middle than half the diagonal, so none is further from a color than:
        cells = np.stack(np.meshgrid(low + slab / 2 - 0.5, middles, middles, indexing="ij"), axis=-1).reshape(-1, 3)
        nearest = functools.reduce(np.minimum, (((cells - color) ** 2).sum(1) for color in colors))
        reach = math.ceil(math.sqrt(nearest.max()) + math.sqrt(3) * slab / 2)
        best = np.full((slab, 256, 256), 1 << 30, dtype=np.int32)
        for index, (red, green, blue) in enumerate(colors.tolist()):
            gap = max(low - red, red - (low + slab - 1), 0)
            if gap > reach:
                continue
            side = math.isqrt(reach**2 - gap**2) + 1
            rows, columns = (slice(max(value - side, 0), value + side + 1) for value in (green, blue))
            square = squares[0, index, low : low + slab, None, None] + (
                squares[1, index, rows, None] + squares[2, index, columns]
            )
            closer = square < best[:, rows, columns]
            np.copyto(best[:, rows, columns], square, where=closer)
            np.copyto(table[low : low + slab, rows, columns], index, where=closer)
    return table


def _to_uint8(rgb):
    """RGB as C-contiguous uint8 (..., H, W, 3), from uint8 or floats in [0, 1]."""
    if rgb.ndim not in (3, 4) or rgb.shape[-1] != 3:
        raise ValueError(
            f"A color map is RGB, (H, W, 3) or (B, H, W, 3), not {rgb.shape}; convert it with .convert('RGB')."
        )
    if rgb.dtype == np.uint8:
        return np.ascontiguousarray(rgb)
    if not np.issubdtype(rgb.dtype, np.floating):
        raise ValueError(f"A color map of type {rgb.dtype} cannot be decoded; give uint8, or floats in [0, 1].")
    if rgb.size and not (rgb.min() >= -1e-4 and rgb.max() <= 1 + 1e-4):  # NaN fails too
        raise ValueError(f"Float color maps must be in [0, 1]; this one spans {rgb.min():.3g}..{rgb.max():.3g}.")
    return np.ascontiguousarray(np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8))


def connected_regions(values: np.ndarray) -> np.ndarray:
    """The connected regions (4-neighbours) of equal values of (H, W), numbered from 0."""
    from scipy import ndimage  # here, so that the pipelines load where scipy is absent

    height, width = values.shape
    # All values' regions at once: pixels on the even places of a doubled grid, bridges between equal neighbours.
    bridges = np.zeros((2 * height - 1, 2 * width - 1), dtype=np.uint8)
    bridges[::2, ::2] = 1
    bridges[1::2, ::2] = values[1:] == values[:-1]
    bridges[::2, 1::2] = values[:, 1:] == values[:, :-1]
    regions: Any = ndimage.label(bridges)  # (numbered, count), which scipy does not tell from a count alone
    return regions[0][::2, ::2] - 1


def _join_small_regions(segmentation_map, min_region_area):
    """Give each pixel of a region under `min_region_area` the label of the nearest pixel of a larger one, in place."""
    regions = connected_regions(segmentation_map)
    _fill(segmentation_map, (np.bincount(regions.reshape(-1)) < min_region_area)[regions])


def _fill(segmentation_map, holes, reach=np.inf):
    """Give each of the pixels `holes` (bool) the label of the nearest other pixel within `reach` pixels, in place."""
    from scipy import ndimage

    if holes.any() and not holes.all():
        found: Any = ndimage.distance_transform_edt(holes, return_indices=True)  # a pair
        distance, nearest = found
        filled = distance <= reach  # 0 outside the holes
        segmentation_map[filled] = segmentation_map[tuple(axis[filled] for axis in nearest)]
