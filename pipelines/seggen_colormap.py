"""Color maps: label ids -> RGB that an image VAE can carry, and RGB -> label ids. Travels with the pipelines.

SegGen (arXiv:2311.03355) paints maps with one color a label and reads generated ones back by nearest color. Its
palette is not published; the one here keeps colors nearly as far apart as a sphere packing allows.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

CHUNK = 1 << 16  # pixels decoded at once: the temporaries stay in a CPU's cache


# Palettes


class Palette(NamedTuple):
    """`colors` (C, 3) uint8, one a label, and the colors of segment outlines and of ignored pixels."""

    colors: np.ndarray
    edge_color: tuple[int, int, int]
    void_color: tuple[int, int, int]


def packing_bound(num_colors: int) -> float:
    """No `num_colors` colors in the RGB cube (side a = 255) can all be further apart than this, in 0-255 units.

    Balls of diameter d around colors d apart do not overlap and lie in a cube of side a + d. Such cubes tile space,
    where no packing is denser than pi / sqrt(18) (Kepler, Hales), so n (pi / 6) d^3 <= pi / sqrt(18) (a + d)^3, that
    is d <= a q / (1 - q) with q = (sqrt(2) / n)^(1/3).
    """
    if num_colors < 2:
        return math.inf
    q = (math.sqrt(2) / num_colors) ** (1 / 3)
    diagonal = 255 * math.sqrt(3)
    return diagonal if q >= 1 else min(255 * q / (1 - q), diagonal)


def generate_palette(num_labels: int, edge_color=None, void_color=None) -> Palette:
    """Choose colors whose least distance, edge and void color included, is as large as we can make it.

    Starts from the densest lattices that fit the cube, lets the colors push each other apart, and polishes the integer
    colors. Integer arithmetic throughout, so that every machine gets the same palette.

    Args:
        edge_color, void_color (RGB triple, optional): held where given; else the colors nearest to white and to black.
    Returns: `Palette`; the first labels get colors that are furthest from each other.
    """
    if num_labels < 1:
        raise ValueError(f"num_labels is {num_labels}; a palette needs at least one label.")
    held = [None if color is None else tuple(int(value) for value in color) for color in (edge_color, void_color)]
    return _generate_palette(int(num_labels), *held)


@functools.lru_cache(maxsize=32)
def _generate_palette(num_labels, edge_color, void_color) -> Palette:
    held = np.array([color for color in (edge_color, void_color) if color is not None], dtype=np.int64).reshape(-1, 3)
    n = num_labels + 2
    tries = [_polish(_push_apart(start, held), len(held)) for start in _lattice_starts(n)]
    colors = max(tries, key=lambda colors: int(_pair_squares(colors).min()))  # the first of the best

    rest = list(map(tuple, colors[len(held) :].tolist()))
    if edge_color is None:
        edge_color = max(rest, key=lambda color: (sum(color), color))
        rest.remove(edge_color)
    if void_color is None:
        void_color = min(rest, key=lambda color: (sum(color), color))
        rest.remove(void_color)

    # Farthest first: low ids, usually the frequent labels, get the colors that are hardest to confuse.
    rest = np.array(sorted(rest), dtype=np.int64)
    nearest = np.minimum(*(((rest - np.array(color)) ** 2).sum(1) for color in (edge_color, void_color)))
    order = []
    for _ in range(len(rest)):
        order.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((rest - rest[order[-1]]) ** 2).sum(1))
        nearest[order] = -1
    palette = rest[order].astype(np.uint8)
    palette.flags.writeable = False  # it is cached
    return Palette(palette, edge_color, void_color)


_SCALE = 4096  # fixed-point units per color step while colors are pushed


def _lattice_starts(n, count=3):
    """The `count` lattices (cubic, face- and body-centred, stretched to the cube) of n points or more with the longest
    least distance, each cut to n points; (n, 3) int64 in fixed point."""
    found = []
    sizes = range(2, math.ceil((4 * n) ** (1 / 3)) + 4)
    for size in itertools.combinations_with_replacement(sizes, 3):
        x, y, z = (255 / (k - 1) for k in size)
        face = min(math.hypot(x, y), math.hypot(x, z), math.hypot(y, z), 2 * min(x, y, z))
        body = min(math.hypot(x, y, z), 2 * min(x, y, z))
        even, total = math.prod((k + 1) // 2 for k in size), math.prod(size)
        found.append((round(-min(x, y, z), 6), total, "cubic", size))
        found.append((round(-face, 6), (total + 1) // 2, "face0", size))
        found.append((round(-face, 6), total // 2, "face1", size))
        found.append((round(-body, 6), even + math.prod(k // 2 for k in size), "body", size))
    starts = []
    for _, _, kind, size in sorted(entry for entry in found if entry[1] >= n)[:count]:
        grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1).reshape(-1, 3)
        keep = {
            "cubic": np.ones(len(grid), dtype=bool),
            "face0": grid.sum(1) % 2 == 0,
            "face1": grid.sum(1) % 2 == 1,
            "body": (grid % 2 == grid[:, :1] % 2).all(1),
        }[kind]
        points = grid[keep] * (255 * _SCALE) // (np.array(size) - 1)
        # All points that are too many leave one neighbourhood, so that the others can spread into it.
        center = np.array([200, 150, 90]) * _SCALE
        starts.append(points[np.argsort(-((points - center) ** 2).sum(1), kind="stable")[:n]])
    return starts


def _push_apart(points, held, num_steps=1000):
    """Push pairs closer than a target, slightly above the best least distance so far, apart within the cube."""
    n, limit = len(points), 255 * _SCALE
    # The quasi-random sequence R3 breaks the lattice's symmetry.
    jitter = (np.arange(1, n + 1)[:, None] / 1.2207440846057596 ** np.arange(1, 4)) % 1 - 0.5
    points = np.clip(points + np.rint(jitter * 4 * _SCALE).astype(np.int64), 0, limit)
    for row, color in enumerate(held * _SCALE):  # the point nearest to a held color becomes it, and moves to the front
        nearest = row + int(((points[row:] - color) ** 2).sum(1).argmin())
        points[[row, nearest]] = points[[nearest, row]]
        points[row] = color
    best, best_points = 0.0, points
    first, second = np.triu_indices(n, 1)
    for step in range(min(num_steps, 1 + 400_000_000 // n**2)):
        if step % 20 == 0:  # only neighbours can come too close within the next steps
            squares = ((points[first] - points[second]) ** 2).sum(1)
            near = squares <= (1.6 * max(best, _SCALE * packing_bound(n) * 0.7)) ** 2
            near[squares.argmin()] = True
            i, j = first[near], second[near]
        difference = points[i] - points[j]
        distance = np.sqrt((difference**2).sum(1).astype(np.float64))
        if distance.min() > best:
            best, best_points = float(distance.min()), points
        target = best * (1.0002 + 0.04 * (1 - step / num_steps) ** 2)
        close = distance < target
        factor = 0.45 * (target / np.maximum(distance[close], 1) - 1)
        push = np.rint(difference[close] * factor[:, None]).astype(
            np.int64
        )  # integer sums do not depend on their order
        points = points.copy()
        np.add.at(points, i[close], push)
        np.add.at(points, j[close], -push)
        points = np.clip(points, 0, limit)
        points[: len(held)] = held * _SCALE
    return np.rint(best_points / _SCALE).astype(np.int64)


def _polish(colors, num_held):
    """Move colors of the closest pairs by up to 2 units while that lengthens the distance; mends the rounding."""
    colors = colors.copy()
    moves = np.array([move for move in itertools.product(range(-2, 3), repeat=3) if any(move)])
    squares = _pair_squares(colors)
    for _ in range(40_000_000 // len(colors) ** 2):  # far more than a hundred labels need
        least = squares.min()
        for i in np.unique(np.argwhere(squares == least)[:, 0]):
            if i < num_held:
                continue
            moved = np.clip(colors[i] + moves, 0, 255)
            rows = ((moved[:, None] - colors) ** 2).sum(2)
            rows[:, i] = squares[i, i]
            best = int(rows.min(1).argmax())
            if rows[best].min() > least:
                colors[i] = moved[best]
                squares[i] = squares[:, i] = rows[best]
                break
        else:
            break
    return colors


def _pair_squares(colors):
    """(n, n) squared distances; the diagonal is larger than any of them."""
    colors = np.asarray(colors, dtype=np.int64)
    squares = ((colors[:, None] - colors) ** 2).sum(2)
    np.fill_diagonal(squares, 1 << 40)
    return squares


# Codec


class DecodedMaps(NamedTuple):
    """Label ids (int64) and each pixel's distance to its color (float32, 0-255 units), both (H, W) or (B, H, W)."""

    segmentation_map: np.ndarray | torch.Tensor
    distance: np.ndarray | torch.Tensor


class ColormapCodec:
    """Paints segmentation maps with one color a label and reads color maps back by nearest color.

    Args:
        labels (`LabelSet`, `{id: name}`, or a dict as in labels.json): ids 0..C-1.
        palette (array (C, 3) or `"dataset"`, optional): colors in 0..255; `"dataset"` takes the labels' own. Generated
            if not given (see `generate_palette`), with an edge and a void color kept apart from all others.
        edge_color (RGB triple, optional): outlines segments; decodes to `ignore_index`. Default: the labels', if any.
        void_color (RGB triple, optional): stands for `ignore_index`. Default: generated, or far from a given palette.
    Raises: `ValueError` for ids with gaps, missing colors, and two equal colors (with the names of both).
    """

    def __init__(self, labels, palette=None, edge_color=None, void_color=None):
        categories, self.ignore_index, own_edge_color = _read_labels(labels)
        self.id2label = {id: name for id, name, _, _ in categories}
        self.things = [id for id, _, is_thing, _ in categories if is_thing]
        edge_color = own_edge_color if edge_color is None else edge_color
        if palette is None:
            palette, edge_color, void_color = generate_palette(len(categories), edge_color, void_color)
        elif isinstance(palette, str):
            if palette != "dataset":
                raise ValueError(f'palette is {palette!r}; give an array of colors, "dataset", or nothing.')
            missing = [name for _, name, _, color in categories if color is None]
            if missing:
                raise ValueError(f"Label {missing[0]!r} has no color of its own; leave palette out to generate one.")
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
            void_color = _furthest_color(self._colors(void=False))
        self.void_color = tuple(int(value) for value in void_color)

        names = [*self.id2label.values(), "(ignored pixels)", "(edges)"]
        name_of = {}
        for name, color in zip(names, map(tuple, self._colors().tolist()), strict=False):
            if color in name_of:
                raise ValueError(
                    f"{name_of[color]!r} and {name!r} have the same color {color}, so a color map could not tell them "
                    f"apart. Give one another color, or leave palette out to generate one."
                )
            name_of[color] = name
        self._table = None

    @property
    def num_labels(self) -> int:
        return len(self.palette)

    @property
    def least_distance(self) -> float:
        """Distance of the two closest colors; noise of less than half of it never changes a label."""
        return math.sqrt(_pair_squares(self._colors()).min())

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

    def encode(self, segmentation_map):
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

    def decode(self, color_maps, max_distance: float | None = None, min_region_area: int = 0) -> DecodedMaps:
        """Map each pixel to the label with the nearest color; void and edge color become `ignore_index`.

        Args:
            color_maps: RGB as numpy or PIL `(H, W, 3)` or `(B, H, W, 3)`, as tensor `(3, H, W)` or `(B, 3, H, W)`, or
                a list of these; uint8, or floats in [0, 1], which are rounded to 8 bits as when an image is saved.
            max_distance (`float`, optional): pixels further from every color become `ignore_index`; 0-255 RGB units.
            min_region_area (`int`): connected regions (4-neighbours) of fewer pixels, ignored ones too, join the
                nearest larger region (JoDiffusion merges those under 20 pixels).
        Returns: `DecodedMaps`, numpy for numpy and PIL, tensors on the same device for tensors.
        Raises: `ValueError` if the rank is another or floats leave [0, 1].
        """
        if isinstance(color_maps, (list, tuple)):
            if len({np.shape(color_map) for color_map in color_maps}) != 1:
                raise ValueError("A list of color maps must hold maps of one size; decode others one by one.")
            stack = torch.stack if isinstance(color_maps[0], torch.Tensor) else np.stack
            color_maps = stack([m if isinstance(m, torch.Tensor) else np.asarray(m) for m in color_maps])
        if isinstance(color_maps, torch.Tensor):
            if color_maps.ndim not in (3, 4) or color_maps.shape[-3] != 3:
                raise ValueError(
                    f"A tensor of color maps is (3, H, W) or (B, 3, H, W), not {tuple(color_maps.shape)}."
                )
            rgb = color_maps.float() if color_maps.is_floating_point() else color_maps
            decoded = self.decode(rgb.movedim(-3, -1).cpu().numpy(), max_distance, min_region_area)
            return DecodedMaps(*(torch.from_numpy(part).to(color_maps.device) for part in decoded))

        rgb = _to_uint8(np.asarray(color_maps))
        labels = np.empty(rgb.shape[:-1], dtype=np.int64)
        distance = np.empty(rgb.shape[:-1], dtype=np.float32)
        for part in range(0, labels.size, CHUNK):
            chunk = slice(part, part + CHUNK)
            self._decode_pixels(rgb.reshape(-1, 3)[chunk], labels.reshape(-1)[chunk], distance.reshape(-1)[chunk])
        if max_distance is not None:
            labels[distance > max_distance] = self.ignore_index
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

    __hash__ = None

    def __getstate__(self):
        return {**self.__dict__, "_table": None}  # 16 MB that a worker process makes in a moment

    def __repr__(self):
        return f"ColormapCodec({self.num_labels} labels, least distance {self.least_distance:.1f})"


def _read_labels(labels):
    """-> [(id, name, is_thing, color or None)] with ids 0..C-1, ignore_index, edge_color or None."""
    if not isinstance(labels, Mapping):
        labels = labels.to_dict()  # a LabelSet
    if "categories" not in labels:
        labels = {"categories": [{"id": id, "name": name} for id, name in labels.items()]}
    categories = sorted(
        (int(c["id"]), str(c["name"]), bool(c.get("isthing", False)), c.get("color")) for c in labels["categories"]
    )
    ids = [id for id, _, _, _ in categories]
    if not ids or ids != list(range(len(ids))):
        raise ValueError(f"A codec needs label ids 0..C-1 without gaps, not {ids[:10]}; renumber them with LabelSet.")
    limit = 255 if len(ids) <= 255 else 65535
    ignore_index = labels.get("ignore_index")
    ignore_index = limit if ignore_index is None else int(ignore_index)
    if not len(ids) <= ignore_index <= limit:
        raise ValueError(f"ignore_index is {ignore_index}; it must be no label, in {len(ids)}..{limit}.")
    return categories, ignore_index, labels.get("edge_color")


def _furthest_color(colors):
    """The color of a 16-step grid that is furthest from all of `colors`; ties go to the darkest."""
    grid = np.array(sorted(itertools.product(range(0, 256, 15), repeat=3), key=sum), dtype=np.int64)
    nearest = np.full(len(grid), 1 << 40)
    for color in colors:
        nearest = np.minimum(nearest, ((grid - color) ** 2).sum(1))
    return tuple(grid[nearest.argmax()].tolist())


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
    return ndimage.label(bridges)[0][::2, ::2] - 1


def _join_small_regions(segmentation_map, min_region_area):
    """Give each pixel of a region under `min_region_area` the label of the nearest pixel of a larger one, in place."""
    from scipy import ndimage

    regions = connected_regions(segmentation_map)
    small = (np.bincount(regions.reshape(-1)) < min_region_area)[regions]
    if small.any() and not small.all():
        nearest = ndimage.distance_transform_edt(small, return_distances=False, return_indices=True)
        segmentation_map[...] = segmentation_map[tuple(nearest)]
