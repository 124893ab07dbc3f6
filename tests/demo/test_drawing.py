"""Repainting by clicks, the legend, and how a map is told and compared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seggen_hf.demo.drawing import Drawing
from seggen_hf.labels import LabelSet
from seggen_hf.pipelines import ColormapCodec

MAPS = hnp.arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))
CODEC = ColormapCodec(
    LabelSet.from_dict({"categories": [{"id": i, "name": n, "isthing": i == 2} for i, n in enumerate("abc")]})
)
VOID = CODEC.ignore_index


def flood(ids, row, column):
    """The region of a pixel, found by walking from it."""
    height, width = ids.shape
    found, edge = set(), [(row, column)]
    while edge:
        r, c = edge.pop()
        inside = 0 <= r < height and 0 <= c < width and (r, c) not in found
        if inside and ids[r, c] == ids[row, column]:
            found.add((r, c))
            edge += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
    return found


@given(MAPS, st.data())
def test_a_region_is_what_can_be_walked_to(ids, data):
    row = data.draw(st.integers(0, ids.shape[0] - 1))
    column = data.draw(st.integers(0, ids.shape[1] - 1))
    before, drawing = ids.copy(), Drawing(ids, CODEC)
    painted = drawing.repaint(drawing.region(row, column), VOID).ids
    assert {tuple(place) for place in np.argwhere(painted == VOID)} == flood(ids, row, column)
    assert (painted[painted != VOID] == before[painted != VOID]).all() and (ids == before).all()


def test_a_disc_is_round_and_ends_at_the_border():
    drawing = Drawing(np.zeros((9, 9), np.int64), CODEC)
    rows, columns = np.nonzero(drawing.disc(4, 4, 2))
    assert len(rows) == 13 and ((rows - 4) ** 2 + (columns - 4) ** 2 <= 4).all()
    assert drawing.disc(0, 8, 1).sum() == 3 and drawing.disc(3, 5, 0).sum() == 1


def segments_drawing():
    """Stuff a (segment 1), two touching instances of c (2, 5), and void."""
    ids = np.ones((8, 10), np.int32)
    ids[2:5, 1:4], ids[2:5, 4:7], ids[7] = 2, 5, 0
    return Drawing(ids, CODEC, {1: 0, 2: 2, 5: 2})


def test_an_instance_is_repainted_without_its_neighbour():
    drawing = segments_drawing()
    other = drawing.repaint(drawing.region(3, 2), 1)
    assert other.labels[3, 1:7].tolist() == [1, 1, 1, 2, 2, 2] and sorted(other.categories.values()) == [0, 1, 2]
    joined = other.repaint(other.region(3, 2), 0)  # stuff joins the segment of its class
    assert joined.categories == {1: 0, 5: 2} and (joined.ids[2:5, 1:4] == 1).all()
    gone = drawing.repaint(drawing.region(3, 5), VOID)
    assert gone.categories == {1: 0, 2: 2} and (gone.labels[2:5, 4:7] == VOID).all()


def test_a_disc_of_a_thing_is_a_new_instance_and_a_whole_one_stays_itself():
    drawing = segments_drawing()
    more = drawing.repaint(drawing.disc(3, 8, 1), 2)
    assert sorted(more.categories.values()) == [0, 2, 2, 2] and more.ids[3, 8] not in drawing.categories
    assert drawing.repaint(drawing.region(3, 2), 2) is drawing
    assert drawing.repaint(drawing.region(0, 0), 0) is drawing
    assert drawing.repaint(drawing.region(7, 0), VOID) is drawing
    assert Drawing(drawing.labels, CODEC).repaint(drawing.region(0, 0), 0).categories is None


def test_segments_are_measured_and_painted_with_their_class():
    drawing = segments_drawing()
    assert [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in drawing.segments] == [
        (1, 0, False, 52), (2, 2, True, 9), (5, 2, True, 9),
    ]  # fmt: skip
    rgb = drawing.paint()
    assert (rgb[0, 0] == CODEC.palette[0]).all() and (rgb[7] == CODEC.void_color).all()
    assert (rgb[3, 2] != rgb[3, 5]).any()  # two instances, two shades
    assert (Drawing(drawing.labels, CODEC).paint() == CODEC.encode(drawing.labels)).all()


def test_the_legend_counts_instances_and_escapes_names():
    codec = ColormapCodec(LabelSet.from_id2label({0: "sky", 1: "<img src=x onerror=alert(1)>", 2: "absent"}))
    told = Drawing(np.array([[0, 1, 1, 1, codec.ignore_index, 1, 1, 1, 0, 0]]), codec).legend()
    assert told.index("&lt;img src=x onerror=alert(1)&gt;") < told.index("sky") < told.index("void")
    assert "<img" not in told and "absent" not in told and "60%" in told and "10%" in told
    assert "#{:02x}{:02x}{:02x}".format(*codec.palette[0]) in told
    told = segments_drawing().legend()
    assert "2 × c" in told and "1 × a" not in told and "void" in told


@pytest.mark.parametrize(("answered", "told"), [([2, 5], "2 of 2"), ([2], "1 of 2"), ([], "0 of 2")])
def test_of_segments_instances_are_compared(answered, told):
    drawing = segments_drawing()
    kept = np.where(np.isin(drawing.ids, [1, *answered]), drawing.ids, 0)
    answer = Drawing(kept, CODEC, {i: drawing.categories[i] for i in (1, *answered)})
    assert f"It finds {told} instances, and 0 that are not in the map (PQ" in drawing.agreement(answer)


def test_of_labels_pixels_are_compared():
    drawing = Drawing(np.array([[0, 0, 1, VOID]]), CODEC)
    assert (
        drawing.agreement(Drawing(np.array([[0, 1, 1, 1]]), CODEC)) == "It agrees with the map on 67% of the pixels."
    )
    assert Drawing(np.full((1, 4), VOID), CODEC).agreement(drawing) == ""
    stuff = Drawing(np.ones((2, 2), int), CODEC, {1: 0})
    assert "100% of the pixels" in stuff.agreement(stuff)
