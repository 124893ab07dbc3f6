import numpy as np
import pytest
from synthesis_settings import make_config

from seggen_hf.data.scenes.records import scene_records as make_scenes
from seggen_hf.data.schema import labels_of, read_map, read_panoptic
from seggen_hf.labels import LabelSet
from seggen_hf.segments import measure_shapes
from seggen_hf.synthesis.plausibility import (
    RealMaps,
    drop_implausible,
    is_wanted,
    measure_labels,
    named_labels,
    shrink_map,
    thing_shapes,
    touching_labels,
)
from seggen_hf.synthesis.quality import REASONS


@pytest.fixture(scope="module")
def real(scene_records):
    return RealMaps(scene_records, labels_of(scene_records))


def test_a_real_map_says_what_real_maps_say_and_is_a_copy(real, scene_records):
    for row in scene_records:
        scores = real.scores(read_map(row["segmentation_map"]), row["caption"])
        assert scores["plausibility"] == 1 and scores["map_agreement"] == 1


def test_a_map_upside_down_is_less_plausible(real, scene_records):
    maps = [read_map(row["segmentation_map"]) for row in scene_records]
    turned = [real.scores(segmentation_map[::-1], "")["plausibility"] for segmentation_map in maps]
    assert max(turned) < 1 and np.mean(turned) < 0.8
    mixed = [real.scores(np.random.default_rng(0).permutation(ids.ravel()).reshape(ids.shape), "") for ids in maps]
    assert max(scores["plausibility"] for scores in mixed) < 0.8
    assert max(scores["map_agreement"] for scores in mixed) < 0.6


def test_what_is_named_is_drawn_or_missed(scene_records):
    labels = labels_of(scene_records)
    ids = {name: i for i, name in labels.id2label.items()}
    assert named_labels("Two cows and a tree by the road, at night", labels) == {ids["cow"], ids["tree"], ids["road"]}
    assert named_labels("a treehouse", labels) == named_labels("", labels) == set()
    cow = np.full((10, 10), ids["cow"], np.uint8)
    real = RealMaps(scene_records, labels)
    assert real.scores(cow, "two cows and a tree")["caption_agreement"] == 0.5
    assert real.scores(cow, "a thing of beauty")["caption_agreement"] == 1
    long = LabelSet.from_id2label({0: "traffic light", 1: "light"})
    assert named_labels("Traffic lights by a lamp", long) == {0, 1}


def test_labels_are_measured_where_they_are_large_enough():
    ids = np.full((20, 20), 255, np.uint8)
    ids[:10, :10], ids[19, 19] = 2, 1
    assert measure_labels(ids, 3) == {2: (0.25, pytest.approx(0.25))}  # one pixel of 400 is no label
    ids[10:, :] = 0
    assert measure_labels(ids, 3)[0] == (0.5, pytest.approx(0.75))
    assert touching_labels(ids, 3) == {(0, 2)}  # void is between nothing
    assert touching_labels(np.array([[2, 255, 1]]), 3) == set()
    assert shrink_map(ids, 2).tolist() == [2, 255, 0, 0]


def test_a_thing_is_held_against_real_ones_of_its_label():
    """Those of real maps and their windows are plausible; full of holes, or four times as large, they are less so."""
    records = make_scenes("train", num_records=60, size=(48, 64))
    real = RealMaps(records, labels_of(records), has_segments=True)
    assert len(real.shapes) > 3  # labels with many whole things
    maps = [(read_map(r["segmentation_map"]), read_panoptic(r["panoptic_map"]), r["segments_info"]) for r in records]

    def scored(of_labels, of_segments):
        changed = [(of_labels(labels), (of_segments(segments), info)) for labels, segments, info in maps]
        return np.array([real.scores(labels, "", segments)["plausibility"] for labels, segments in changed])

    def same(ids):
        return ids

    def torn(ids):
        return np.where(np.indices(ids.shape).sum(0) % 2, ids, 0)

    def window(ids):
        return ids[:40, 6:60]

    def enlarged(ids):  # of a quarter of the area
        return ids[12:36, 16:48].repeat(2, 0).repeat(2, 1)

    whole, broken = scored(same, same), scored(same, torn)
    assert (whole >= 0.95).mean() > 0.85 and whole.mean() > 0.98
    has_things = np.array([bool(thing_shapes(segments, info)) for _, segments, info in maps])
    assert (broken[has_things] < whole[has_things]).mean() > 0.8
    assert scored(window, window).mean() > 0.95 > scored(enlarged, enlarged).mean()


def test_few_things_of_a_label_say_nothing(scene_records):
    few = scene_records.select(range(2))
    real = RealMaps(few, labels_of(few), has_segments=True)
    assert real.shapes == {}
    for row in few:
        segments = (read_panoptic(row["panoptic_map"]) * 0, row["segments_info"])
        assert real.scores(read_map(row["segmentation_map"]), "", segments)["plausibility"] == 1


def test_shapes_of_segments():
    panoptic_map = np.zeros((12, 12), np.int64)
    panoptic_map[2:6, 2:6] = 7  # a square
    panoptic_map[8, 2:10] = 3  # a line
    panoptic_map[0:2, 8:12] = 5  # cut by the border
    segments = [{"id": i} for i in (3, 5, 7, 9)]
    assert measure_shapes(panoptic_map, segments) == {3: (8, 16 * 8 / 18**2), 7: (16, 1.0)}


def test_the_first_rule_that_is_broken_is_the_reason():
    scores = {"caption_agreement": 0.5, "plausibility": 0.6, "map_agreement": 0.99}
    assert drop_implausible(scores, make_config()) is None and not is_wanted(make_config())
    for settings, reason in (
        ({"min_caption_agreement": 0.6}, "not_as_named"),
        ({"min_plausibility": 0.7}, "implausible"),
        ({"max_map_agreement": 0.98}, "copied_map"),
        ({"min_caption_agreement": 0.5, "min_plausibility": 0.6}, None),
    ):
        config = make_config(**settings)
        assert is_wanted(config) and drop_implausible(scores, config) == reason
        assert reason is None or reason in REASONS
