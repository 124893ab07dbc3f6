"""ADE20K's layouts become records."""

import numpy as np
import pytest
from makers import CATEGORIES, HEIGHT, WIDTH, block_map, make_ade20k, maps_of, write_classes
from PIL import Image

from seggen_hf.data.schema import labels_of
from seggen_hf.data.sources.layout import splits_of
from seggen_hf.data.sources.load import load_records


@pytest.mark.parametrize("archive", [False, True])
def test_ade20k_moves_0_to_void_and_150_to_149(tmp_path, archive):
    root = make_ade20k(tmp_path / "data" / ("ADEChallengeData2016" if archive else ""))
    records = load_records(tmp_path / "data", "val")
    assert splits_of(tmp_path / "data") == ["train", "val"]
    labels = labels_of(records)
    assert (
        labels.num_labels == 150
        and labels.id2label[0] == "wall"
        and records[0]["image_id"].startswith("ADE_validation")
    )
    for index, segmentation_map in enumerate(maps_of(records)):
        assert np.array_equal(segmentation_map, block_map(index, labels=(0, 3, 149), void=255))
    assert len(load_records(tmp_path / "data", "training")) == 3
    Image.fromarray(np.full((HEIGHT, WIDTH), 151, np.uint8)).save(
        root / "annotations/validation/ADE_validation_00000001.png"
    )
    with pytest.raises(ValueError, match="00000001.png: label ids 151 are outside"):
        load_records(tmp_path / "data", "val")


@pytest.mark.parametrize("named", [False, True])
def test_ade20ks_layout_may_be_called_train_and_bring_its_own_labels(tmp_path, named):
    root = make_ade20k(tmp_path / "data")
    for part, short in (("training", "train"), ("validation", "val")):
        for name in ("images", "annotations"):
            (root / name / part).rename(root / name / short)
    labels = (0, 3, 149)
    if named:
        write_classes(root, [dict(c, id=i) for c, i in zip(CATEGORIES, (1, 4, 150), strict=True)], ignore_index=0)
        labels = (0, 1, 2)
    assert splits_of(root) == ["train", "val"]
    for index, segmentation_map in enumerate(maps_of(load_records(root, "val"))):
        assert np.array_equal(segmentation_map, block_map(index, labels=labels))
