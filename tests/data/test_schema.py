"""The schema: labels travel with a dataset, maps and images are written and read without loss."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetInfo, Features
from datasets.table import InMemoryTable
from PIL import Image

from seggen_hf.data.schema import (
    attach_labels,
    encode_image,
    encode_map,
    ignore_index_for,
    labels_of,
    picture_files,
    read_image,
    read_map,
    record_features,
)
from seggen_hf.labels import LabelSet

LABELS = LabelSet.from_dict(
    {"categories": [{"id": 0, "name": "sky", "color": [0, 0, 9]}, {"id": 1, "name": "car", "isthing": 1}]}
)


def make_records(count: int = 4) -> datasets.Dataset:
    rows = [
        {
            "image": encode_image(np.full((6, 8, 3), 40 * i, np.uint8)),
            "segmentation_map": encode_map(np.full((6, 8), i % 2)),
            "caption": None,
            "image_id": str(i),
        }
        for i in range(count)
    ]
    return datasets.Dataset.from_list(rows, features=record_features())


def test_labels_survive_what_is_done_to_a_dataset(tmp_path):
    plain = make_records()
    records = attach_labels(plain, LABELS)
    with pytest.raises(ValueError, match="no labels"):
        labels_of(plain)
    records.save_to_disk(tmp_path / "saved")
    for dataset in (
        records.select([1, 2]),
        records.map(lambda row: {"caption": row["image_id"]}),
        records.shuffle(seed=1),
        records.remove_columns("caption"),
        datasets.concatenate_datasets([records, records]),
        datasets.load_from_disk(tmp_path / "saved"),
    ):
        assert labels_of(dataset) == LABELS


def test_attaching_other_labels_changes_the_fingerprint_and_not_the_original():
    records = make_records()
    first = attach_labels(records, LABELS)
    second = attach_labels(records, LabelSet.from_id2label({0: "a", 1: "b"}))
    assert len({records._fingerprint, first._fingerprint, second._fingerprint}) == 3
    assert first._fingerprint == attach_labels(records, LABELS)._fingerprint
    assert labels_of(first) == LABELS and labels_of(second).id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize(("num_labels", "mode"), [(2, "L"), (255, "L"), (256, "I;16"), (3000, "I;16")])
def test_maps_come_back_exactly_through_datasets(num_labels, mode):
    segmentation_map = np.random.default_rng(0).integers(0, num_labels, (12, 10))
    segmentation_map[0, 0] = ignore_index_for(num_labels)
    row = {"image": encode_image(np.zeros((12, 10, 3), np.uint8)), "caption": "", "image_id": "a"}
    row["segmentation_map"] = encode_map(segmentation_map, num_labels)
    decoded = datasets.Dataset.from_list([row], features=record_features())[0]["segmentation_map"]
    assert (decoded.mode, decoded.format) == (mode, "PNG")
    assert np.array_equal(read_map(decoded), segmentation_map)
    assert read_map(decoded).dtype == np.int32


def test_synthetic_and_panoptic_records_fit_their_features():
    features = record_features(synthetic=True, panoptic=True)
    segment = {"id": 700, "category_id": 1, "isthing": True, "iscrowd": False, "area": 4, "bbox": [0, 0, 2, 2]}
    row = {
        "image": encode_image(np.zeros((4, 4, 3), np.uint8)),
        "segmentation_map": encode_map(np.ones((4, 4), int)),
        "panoptic_map": encode_image(np.full((4, 4, 3), (188, 2, 0), np.uint8)),
        "segments_info": [segment],
        "caption": "a car",
        "image_id": "x",
        "kind": "masksyn",
        "source_id": "s",
        "variant": 0,
        "seed": 2**60,
        "scores": {"decode_confidence": 0.5, "ignored_share": 0.0, "alignment": None},
    }
    decoded = datasets.Dataset.from_list([row], features=features)[0]
    assert decoded["segments_info"] == [segment] and decoded["seed"] == 2**60
    assert np.array(decoded["panoptic_map"])[0, 0].tolist() == [188, 2, 0]


@pytest.mark.parametrize(
    ("segmentation_map", "reason"),
    [
        (np.zeros((4, 4, 3), int), "integers"),
        (np.zeros((4, 4)), "integers"),
        (np.full((4, 4), -1), "-1"),
        (np.full((4, 4), 70000), "70000"),
    ],
)
def test_what_is_no_label_map_is_refused(segmentation_map, reason):
    with pytest.raises(ValueError, match=reason):
        encode_map(segmentation_map)


def test_palette_maps_give_indices_and_gray_rgb_maps_their_gray(tmp_path):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(indices, "L").convert("P")
    palette.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    palette.putdata(indices.ravel().tolist())
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_map(tmp_path / "p.png"), indices)
    gray = np.repeat(indices[..., None], 3, axis=2)
    assert np.array_equal(read_map(Image.fromarray(gray)), indices)
    gray[0, 0, 0] = 200
    with pytest.raises(ValueError, match="color image"):
        read_map(Image.fromarray(gray))


def test_tiff_maps_are_read_and_fractions_are_not(tmp_path):
    wide = np.array([[0, 300], [65535, 4]])
    Image.fromarray(wide.astype(np.int32)).save(tmp_path / "wide.tiff")
    assert np.array_equal(read_map(tmp_path / "wide.tiff"), wide)
    Image.fromarray(wide.astype(np.float32) + 0.5).save(tmp_path / "fractions.tiff")
    with pytest.raises(ValueError, match="fractions"):
        read_map(tmp_path / "fractions.tiff")


def test_exif_rotation_is_applied_or_left_as_asked(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / "r.jpg", exif=exif)
    assert read_image(tmp_path / "r.jpg").shape == (20, 10, 3)
    assert read_image(tmp_path / "r.jpg", exif=False).shape == (10, 20, 3)


def test_files_of_pictures_are_told_without_joining_more_bytes_than_arrow_can():
    """A column of chunks that hold 2.2 GB together, all of them the same memory."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    photos = pa.array([{"bytes": bytes(110_000_000), "path": "a.png"}], kind)
    column = pa.chunked_array([photos] * 20 + [pa.array([{"bytes": None, "path": "b/c.png"}, None], kind)])
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        column.combine_chunks()
    features = Features({"image": datasets.Image(decode=False)})
    rows = Dataset(
        InMemoryTable(pa.table({"image": column})), info=DatasetInfo(features=features), fingerprint="photos"
    )
    assert list(picture_files(rows, "image")) == [("a.png", True)] * 20 + [("b/c.png", False), (None, False)]
