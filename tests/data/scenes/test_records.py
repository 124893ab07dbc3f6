"""The built-in scenes: the same everywhere, true captions, exact maps for all three tasks."""

import re
from collections import Counter

import numpy as np
import pytest

from seggen_hf.data.scenes.layouts import make_plan
from seggen_hf.data.scenes.plan import GRID, THING_COLORS
from seggen_hf.data.scenes.records import (
    COUNTS,
    MIN_VISIBLE,
    PLURALS,
    SCENE_CATEGORIES,
    SCENE_SPLITS,
    SCENE_WORDS,
    SEEN_STYLES,
    STYLES,
    UNSEEN_STYLES,
    draw_scene,
    scene_index,
    scene_labels,
    scene_records,
)
from seggen_hf.data.scenes.styles import PAINTS
from seggen_hf.data.schema import labels_of, read_image, read_map

NAMES = [category["name"] for category in SCENE_CATEGORIES]


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(0, index) for index in range(300)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Records are drawn into a cache of the tests' own."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


def tokens(caption: str) -> list[str]:
    return re.findall(r"[a-z]+|,", caption)


def test_a_scene_follows_from_seed_and_index_in_any_order(scenes):
    for index in (7, 2, 250):
        again = draw_scene(0, index)
        assert again.caption == scenes[index].caption
        assert again.image.tobytes() == scenes[index].image.tobytes()
        assert np.array_equal(again.panoptic_map, scenes[index].panoptic_map)
    assert draw_scene(1, 7).image.tobytes() != scenes[7].image.tobytes()


def test_another_style_changes_the_picture_and_nothing_else():
    for index in range(6):
        drawn = [draw_scene(3, index, style=style) for style in STYLES]
        assert len({scene.image.tobytes() for scene in drawn}) == len(STYLES)
        for style, scene in zip(STYLES, drawn, strict=True):
            assert np.array_equal(scene.segmentation_map, drawn[0].segmentation_map)
            assert np.array_equal(scene.panoptic_map, drawn[0].panoptic_map)
            assert scene.segments_info == drawn[0].segments_info
            assert scene.caption == drawn[0].caption.replace(STYLES[0], style)


def test_a_style_override_draws_the_very_scene_that_its_own_style_would():
    own = draw_scene(0, 5)
    assert draw_scene(0, 5, style=own.style).image.tobytes() == own.image.tobytes()


def test_seen_and_unseen_styles_are_apart_and_are_drawn_only_when_asked():
    assert not set(SEEN_STYLES) & set(UNSEEN_STYLES) and STYLES == SEEN_STYLES + UNSEEN_STYLES
    assert {draw_scene(0, index, UNSEEN_STYLES).style for index in range(30)} == set(UNSEEN_STYLES)


@pytest.mark.slow
def test_every_word_of_two_thousand_captions_is_known_and_captions_are_short(scenes):
    captions = [scene.caption for scene in scenes] + [draw_scene(1, i, size=(16, 16)).caption for i in range(1700)]
    assert set().union(*map(tokens, captions)) <= set(SCENE_WORDS)
    assert max(len(tokens(caption)) for caption in captions) <= 28
    assert {*NAMES, ",", "a", "and", "with", "of"} <= set(SCENE_WORDS)
    assert list(SCENE_WORDS) == sorted(set(SCENE_WORDS)) and len(SCENE_WORDS) <= 100
    assert all(word == word.lower() for word in SCENE_WORDS)


def mentions(caption: str) -> dict[tuple[str, str], int]:
    """{(color, kind): count} of a caption, read back from its words."""
    singular = {PLURALS.get(kind, kind + "s"): kind for kind in THING_COLORS}
    found = {}
    for phrase in re.split(r", | and | with ", caption)[1:-1]:
        if phrase == "mountains":
            continue
        count, *color, noun = phrase.split()
        count = 1 if count == "an" else COUNTS.index(count) + 1
        assert (count > 1) == (noun in singular)
        found[" ".join(color), singular.get(noun, noun)] = count
    return found


def test_captions_count_exactly_what_can_be_seen_largest_first(scenes):
    for scene in scenes:
        count, area = Counter(), Counter()
        for info in scene.segments_info:
            if info["isthing"] and info["area"] >= MIN_VISIBLE * scene.panoptic_map.size:
                key = scene.colors[info["id"]], NAMES[info["category_id"]]
                count[key] += 1
                area[key] += info["area"]
        said = mentions(scene.caption)
        assert len(said) == min(4, len(count)), scene.caption
        assert said == {key: count[key] for key in said}, scene.caption
        said_areas = [area[key] for key in said]
        assert said_areas == sorted(area.values(), reverse=True)[: len(said)]
        assert scene.caption.startswith(f"a {scene.layout}") and scene.caption.endswith(f", {scene.style}")


@pytest.mark.parametrize("kind", ["car", "ball", "person", "boat"])
def test_things_have_the_color_that_their_caption_says(kind):
    right = total = 0
    choices = sorted(set(THING_COLORS[kind]))
    paints = np.array([PAINTS[color] for color in choices], float)
    for index in range(160):
        scene = draw_scene(4, index, style="on a clear day")
        picture = np.asarray(scene.image, float)
        for info in scene.segments_info:
            if NAMES[info["category_id"]] == kind and info["area"] >= 30:
                pixels = picture[scene.panoptic_map == info["id"]]
                color = scene.colors[info["id"]]
                if color == "white":
                    continue
                votes = (((pixels[:, None] - paints) ** 2).sum(-1) < 50**2).sum(0)  # not tyres, skin or shade
                right += choices[int(votes.argmax())] == color
                total += 1
    assert total >= 20 and right >= 0.95 * total


def test_every_class_is_common_enough_to_be_learnt(scenes):
    present = np.mean([[(scene.segmentation_map == i).any() for i in range(len(NAMES))] for scene in scenes], axis=0)
    assert present.min() > 0.15, dict(zip(NAMES, present.round(2), strict=True))
    assert len({scene.layout for scene in scenes}) == 4
    assert sum(not category["isthing"] for category in SCENE_CATEGORIES) >= 6
    assert sum(category["isthing"] for category in SCENE_CATEGORIES) >= 6


def test_things_are_few_and_large_and_sometimes_hide_parts_of_each_other(scenes):
    things = [[info for info in scene.segments_info if info["isthing"]] for scene in scenes]
    counts = [len(found) for found in things]
    assert max(counts) <= 5 and np.mean(np.array(counts) >= 2) > 0.97
    sides = [max(info["bbox"][2:]) for found in things for info in found]
    assert np.percentile(sides, 2) >= 14
    touching = 0
    for scene in scenes:
        a, b = scene.panoptic_map[:, 1:], scene.panoptic_map[:, :-1]
        ids = [info["id"] for info in scene.segments_info if info["isthing"]]
        touching += bool(((a != b) & np.isin(a, ids) & np.isin(b, ids)).any())
    assert 0.1 * len(scenes) < touching < 0.7 * len(scenes)


def test_things_stand_on_the_grid():
    for index in range(50):
        for thing in make_plan(np.random.default_rng([0, index, 0])).things:
            for value in (thing.x, thing.y, thing.size):
                assert value * GRID == round(value * GRID) and 0 < value <= 1


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (50, 33)])
def test_the_panoptic_map_agrees_with_the_segmentation_map(size):
    for index in range(20):
        scene = draw_scene(2, index, size=size)
        assert scene.image.size == size[::-1] and scene.image.mode == "RGB"
        assert scene.segmentation_map.shape == scene.panoptic_map.shape == size
        assert scene.segmentation_map.dtype == np.uint8 and scene.panoptic_map.dtype == np.int32
        assert {i["id"] for i in scene.segments_info} == set(np.unique(scene.panoptic_map).tolist()) and 0 not in (
            scene.panoptic_map
        )
        stuff = [i["category_id"] for i in scene.segments_info if not i["isthing"]]
        assert len(stuff) == len(set(stuff))
        for info in scene.segments_info:
            inside = scene.panoptic_map == info["id"]
            assert (scene.segmentation_map[inside] == info["category_id"]).all()
            assert info["isthing"] == SCENE_CATEGORIES[info["category_id"]]["isthing"] and info["iscrowd"] == 0
            assert info["area"] == inside.sum() > 0
            x, y, width, height = info["bbox"]
            assert inside[y : y + height, x : x + width].sum() == info["area"]
            assert inside[y].any() and inside[y + height - 1].any()
            assert inside[:, x].any() and inside[:, x + width - 1].any()


def test_a_larger_picture_shows_the_same_scene():
    for index in range(12):
        small, large = draw_scene(0, index), draw_scene(0, index, size=(128, 128))
        agree = np.mean(small.segmentation_map == large.segmentation_map[1::2, 1::2])
        assert agree > 0.92 and large.style == small.style and large.layout == small.layout
        shrunk = np.asarray(large.image.reduce(2), float)
        assert np.abs(shrunk - np.asarray(small.image, float)).mean() < 12


def test_picture_and_map_line_up_to_less_than_a_pixel():
    """Shifted by a pixel in any direction, the map explains the colours worse than in place."""
    errors = Counter()
    for index in range(40):
        scene = draw_scene(6, index, style="on a clear day")
        picture = np.asarray(scene.image, float)[2:-2, 2:-2].reshape(-1, 3)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                ids = scene.panoptic_map[2 + dy : 62 + dy, 2 + dx : 62 + dx].ravel()
                count = np.maximum(np.bincount(ids), 1)
                mean = np.stack([np.bincount(ids, picture[:, c]) / count for c in range(3)], -1)
                errors[dy, dx] += ((picture - mean[ids]) ** 2).mean()
    assert min(errors, key=errors.get) == (0, 0)
    # A parabola through the three errors along each axis has its least value within half a pixel of no shift.
    for low, high in (((-1, 0), (1, 0)), ((0, -1), (0, 1))):
        a, b, c = errors[low], errors[0, 0], errors[high]
        assert abs((a - c) / (2 * (a - 2 * b + c))) < 0.5


def test_records_follow_the_schema_and_carry_their_labels():
    records = scene_records("train", num_records=5)
    assert len(records) == 5 and len(SCENE_SPLITS["train"][1]) == 3
    expected = ["image", "segmentation_map", "panoptic_map", "segments_info", "caption", "image_id"]
    assert records.column_names == expected
    assert labels_of(records).id2label == scene_labels().id2label == dict(enumerate(NAMES))
    record = records[3]
    scene = draw_scene(0, scene_index("train", 3), SEEN_STYLES)
    assert record["segmentation_map"].mode == "L" and record["caption"] == scene.caption
    assert np.array_equal(read_map(record["segmentation_map"]), scene.segmentation_map)
    assert np.array_equal(read_image(record["image"]), np.asarray(scene.image))
    ids = read_image(record["panoptic_map"]).astype(np.int32) @ np.array([1, 256, 65536])
    assert np.array_equal(ids, scene.panoptic_map)
    assert [dict(info) for info in record["segments_info"]] == scene.segments_info


def test_a_shorter_split_is_the_beginning_of_a_longer_one_and_splits_differ():
    long = scene_records("test", num_records=6)
    short = scene_records("test", num_records=2)
    assert long["caption"][:2] == short["caption"][:]
    assert long["image_id"][:2] == short["image_id"][:] == ["test-000000", "test-000001"]
    images = {
        read_image(record["image"]).tobytes()
        for split in SCENE_SPLITS
        for record in scene_records(split, num_records=4)
    }
    assert len(images) == 4 * len(SCENE_SPLITS)


def test_splits_hold_their_styles():
    for split, styles in (("train", SEEN_STYLES), ("unseen", UNSEEN_STYLES)):
        captions = scene_records(split, num_records=20)["caption"]
        assert {caption.rsplit(", ", 1)[1] for caption in captions} == set(styles)


def test_a_split_can_be_drawn_in_one_style_with_the_same_maps():
    own, night = scene_records("train", num_records=3), scene_records("train", num_records=3, style="at night")
    for a, b in zip(own, night, strict=True):
        assert b["caption"].endswith(", at night") and a["caption"].split(",")[0] == b["caption"].split(",")[0]
        assert np.array_equal(read_map(a["segmentation_map"]), read_map(b["segmentation_map"]))


def test_wrong_requests_are_refused_by_name():
    with pytest.raises(ValueError, match="no split 'trian'"):
        scene_records("trian")
    with pytest.raises(ValueError, match="'at noon'"):
        draw_scene(0, 0, style="at noon")
    with pytest.raises(ValueError, match="8 x 64"):
        draw_scene(0, 0, size=(8, 64))
    with pytest.raises(ValueError, match="at least 1"):
        scene_records("train", num_records=0)
