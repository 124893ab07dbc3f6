"""The rules that drop a sample while it is made."""

import numpy as np
import pytest

from seggen_hf.synthesis.quality import (
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
    ("ids", "distance", "source", "reason"),
    [
        ((0, 1, 2, 3), 0, (0, 1, 2, 3), None),
        ((0, 1, 255, 255), 99, (0, 1, 2, 3), None),
        ((0, 255, 255, 255), 99, (0, 1, 2, 3), "undecodable"),
        ((0, 255, 255, 255), 99, (0, 255, 255, 255), "undecodable"),
        ((0, 255, 255, 255), 1, (0, 1, 2, 255), "ignored_share"),
        ((0, 255, 255, 255), 1, (1, 255, 255, 255), None),  # drawn void, as its source has it
        ((255, 255, 255, 255), 99, (0, 1, 2, 3), "no_label"),
        ((2, 2, 2, 255), 99, (0, 1, 2, 3), "one_label"),
        ((2, 2, 2, 2), 0, (3, 3, 3, 3), None),
    ],
)
def test_generated_maps_are_dropped_for_a_reason(ids, distance, source, reason):
    drawn = make_map(*ids)
    distances = np.where(drawn == 255, distance, 0).astype(np.float32)
    scores = map_scores(drawn, 255) | decode_scores(drawn, distances, 60.0, 255)
    found = drop_generated_map(scores, 0.5, lambda: map_scores(make_map(*source), 255))
    assert found == reason and (found is None or found in REASONS)


def test_human_maps_are_dropped_only_if_nothing_is_labelled():
    assert drop_human_map(map_scores(make_map(3, 255, 255, 255), 255)) is None
    assert drop_human_map(map_scores(make_map(255, 255), 255)) == "no_label"


def test_scores_count_labels_and_void_apart():
    assert map_scores(make_map(0, 7, 7, 255), 255) == {"ignored_share": 0.25, "num_labels": 2}
    assert map_scores(make_map(0, 300, 65535), 65535)["num_labels"] == 2
    distance = np.array([[0.0, 10.0], [20.0, 70.0]], dtype=np.float32)
    scores = decode_scores(np.array([[0, 255], [0, 255]]), distance, 20.0, 255)
    assert scores == {"decode_confidence": 0.75, "mean_distance": 25.0, "undecodable_share": 0.25}


def test_flat_and_broken_images_are_dropped():
    pixels = np.zeros((8, 8, 3), np.float32)
    assert drop_image(pixels) == "flat_image"
    pixels[3, 3, 2] = 0.4 / 255
    assert drop_image(pixels) == "flat_image"  # in the 8 bits that are saved
    pixels[3, 3, 2] = 1 / 255
    assert drop_image(pixels) is None
    pixels[0, 0, 0] = np.nan
    assert drop_image(pixels) == "not_finite" and "not_finite" in REASONS
