"""Palettes: how far apart their colors are, and that every machine gets the same ones."""

import hashlib
import math

import numpy as np
import pytest

from seggen_hf.pipelines import generate_palette, packing_bound
from seggen_hf.pipelines.seggen_palette import pair_squares


def least_distance(num_labels):
    """Of any two colors of a palette, edge and void included."""
    colors, edge_color, void_color = generate_palette(num_labels)
    return math.sqrt(pair_squares([*colors.tolist(), edge_color, void_color]).min())


@pytest.mark.slow
@pytest.mark.parametrize(("num_labels", "least"), [(1, 360), (11, 179), (21, 128), (133, 61.5), (150, 59)])
def test_generated_colors_stay_far_apart(num_labels, least):
    assert least <= least_distance(num_labels) <= packing_bound(num_labels + 2)


def test_a_palette_beats_the_plain_grid():
    """6 x 6 x 5 colors keep 51 units for 150 labels, edge and void."""
    assert least_distance(150) > 51 * 1.15


def test_a_palette_is_the_same_each_time():
    """The digest pins it: pipelines trained on different machines must agree without exchanging colors."""
    palette = generate_palette(19)
    assert palette.colors.dtype == np.uint8 and palette.colors.shape == (19, 3)
    colors = bytes([*palette.colors.reshape(-1), *palette.edge_color, *palette.void_color])
    assert hashlib.sha256(colors).hexdigest()[:16] == "8bb1cece423120bc"


def test_given_edge_and_void_colors_are_held():
    palette = generate_palette(10, edge_color=(255, 255, 255), void_color=(1, 2, 3))
    assert palette.edge_color == (255, 255, 255) and palette.void_color == (1, 2, 3)
    colors = np.array([*palette.colors.tolist(), (255, 255, 255), (1, 2, 3)])
    assert len(np.unique(colors, axis=0)) == 12
    distances = np.linalg.norm(colors[:, None] - colors, axis=-1)
    assert distances[~np.eye(12, dtype=bool)].min() > 150


def test_the_packing_bound_holds_for_known_packings():
    """Corners of the cube (8), face-centred lattice (14), 6 x 6 x 6 grid: none may exceed the bound."""
    assert packing_bound(8) >= 255
    assert packing_bound(14) >= 255 / math.sqrt(2)
    assert packing_bound(216) >= 51
    assert packing_bound(1) == math.inf and packing_bound(2) == 255 * math.sqrt(3)
