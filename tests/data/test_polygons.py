"""Polygons say what their masks say: filled again, they are the same pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_utils

from seggen_hf.data.polygons import join_rings, trace_rings

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(np.any)


def fill(rings, size):
    """Even-odd at the middles of the pixels: how many borders lie to the left of each."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                crosses = (np.minimum(y0, y1) < y) & (y < np.maximum(y0, y1))
                inside ^= crosses & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x)
    return inside


def signed_area(ring):
    x, y = ring.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


@settings(deadline=None)
@given(MASKS)
def test_filled_rings_are_the_mask(mask):
    rings = trace_rings(mask)
    assert np.array_equal(fill(rings, mask.shape), mask)
    assert sum(signed_area(ring) for ring in rings) == mask.sum()  # parts count positive, holes negative
    for ring in rings:
        steps = np.roll(ring, -1, axis=0) - ring
        assert ((steps == 0).sum(1) == 1).all()  # along the pixels' sides
        assert ((steps == 0) != (np.roll(steps, 1, axis=0) == 0)).all()  # and a turn at every point


@settings(deadline=None)
@given(MASKS)
def test_one_line_through_all_rings_fills_the_same_pixels(mask):
    line = join_rings(trace_rings(mask))
    assert np.array_equal(fill([line], mask.shape), mask)
    assert signed_area(line) == mask.sum()


@pytest.mark.parametrize(
    ("rows", "rings"),
    [
        (["##", "##"], 1),
        (["###", "#.#", "###"], 2),  # a hole
        (["#.#", "..."], 2),  # two parts
        (["#.", ".#"], 2),  # which meet in a corner
        (["#####", "#...#", "#.#.#", "#...#", "#####"], 3),  # a part in a hole
    ],
)
def test_parts_and_holes_are_counted(rows, rings):
    mask = np.array([[pixel == "#" for pixel in row] for row in rows])
    found = trace_rings(mask)
    assert len(found) == rings and signed_area(found[0]) > 0


def test_pycocotools_fills_the_rings_of_a_round_mask_to_its_pixels():
    y, x = np.mgrid[:40, :50]
    disc = (y - 19) ** 2 + (x - 24) ** 2 < 15**2
    (ring,) = trace_rings(disc)
    rle = mask_utils.frPyObjects([ring.ravel().astype(float).tolist()], *disc.shape)[0]
    assert np.array_equal(mask_utils.decode(rle) > 0, disc)


def test_an_empty_mask_has_no_ring():
    assert trace_rings(np.zeros((3, 4), bool)) == []
