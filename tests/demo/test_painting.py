"""Repainting by clicks, and the legend."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seggen_hf.demo.painting import SHOWN, legend, magnification, magnify, paint_disc, paint_region
from seggen_hf.labels import LabelSet
from seggen_hf.pipelines import ColormapCodec

MAPS = hnp.arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))


def flood(segmentation_map, row, column):
    """The region of a pixel, found by walking from it."""
    height, width = segmentation_map.shape
    found, edge = set(), [(row, column)]
    while edge:
        r, c = edge.pop()
        inside = 0 <= r < height and 0 <= c < width and (r, c) not in found
        if inside and segmentation_map[r, c] == segmentation_map[row, column]:
            found.add((r, c))
            edge += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
    return found


@given(MAPS, st.data())
def test_a_region_is_what_can_be_walked_to(segmentation_map, data):
    row = data.draw(st.integers(0, segmentation_map.shape[0] - 1))
    column = data.draw(st.integers(0, segmentation_map.shape[1] - 1))
    before = segmentation_map.copy()
    painted = paint_region(segmentation_map, row, column, 7)
    assert {tuple(place) for place in np.argwhere(painted == 7)} == flood(segmentation_map, row, column)
    assert (painted[painted != 7] == before[painted != 7]).all() and (segmentation_map == before).all()


def test_a_disc_is_round_and_ends_at_the_border():
    painted = paint_disc(np.zeros((9, 9), np.int64), 4, 4, 1, 2)
    rows, columns = np.nonzero(painted)
    assert len(rows) == 13 and ((rows - 4) ** 2 + (columns - 4) ** 2 <= 4).all()
    assert paint_disc(np.zeros((9, 9), np.int64), 0, 8, 1, 1).sum() == 3
    assert paint_disc(np.zeros((9, 9), np.int64), 3, 5, 1, 0).sum() == 1


def test_small_maps_are_magnified_without_mixing():
    rgb = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    large = magnify(rgb)
    factor = magnification(60, 40)
    assert large.shape[0] >= SHOWN > large.shape[0] - 60 and (large[::factor, ::factor] == rgb).all()
    assert magnify(large) is not None and magnification(2000, 1000) == 1


def test_the_legend_has_what_is_there_and_escapes_names():
    codec = ColormapCodec(LabelSet.from_id2label({0: "sky", 1: "<img src=x onerror=alert(1)>", 2: "absent"}))
    told = legend(np.array([[0, 1, 1, 1, codec.ignore_index, 1, 1, 1, 0, 0]]), codec)
    assert told.index("&lt;img src=x onerror=alert(1)&gt;") < told.index("sky") < told.index("void")
    assert "<img" not in told and "absent" not in told and "60%" in told and "10%" in told
    assert "#{:02x}{:02x}{:02x}".format(*codec.palette[0]) in told
