"""Samples that are copies of real records are told from new ones."""

import numpy as np
import pytest
from PIL import Image

from seggen_hf.data.likeness import nearest, thumbnails
from seggen_hf.data.scenes.records import scene_records
from seggen_hf.data.schema import read_image, read_map
from seggen_hf.runs import neighbors
from seggen_hf.runs.neighbors import find_neighbors


@pytest.fixture(scope="module")
def real():
    return scene_records("train", num_records=12)


def made_of(records, kinds):
    return records.add_column("kind", kinds)


def test_a_copy_is_found_and_a_new_picture_is_none(real):
    others = scene_records("test", num_records=4)
    made = made_of(real.select([3, 7]), ["imgsyn", "masksyn"])
    fresh = made_of(others, ["imgsyn", "imgsyn", "masksyn", "masksyn"])
    copied = {entry.title: entry for entry in find_neighbors(real, made)}
    assert list(copied) == ["ImgSyn: images", "MaskSyn: images", "MaskSyn: maps"]
    assert all(entry.copies == entry.count == 1 for entry in copied.values())
    assert copied["ImgSyn: images"].pairs == [(0, 3, pytest.approx(0, abs=1e-3))]
    assert copied["MaskSyn: maps"].pairs == [(1, 7, 0)]
    for entry in find_neighbors(real, fresh):
        assert entry.copies == 0 and entry.count == 2 and entry.distance > 0.1
        assert entry.distance == pytest.approx(entry.real_distance, rel=0.9)  # as far as real ones from each other


def test_of_many_real_records_some_are_looked_at(real, monkeypatch):
    monkeypatch.setattr(neighbors, "MOST_REAL", 3)  # 0, 5 and 11
    (entry,) = find_neighbors(real, made_of(real.select([5, 4]), ["imgsyn", "imgsyn"]))
    assert entry.copies == 1 and entry.pairs[0][:2] == (0, 5) and entry.pairs[1][1] in (0, 5, 11)


def test_distances_are_those_of_all_pairs(real):
    small = thumbnails(real)
    expected = np.sqrt(((small[:, None] - small[None]) ** 2).mean(-1))
    np.fill_diagonal(expected, np.inf)
    places, distances = nearest(small, small, others_only=True)
    np.testing.assert_allclose(distances, expected.min(1), atol=1e-3)
    assert (places == expected.argmin(1)).all()
    maps = np.stack([read_map(row["segmentation_map"]) for row in real])[:, 1::2, 1::2].reshape(12, -1)
    differ = (maps[:, None] != maps[None]).mean(-1)
    np.fill_diagonal(differ, np.inf)
    (entry,) = [e for e in find_neighbors(real, made_of(real, ["masksyn"] * 12)) if e.title.endswith("maps")]
    assert entry.real_distance == pytest.approx(np.median(differ.min(1)))


def test_of_pictures_without_contrast_nothing_is_said(real):
    flat = real.map(lambda row: {"image": Image.new("RGB", (64, 64), "gray")}, load_from_cache_file=False)
    (images,) = find_neighbors(real, made_of(flat, ["imgsyn"] * 12))
    assert images.copies == 0 and not images.pairs and np.isnan(images.distance)
    assert read_image(real[0]["image"]).shape == (64, 64, 3)
