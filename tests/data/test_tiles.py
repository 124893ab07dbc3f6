"""Tiles put together again are the image, and their segments are measured anew."""

import numpy as np
import pytest

from seggen_hf.config import DataConfig
from seggen_hf.data.schema import labels_of, read_image, read_map, read_panoptic
from seggen_hf.data.tiles import _bounds, tile_records
from seggen_hf.segments import label_map, measure_segments


@pytest.mark.parametrize(("side", "short_side", "tiles", "count"), [(64, 64, 4, 4), (100, 64, 4, 6), (65, 65, 2, 2)])
def test_tiles_have_no_gaps_and_are_about_square(side, short_side, tiles, count):
    bounds = _bounds(side, short_side, tiles)
    assert len(bounds) == count and bounds[0][0] == 0 and bounds[-1][1] == side
    assert all(a[1] == b[0] for a, b in zip(bounds[:-1], bounds[1:], strict=True))
    sizes = [b - a for a, b in bounds]
    assert max(sizes) - min(sizes) <= 1


def test_tiles_are_the_record_cut(scene_records):
    tiled = tile_records(scene_records, 2)
    assert len(tiled) == 4 * len(scene_records) and labels_of(tiled) == labels_of(scene_records)
    assert tiled.features == scene_records.features
    assert tiled["image_id"][:4] == [f"{scene_records[0]['image_id']}-r{r}c{c}" for r in range(2) for c in range(2)]
    whole, parts = scene_records[1], [tiled[4 + i] for i in range(4)]
    for name, read in (("image", read_image), ("segmentation_map", read_map), ("panoptic_map", read_panoptic)):
        cells = [read(part[name]) for part in parts]
        joined = np.concatenate([np.concatenate(cells[:2], axis=1), np.concatenate(cells[2:], axis=1)])
        assert np.array_equal(joined, read(whole[name]))
    for part in parts:
        panoptic_map = read_panoptic(part["panoptic_map"])
        assert part["segments_info"] == measure_segments(panoptic_map, part["segments_info"])
        assert np.array_equal(label_map(panoptic_map, part["segments_info"], 255), read_map(part["segmentation_map"]))
        assert part["caption"] == whole["caption"]
    assert tile_records(scene_records, 1) is scene_records
    assert tile_records(scene_records, 2)._fingerprint == tiled._fingerprint


def test_what_cannot_be_cut_is_refused(scene_records):
    with pytest.raises(ValueError, match="cannot be cut into 65 tiles"):
        tile_records(scene_records.select([0]), 65)
    with pytest.raises(ValueError, match="tiles is 2; it must be 1 with --streaming"):
        DataConfig(dataset_name="a/b", tiles=2, streaming=True)
