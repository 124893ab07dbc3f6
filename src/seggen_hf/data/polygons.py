"""Masks as polygons: the rings around a mask's pixels, and all of them as the one line that some formats want."""

import numpy as np
from scipy.spatial import KDTree

STEPS = (
    (1, 0),
    (0, 1),
    (-1, 0),
    (0, -1),
)  # x, y of a step right, down, left, up: each a turn to the right of the last


def trace_rings(mask: np.ndarray) -> list[np.ndarray]:
    """The borders of a bool mask `(height, width)`, exact, as rings of pixel corners.

    Returns: int64 `(points, 2)` of x in [0, width] and y in [0, height] each: the corners where the border turns, the
        mask on its right hand, so that parts go clockwise on the screen and holes the other way. Pixels that meet in a
        corner alone are of different parts. A part comes before its holes.
    """
    padded = np.pad(np.asarray(mask, bool).astype(np.int8), 1)
    across, down = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]  # (h + 1, w) and (h, w + 1)
    edges = np.zeros((4, *(side - 1 for side in padded.shape)), bool)  # which step a corner is left by
    edges[0, :, :-1], edges[2, :, 1:] = across > 0, across < 0
    edges[1, :-1], edges[3, 1:] = down < 0, down > 0
    starts, leaves, rings = np.argwhere(edges[0]).tolist(), edges.tolist(), []
    for first_y, first_x in starts:  # each ring has a step right, and the first of them follows a turn
        if not edges[0, first_y, first_x]:
            continue  # of a ring that was walked
        ring, x, y, heading = [], first_x, first_y, 0
        while not ring or (x, y, heading) != (first_x, first_y, 0):
            ring.append((x, y))
            while True:
                if heading == 0:
                    edges[0, y, x] = False
                x, y = x + STEPS[heading][0], y + STEPS[heading][1]
                right = (heading + 1) % 4
                if leaves[right][y][x]:
                    heading = right
                    break
                if not leaves[heading][y][x]:
                    heading = (heading + 3) % 4
                    break
        rings.append(np.array(ring))
    return rings


def join_rings(rings: list[np.ndarray]) -> np.ndarray:
    """One closed line `(points, 2)` through all rings: each is entered from the nearest point of those before it, and
    left on the same way, so that the bridges have no area."""
    line = rings[0]
    for ring in rings[1:]:
        distances, places = map(np.asarray, KDTree(line).query(ring))  # of each point of the ring, to the line
        there = int(distances.argmin())
        here, turned = int(places[there]), np.roll(ring, -there, axis=0)
        line = np.concatenate([line[: here + 1], turned, turned[:1], line[here:]])
    return line
