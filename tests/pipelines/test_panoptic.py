"""Panoptic maps painted and read back: exactly where there is room, and well where there is noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from seggen_hf.data.scenes.records import scene_labels, scene_records
from seggen_hf.data.schema import read_image
from seggen_hf.labels import LabelSet
from seggen_hf.metrics import PanopticQuality
from seggen_hf.pipelines.seggen_choices import CODINGS
from seggen_hf.pipelines.seggen_panoptic import PanopticCodec, outline

LABELS = LabelSet.from_dict(
    {"categories": [{"id": i, "name": n, "isthing": i > 1} for i, n in enumerate(("sky", "grass", "car", "cow"))]}
)
SHADES = PanopticCodec(LABELS)


def segment(id, category_id, **more):
    return {"id": id, "category_id": category_id} | more


def quality(pairs, labels):
    categories = [{"id": i, "name": n, "isthing": i in labels.things} for i, n in labels.id2label.items()]
    score = PanopticQuality(categories)
    for decoded, target in pairs:
        score.update((decoded.panoptic_map, decoded.segments_info), target)
    return score.compute()


@st.composite
def grids(draw):
    """A map of 4 x 4 blocks of 6 pixels: each is a segment of its own, of any class, or void."""
    labels = draw(st.lists(st.sampled_from([-1, 0, 1, 2, 3]), min_size=16, max_size=16))
    ids = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((6, 6), int))
    segments, merged = [], {}
    for block, label in enumerate(labels, start=1):
        if label == -1:
            ids[ids == block] = 0
        elif label in (0, 1):  # one segment for a stuff class
            ids[ids == block] = merged.setdefault(label, block)
        if label in (2, 3) or merged.get(label) == block:
            segments.append(segment(block, label))
    return ids, segments


@settings(deadline=None, max_examples=60)
@given(grids())
def test_touching_instances_come_back_as_they_were(grid):
    ids, segments = grid
    decoded = SHADES.decode(SHADES.encode(ids, segments))
    assert len(decoded.segments_info) == len(segments) and (decoded.distance == 0).all()
    assert ((decoded.panoptic_map == 0) == (ids == 0)).all()
    for found in decoded.segments_info:
        mask = decoded.panoptic_map == found["id"]
        (original,) = np.unique(ids[mask])
        assert (mask == (ids == original)).all()
        assert found["category_id"] == {s["id"]: s["category_id"] for s in segments}[original]
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert found["bbox"] == box and found["area"] == mask.sum() and found["isthing"] == (found["category_id"] > 1)


def test_segments_are_numbered_from_1_without_gaps():
    ids = np.array([[5, 5, 0, 9], [5, 5, 0, 9]])
    decoded = SHADES.decode(SHADES.encode(ids, [segment(5, 2), segment(9, 2)]), min_region_area=1)
    assert decoded.panoptic_map.tolist() == [[1, 1, 0, 2], [1, 1, 0, 2]] and decoded.panoptic_map.dtype == np.int32
    nothing = SHADES.decode(SHADES.encode(np.zeros((4, 4), int), []))
    assert nothing.segments_info == [] and (nothing.panoptic_map == 0).all()


def test_crowds_are_void_and_what_is_unknown_is_refused():
    ids = np.array([[1, 2], [1, 2]])
    segments = [segment(1, 2), segment(2, 2, iscrowd=1)]
    assert SHADES.decode(SHADES.encode(ids, segments), min_region_area=1).panoptic_map.tolist() == [[1, 0], [1, 0]]
    with pytest.raises(ValueError, match=r"ids \[2\], which segments_info lacks"):
        SHADES.encode(ids, segments[:1])
    with pytest.raises(ValueError, match="Segment 1 has category 7"):
        SHADES.encode(ids, [segment(1, 7), segment(2, 2)])
    with pytest.raises(ValueError, match="no coding 'waves'"):
        PanopticCodec(LABELS, "waves")
    with pytest.raises(ValueError, match="one|One"):
        SHADES.decode(np.zeros((2, 4, 4, 3), np.uint8))


def test_edges_are_one_pixel_wide_and_given_back():
    ids = np.repeat([[1] * 6 + [2] * 6], 8, axis=0)
    assert outline(ids).sum() == 8 and outline(ids)[:, 5].all()
    codec = PanopticCodec(LABELS, "edges")
    rgb = codec.encode(ids, [segment(1, 2), segment(2, 2)])
    assert (rgb[:, 5] == codec.colors.palette[-1]).all()
    decoded = codec.decode(rgb)
    assert len(decoded.segments_info) == 2 and ndimage.label(decoded.panoptic_map == 1)[1] == 1
    assert (decoded.panoptic_map[:, :5] == 1).all() and (decoded.panoptic_map[:, 6:] == 2).all()


def test_a_shade_misread_is_likelier_another_instance_than_another_class():
    colors = SHADES.colors.palette.astype(int)
    things = [colors[SHADES.label_of_color == label] for label in LABELS.things]
    assert [len(group) for group in things] == [4, 4]
    spread = [np.linalg.norm(group - group.mean(0), axis=1).max() for group in things]
    assert np.linalg.norm(things[0].mean(0) - things[1].mean(0)) > max(spread)


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "least"), [(0, 0.97), (10, 0.93)])
def test_scenes_survive_noise(noise, least):
    """Goals: PQ of things at least 97 clean, 93 with Gaussian noise of 10 grey levels."""
    labels, found = scene_labels(), {}
    rng = np.random.default_rng(0)
    for coding in CODINGS:
        codec, pairs = PanopticCodec(labels, coding), []
        for record in scene_records("val", num_records=30):
            rgb = read_image(record["panoptic_map"]).astype(int)
            target = (rgb @ [1, 256, 65536], record["segments_info"])
            painted = codec.encode(*target)
            drawn = np.clip(painted + rng.normal(0, noise, painted.shape), 0, 255).round().astype(np.uint8)
            pairs.append((codec.decode(drawn), target))
        found[coding] = quality(pairs, labels)["things"]["pq"]
    assert found["shades"] >= least and found["shades"] > found["edges"]


@pytest.mark.slow
def test_noise_is_no_object_where_colors_are_hundreds():
    """133 labels, as many colors as COCO's: noise makes one pixel in twenty another color, but no segments."""
    labels = LabelSet.from_dict([{"id": i, "name": str(i), "isthing": i < 80} for i in range(133)])
    codec, rng, pairs, misread = PanopticCodec(labels, num_shades=3), np.random.default_rng(0), [], []
    assert codec.colors.least_distance < 50
    for _ in range(6):
        ids = np.full((64, 64), 1)
        ids[40:] = 2
        segments = [segment(1, int(rng.integers(80, 133))), segment(2, int(rng.integers(80, 133)))]
        for id in range(3, 30):
            top, left = rng.integers(0, 58, 2)
            ids[top : top + int(rng.integers(2, 9)), left : left + int(rng.integers(2, 9))] = id
            segments.append(segment(id, int(rng.integers(0, 80))))
        present = set(np.unique(ids).tolist())
        target = ids, [s for s in segments if s["id"] in present]
        painted = codec.encode(*target)
        clean = codec.decode(painted, min_region_area=1)
        assert np.array_equal(painted, codec.encode(clean.panoptic_map, clean.segments_info))
        drawn = np.clip(painted + rng.normal(0, 10, painted.shape), 0, 255).round().astype(np.uint8)
        misread.append((codec.colors.decode(drawn).segmentation_map != codec.index(*target)).mean())
        pairs.append((codec.decode(drawn), codec.decode(painted)))
    pairs = [(noisy, (clean.panoptic_map, clean.segments_info)) for noisy, clean in pairs]
    assert np.mean(misread) > 0.05 and quality(pairs, labels)["things"]["pq"] > 0.95
