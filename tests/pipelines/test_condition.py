"""What the ControlNet is shown of a map."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seggen_hf.labels import LabelSet
from seggen_hf.pipelines import ColormapCodec, PanopticCodec, condition_channels, encode_condition

LABELS = LabelSet.from_dict(
    {"categories": [{"id": i, "name": n, "isthing": i > 1} for i, n in enumerate(("sky", "grass", "car", "cow"))]}
)
CODEC, VOID = ColormapCodec(LABELS), LABELS.ignore_index
MAPS = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.sampled_from([0, 1, 2, 3, VOID])
)


def bits_of(ids, codec=CODEC):
    return encode_condition(codec, ids, *ids.shape, "bits")[0].numpy()


def read_labels(planes):
    """Label ids out of bit planes, -1 for void."""
    return (planes * (1 << np.arange(len(planes)))[:, None, None]).sum(0).astype(int) - 1


@settings(deadline=None)
@given(MAPS)
def test_the_bits_are_the_label_and_void_is_zeros(ids):
    planes = bits_of(ids)
    assert planes.shape == (condition_channels("bits", 4), *ids.shape) and planes.dtype == np.float32
    assert np.array_equal(read_labels(planes[:-1]), np.where(ids == VOID, -1, ids))


@settings(deadline=None)
@given(MAPS)
def test_edges_are_on_both_sides_and_follow_the_color_map(ids):
    height, width = ids.shape
    found = encode_condition(CODEC, ids, height, width, "rgb_edges")[0].numpy()
    assert np.array_equal(found[:3], encode_condition(CODEC, ids, height, width)[0].numpy())
    padded = np.pad(ids, 1, mode="edge")
    shifted = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    assert np.array_equal(found[3] == 1, np.any([neighbour != ids for neighbour in shifted], axis=0))
    assert np.array_equal(bits_of(ids)[-1], found[3])
    mirrored = encode_condition(CODEC, ids[:, ::-1], height, width, "rgb_edges")[0].numpy()
    assert np.array_equal(mirrored, found[:, :, ::-1])  # training mirrors maps


@pytest.mark.parametrize("coding", ["shades", "edges"])
def test_touching_instances_have_one_label_and_an_edge_between_them(coding):
    codec = PanopticCodec(LABELS, coding)
    ids = np.ones((8, 12), int)
    ids[2:6, 2:6], ids[2:6, 6:10] = 2, 3
    segments = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 2}, {"id": 3, "category_id": 2}]
    planes = encode_condition(codec, codec.index(ids, segments), 8, 12, "bits")[0].numpy()
    labels = read_labels(planes[:-1])
    assert (labels[3:5, 3:5] == 2).all() and (labels[3:5, 7:9] == 2).all() and (labels[0] == 0).all()
    assert planes[-1][3, 5] == planes[-1][3, 6] == 1 and planes[-1][3, 3] == planes[-1][3, 7] == 0
    if coding == "shades":  # outlines have no label
        assert np.array_equal(labels, np.where(ids == 1, 0, 2))


def test_labels_need_as_many_planes_as_their_number_has_digits():
    assert [condition_channels("bits", n) for n in (1, 2, 3, 4, 7, 8, 150)] == [2, 3, 3, 4, 4, 5, 9]
    assert (condition_channels("rgb", 150), condition_channels("rgb_edges", 150)) == (3, 4)
    with pytest.raises(ValueError, match="no conditioning 'onehot'; there are rgb, rgb_edges, bits"):
        condition_channels("onehot", 150)


def test_a_batch_is_its_maps_resized():
    maps = [np.zeros((4, 4), int), np.full((8, 8), 3)]
    batch = encode_condition(CODEC, maps, 4, 4, "bits")
    alone = [encode_condition(CODEC, m, 4, 4, "bits") for m in maps]
    assert batch.shape == (2, 4, 4, 4) and torch.equal(batch, torch.cat(alone))
