"""The rules that drop a sample while it is made."""

import numpy as np
import pytest
from PIL import Image

from seggen_hf.synthesis.filtering import (
    REASONS,
    decode_scores,
    drop_generated_map,
    drop_human_map,
    drop_image,
    map_scores,
)


def make_map(*ids):
    return np.repeat(np.array(ids), 4).reshape(len(ids), 4)


@pytest.mark.parametrize(
    ("ids", "num_source_labels", "reason"),
    [
        ((0, 1, 2, 3), 4, None),
        ((0, 1, 255, 255), 4, None),
        ((0, 255, 255, 255), 4, "ignored_share"),
        ((255, 255, 255, 255), 4, "no_label"),
        ((2, 2, 2, 255), 4, "one_label"),
        ((2, 2, 2, 2), 1, None),
    ],
)
def test_generated_maps_are_dropped_for_a_reason(ids, num_source_labels, reason):
    found = drop_generated_map(map_scores(make_map(*ids), 255), 0.5, lambda: num_source_labels)
    assert found == reason and (found is None or found in REASONS)


def test_human_maps_are_dropped_only_if_nothing_is_labelled():
    assert drop_human_map(map_scores(make_map(3, 255, 255, 255), 255)) is None
    assert drop_human_map(map_scores(make_map(255, 255), 255)) == "no_label"


def test_scores_count_labels_and_void_apart():
    assert map_scores(make_map(0, 7, 7, 255), 255) == {"ignored_share": 0.25, "num_labels": 2}
    assert map_scores(make_map(0, 300, 65535), 65535)["num_labels"] == 2
    distance = np.array([[0.0, 10.0], [20.0, 70.0]], dtype=np.float32)
    assert decode_scores(distance, 20.0) == {"decode_confidence": 0.75, "mean_distance": 25.0}


def test_flat_images_are_dropped():
    assert drop_image(Image.new("RGB", (8, 8))) == "flat_image"
    image = Image.new("RGB", (8, 8))
    image.putpixel((3, 3), (0, 0, 1))
    assert drop_image(image) is None
