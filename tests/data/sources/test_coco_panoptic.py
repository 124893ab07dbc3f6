"""COCO's panoptic layouts become records, by name or by id."""

import json

import numpy as np
import pytest
from makers import assert_blocks, block_map, make_coco, maps_of

from seggen_hf.config import load_recipe
from seggen_hf.data.schema import labels_of, read_image, read_map
from seggen_hf.data.sources.layout import splits_of
from seggen_hf.data.sources.load import load_records


def test_nuclei_become_background_and_nucleus(shared_data_dir):
    folder = shared_data_dir / "nuclei"
    records = load_records(folder, "val", max_records=6)
    assert splits_of(folder) == ["train", "val"]
    assert labels_of(records).id2label == {0: "background", 1: "nucleus"}
    for record in records:
        segmentation_map = read_map(record["segmentation_map"])
        thing_area = sum(segment["area"] for segment in record["segments_info"] if segment["isthing"])
        assert (segmentation_map == 1).sum() == thing_area and set(np.unique(segmentation_map)) <= {0, 1, 255}
        ids = read_image(record["panoptic_map"]).astype(int) @ (1, 256, 65536)
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in record["segments_info"]}


def test_the_coco_sample_has_contiguous_labels_and_void(shared_data_dir):
    records = load_records(shared_data_dir / "coco_sample")
    labels = labels_of(records)
    assert labels.num_labels == 133 and labels.id2label[0] == "person" and labels.source_ids[-1] == 200
    segmentation_map = read_map(records[1]["segmentation_map"])
    names = {labels.id2label[label] for label in np.unique(segmentation_map) if label != 255}
    assert names and (segmentation_map == 255).any()
    assert records["image_id"][:] == ["000000142238", "000000439180"]


@pytest.mark.parametrize("layout", ["flat", "single", "coco"])
def test_coco_layouts_are_found(tmp_path, layout):
    split = "train" if layout == "single" else "val"
    root = make_coco(tmp_path / "data", split, layout=layout)
    assert splits_of(root) == [split]
    records = load_records(root, split)
    assert_blocks(records, 3)
    labels = labels_of(records)
    assert labels.source_ids == (7, 11, 90) and labels.id2label == {0: "sky", 1: "road", 2: "car"}
    assert records["image_id"][2] == "000000000002"
    assert [s["category_id"] for s in records[0]["segments_info"]] == [0, 1, 2]


def test_the_coco_recipe_names_splits_that_coco_has(tmp_path):
    data = load_recipe("coco_panoptic_sdxl").data
    for split, spelled in ((data.train_split, "train2017"), (*data.test_splits, "val2017")):
        root = make_coco(tmp_path / split, split, layout="coco")
        assert len(load_records(root, split)) == len(load_records(root, spelled)) == 3


def test_coco_labels_are_matched_by_name_or_by_id(tmp_path):
    root = make_coco(tmp_path / "data", "val")
    names = ["car", "sky", "bus", "road"]
    records = load_records(root, "val", labels={"categories": names})
    assert labels_of(records).label2id == {name: i for i, name in enumerate(names)}
    for index, segmentation_map in enumerate(maps_of(records)):
        assert np.array_equal(segmentation_map, block_map(index, labels=(1, 3, 0)))
    renamed = [{"id": i, "name": name} for i, name in ((90, "auto"), (7, "Himmel"), (11, "Weg"))]
    assert_blocks(load_records(root, "val", labels=renamed), 3)
    with pytest.raises(ValueError, match="--labels lacks 1 categories of .*'road'"):
        load_records(root, "val", labels={"categories": ["sky", "car"]})


def test_coco_faults_are_named(tmp_path):
    root = make_coco(tmp_path / "data", "val")
    path = root / "panoptic_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 8
    content["annotations"][1]["segments_info"].pop()
    content["images"].append({"id": 77, "file_name": "lonely.jpg"})
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        load_records(root, "val")
    assert "no category [8]" in str(caught.value) and "lonely.jpg: no annotation" in str(caught.value)
    content["annotations"][0]["segments_info"][0]["category_id"] = 7
    content["images"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"000000000001.png: segment ids 210001 are not in the JSON"):
        load_records(root, "val")


def test_coco_records_survive_saving_with_their_segments(tmp_path):
    records = load_records(make_coco(tmp_path / "data", "val"), "val")
    records.save_to_disk(tmp_path / "saved")
    again = load_records(tmp_path / "saved", splits_of(tmp_path / "saved")[0])
    assert again.features == records.features and again[0]["segments_info"] == records[0]["segments_info"]
    assert_blocks(again, 3)  # ids are contiguous by now and are not renumbered a second time
