"""What a template says of a picture's look, and where it stands in the caption."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import CATEGORIES, block_map

from seggen_hf.config import CaptionConfig
from seggen_hf.data.captions import add_captions, template_caption, with_classes
from seggen_hf.data.looks import count_words, describe_look
from seggen_hf.data.schema import attach_labels, encode_image, encode_map, encode_panoptic, record_features
from seggen_hf.labels import LabelSet

LABELS = LabelSet.from_dict(CATEGORIES)
BOTH = ("light", "color")


def flat(*color):
    return np.full((4, 6, 3), color, np.uint8)


@pytest.mark.parametrize(
    ("color", "look"),
    [
        ((14, 14, 14), "dark gray"),
        ((20, 14, 12), "dark gray"),
        ((240, 238, 241), "bright gray"),
        ((178, 138, 190), "light purple"),
        ((200, 60, 60), "dim red"),
        ((60, 200, 60), "light green"),
        ((20, 30, 120), "dark blue"),
        ((235, 200, 90), "bright yellow"),
        ((230, 130, 180), "light pink"),
        ((90, 200, 200), "light cyan"),
    ],
)
def test_a_look_is_light_and_color(color, look):
    assert describe_look(flat(*color), BOTH) == look
    light, name = look.split()
    assert (
        describe_look(flat(*color), ["light"]) == light and describe_look(flat(*color), ["color", "density"]) == name
    )
    assert describe_look(flat(*color), []) == ""


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_every_color_has_a_look(color):
    assert len(describe_look(flat(*color), BOTH).split()) == 2


@given(st.permutations([10, 100, 200]), st.integers(0, 50))
def test_more_light_is_the_same_color(color, more):
    assert describe_look(flat(*color), ["color"]) == describe_look(flat(*(c + more for c in color)), ["color"])


def test_things_are_counted_in_words():
    things = [{"category_id": 2, "isthing": True}] * 6 + [{"category_id": 0, "isthing": False}]
    assert count_words(things) == {2: "several"}
    words = [count_words(things[:1] * number)[2] for number in (1, 4, 5, 10, 29, 30)]
    assert words == ["one", "a few", "several", "many", "many", "crowded"]
    assert count_words([{"category_id": 2, "isthing": True, "iscrowd": True}]) == {2: "several"}


def make_records(panoptic=True, maps=True):
    """A dark and a light picture of the same map, in which `car` has two things."""
    rows = []
    for i, color in enumerate([(14, 14, 14), (178, 138, 190)]):
        row = {"image": encode_image(flat(*color)), "image_id": f"r{i}", "caption": None}
        if maps:
            row["segmentation_map"] = encode_map(block_map(), 3)
        if panoptic:
            row["panoptic_map"] = encode_panoptic(np.ones(block_map().shape, np.int32))
            segment = {"iscrowd": False, "area": 1, "bbox": [0, 0, 1, 1], "isthing": True, "category_id": 2}
            row["segments_info"] = [segment | {"id": 1}, segment | {"id": 2}]
        rows.append(row)
    from datasets import Dataset

    if not maps:
        return Dataset.from_list(rows)
    return attach_labels(Dataset.from_list(rows, features=record_features(panoptic=panoptic)), LABELS)


def test_a_template_caption_ends_with_the_look_and_counts_things(tmp_path):
    every = CaptionConfig(attributes=["light", "color", "density"])
    names = "a photo of sky, road, car (a few)"
    made = add_captions(make_records(), LABELS, every, progress_file=tmp_path / "progress.jsonl")
    assert made["caption"][:] == [f"{names}, dark gray", f"{names}, light purple"]
    plain = add_captions(make_records(), LABELS, CaptionConfig(), progress_file=tmp_path / "progress.jsonl")
    assert set(plain["caption"][:]) == {"a photo of sky, road, car"}  # those of the other settings do not count
    semantic = add_captions(make_records(panoptic=False), LABELS, CaptionConfig(attributes=["density"]))
    assert set(semantic["caption"][:]) == {"a photo of sky, road, car"}


def test_images_without_maps_have_a_look_and_get_classes_with_a_map():
    made = add_captions(make_records(panoptic=False, maps=False), LABELS, CaptionConfig(attributes=["light", "color"]))
    assert made["caption"][:] == ["a photo, dark gray", "a photo, light purple"]
    assert with_classes("a photo, dark gray", block_map(), LABELS) == "a photo of sky, road, car, dark gray"
    assert with_classes(None, block_map(), LABELS) == with_classes("", block_map(), LABELS)
    assert with_classes(None, block_map(), LABELS) == template_caption(block_map(), LABELS)
    assert with_classes("a street", block_map(), LABELS) == "a street"


def test_unknown_attributes_are_refused():
    with pytest.raises(ValueError, match="taken from"):
        CaptionConfig(attributes=["mood"])
