"""Masks of numbered instances become panoptic records of one thing."""

import json

import numpy as np
import pytest
import real_files as make
from PIL import Image

from seggen_hf.data.doctor import fix
from seggen_hf.data.schema import labels_of, read_map, read_panoptic
from seggen_hf.data.sources.load import load_records

CELLS = [{"id": 0, "name": "background", "isthing": 0}, {"id": 1, "name": "cell", "isthing": 1}]


def numbered(root, numbers, name="a", **settings):
    """An image, and a mask of these numbers in stripes."""
    make.picture(root / f"train/images/{name}.png")
    stripes = np.asarray(numbers)[np.arange(make.SIZE[1]) * len(numbers) // make.SIZE[1]]
    pixels = np.broadcast_to(stripes, make.SIZE).astype(np.uint16)
    (root / "train/masks").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(root / f"train/masks/{name}.png")
    (root / "classes.json").write_text(json.dumps({"categories": CELLS, "masks": "instances"} | settings))
    return pixels


def test_every_number_is_an_instance_and_none_is_the_background(tmp_path):
    first = numbered(tmp_path, [0, 7, 300, 0, 7])
    numbered(tmp_path, [0], name="b")
    records = load_records(tmp_path)
    row = records[0]
    panoptic = read_panoptic(row["panoptic_map"])
    assert [(s["category_id"], s["isthing"]) for s in row["segments_info"]] == [(1, True), (1, True), (0, False)]
    for segment in row["segments_info"]:
        inside = panoptic == segment["id"]
        assert len(np.unique(first[inside])) == 1 and segment["area"] == inside.sum()
        assert np.array_equal(inside, first == first[inside][0])
    assert np.array_equal(read_map(row["segmentation_map"]), (first > 0).astype(int))
    assert [s["category_id"] for s in records[1]["segments_info"]] == [0]
    assert list(labels_of(records).things) == [1]
    again = load_records(tmp_path)
    assert again._fingerprint == records._fingerprint


def test_what_is_no_instance_is_void_where_no_label_stands_for_it(tmp_path):
    numbers = numbered(tmp_path, [0, 1, 2], categories=CELLS[1:])
    row = load_records(tmp_path)[0]
    assert np.array_equal(read_map(row["segmentation_map"]) == 255, numbers == 0)
    assert len(row["segments_info"]) == 2


def test_a_changed_mask_is_read_anew_and_a_broken_one_is_named(tmp_path):
    numbered(tmp_path, [0, 1])
    assert len(load_records(tmp_path)[0]["segments_info"]) == 2
    numbered(tmp_path, [1, 2, 3])
    assert len(load_records(tmp_path)[0]["segments_info"]) == 3
    (tmp_path / "train/masks/a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"masks/a\.png"):
        load_records(tmp_path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"categories": [CELLS[0], CELLS[0] | {"id": 1, "name": "tissue"}]}, "There are 0 things and 2 others"),
        ({"categories": [*CELLS, CELLS[1] | {"id": 2, "name": "debris"}]}, "There are 2 things and 1 others"),
        ({"masks": "numbers"}, 'masks is \'numbers\'; it must be "labels" or "instances"'),
    ],
)
def test_labels_that_such_masks_cannot_tell_apart_are_refused(tmp_path, settings, told):
    numbered(tmp_path, [0, 1], **settings)
    with pytest.raises(ValueError, match=told):
        load_records(tmp_path)


def test_masks_of_instances_that_are_read_as_labels_come_with_the_word_to_say(tmp_path):
    numbered(tmp_path, list(range(12)), masks="labels")
    with pytest.raises(ValueError, match='say so in classes.json with "masks": "instances"'):
        load_records(tmp_path)


def test_the_clean_copy_has_the_same_instances(tmp_path):
    numbered(tmp_path / "own", [0, 4, 9])
    fix(tmp_path / "own", tmp_path / "clean")
    own, clean = load_records(tmp_path / "own"), load_records(tmp_path / "clean")
    assert np.array_equal(read_panoptic(own[0]["panoptic_map"]), read_panoptic(clean[0]["panoptic_map"]))
    assert own[0]["segments_info"] == clean[0]["segments_info"]
