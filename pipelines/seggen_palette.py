"""The search for colors that lie as far apart as we can make them. Travels with the pipelines.

The palette of SegGen (arXiv:2311.03355) is not published; the one here keeps colors nearly as far apart as a sphere
packing allows.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np


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
    colors = max(tries, key=lambda colors: int(pair_squares(colors).min()))  # the first of the best

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
    squares = pair_squares(colors)
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


def pair_squares(colors):
    """(n, n) squared distances; the diagonal is larger than any of them."""
    colors = np.asarray(colors, dtype=np.int64)
    squares = ((colors[:, None] - colors) ** 2).sum(2)
    np.fill_diagonal(squares, 1 << 40)
    return squares


def furthest_color(colors):
    """The color of a 16-step grid that is furthest from all of `colors`; ties go to the darkest."""
    grid = np.array(sorted(itertools.product(range(0, 256, 15), repeat=3), key=sum), dtype=np.int64)
    nearest = np.full(len(grid), 1 << 40)
    for color in colors:
        nearest = np.minimum(nearest, ((grid - color) ** 2).sum(1))
    return tuple(grid[nearest.argmax()].tolist())
