"""Data sets that were saved or lie in Parquet files become records."""

import shutil

import datasets
import numpy as np
import pytest
from makers import CATEGORIES, assert_blocks, block_map, make_folder, photo

from seggen_hf.config import DataConfig
from seggen_hf.data.schema import attach_labels, encode_image, encode_map, labels_of
from seggen_hf.data.sources.load import load_records
from seggen_hf.data.sources.split import load_split
from seggen_hf.labels import LabelSet

LABELS = LabelSet.from_dict(CATEGORIES)


def make_dataset(count=3, mask_column="annotation", **columns):
    rows = [
        {
            "img": encode_image(photo(i), f"p{i}"),
            mask_column: encode_map(block_map(i), 3, f"p{i}"),
            "scene_category": 5,
            **columns,
        }
        for i in range(count)
    ]
    features = {"img": datasets.Image(), mask_column: datasets.Image(), "scene_category": datasets.Value("int64")}
    features |= {name: datasets.Value("string") for name in columns}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


@pytest.mark.parametrize("mask_column", ["annotation", "label", "mask", "segmentation_map"])
def test_saved_datasets_are_read_with_guessed_columns(tmp_path, mask_column):
    dataset = make_dataset(mask_column=mask_column, text="a car")
    datasets.DatasetDict({"train": dataset, "val": dataset}).save_to_disk(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    records = load_records(tmp_path / "data", "val", labels=LABELS)
    assert_blocks(records, 3)
    assert records.column_names == ["image", "segmentation_map", "caption", "image_id"]
    assert records["caption"][0] == "a car" and records["image_id"][:] == ["p0", "p1", "p2"]
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written into the source


def test_records_that_we_saved_bring_their_labels_and_columns(tmp_path):
    root = make_folder(tmp_path / "data", count=4)
    records = load_records(root)
    records.save_to_disk(tmp_path / "saved")
    shutil.rmtree(root)  # saving embeds the pictures
    again = load_records(tmp_path / "saved")
    assert_blocks(again, 4)
    assert labels_of(again) == labels_of(records) and again.features == records.features


@pytest.mark.parametrize("name", ["train-00000-of-00001", "part-0"])
def test_parquet_folders_bring_labels_json_and_the_synthetic_columns(tmp_path, name):
    root = tmp_path / "synthetic"
    root.mkdir()
    rows = [
        {
            "image": encode_image(photo(i)),
            "segmentation_map": encode_map(block_map(i), 3),
            "caption": "c",
            "image_id": f"s{i}",
            "kind": "imgsyn",
            "source_id": "r",
            "variant": i,
            "seed": 2**40 + i,
            "scores": {"alignment": 0.5},
        }
        for i in range(3)
    ]
    datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).cast_column(
        "segmentation_map", datasets.Image()
    ).to_parquet(root / f"{name}.parquet")
    LABELS.save(root)
    records = load_records(root)
    assert_blocks(records, 3)
    assert records["seed"][1] == 2**40 + 1 and records[0]["scores"] == {"alignment": 0.5}
    assert records["kind"][0] == "imgsyn" and records["variant"][2] == 2 and labels_of(records) == LABELS


def test_zero_as_void_is_for_those_who_ask(tmp_path):
    dataset = make_dataset()
    shifted = [encode_map(((block_map(i).astype(int) + 1) % 256).astype(np.uint8), 3) for i in range(3)]
    dataset = dataset.remove_columns("annotation").add_column("annotation", shifted, feature=datasets.Image())
    dataset.save_to_disk(tmp_path / "data")
    with pytest.raises(ValueError, match=r"label ids 3 are outside the label set \(0..2; void 255\).*--zero_is_void"):
        load_records(tmp_path / "data", labels=LABELS)
    assert_blocks(load_records(tmp_path / "data", labels=LABELS, zero_is_void=True), 3)
    LABELS.save(tmp_path)
    settings = dict(dataset_name=str(tmp_path / "data"), labels=str(tmp_path / "labels.json"), zero_is_void=True)
    assert_blocks(load_split(DataConfig(**settings), "train", None), 3)


def test_image_ids_become_strings_that_tell_rows_apart(tmp_path):
    dataset = make_dataset()
    dataset.add_column("image_id", [7, 8, 9]).save_to_disk(tmp_path / "numbers")
    assert load_records(tmp_path / "numbers", labels=LABELS)["image_id"][:] == ["7", "8", "9"]
    for name, ids in (("repeated", ["a", "b", "a"]), ("empty", ["a", None, "b"])):
        dataset.add_column("image_id", ids).save_to_disk(tmp_path / name)
        with pytest.warns(UserWarning, match="image_id is empty in"):
            assert load_records(tmp_path / name, labels=LABELS)["image_id"][:] == ["p0", "p1", "p2"]


def test_columns_that_only_sound_like_ours_are_left_out(tmp_path):
    make_dataset(kind="photo", variant="x").save_to_disk(tmp_path / "data")
    assert "kind" not in load_records(tmp_path / "data", labels=LABELS).column_names


def test_parquet_files_of_one_split_in_two_folders_are_refused(tmp_path):
    for config in ("full", "debug"):
        (tmp_path / "data" / config).mkdir(parents=True)
        make_dataset().to_parquet(tmp_path / "data" / config / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="files of train lie in .*debug and .*full; name one"):
        load_records(tmp_path / "data", labels=LABELS)
    assert len(load_records(tmp_path / "data/debug", labels=LABELS)) == 3


def test_a_dataset_with_broken_bytes_names_the_record(tmp_path):
    dataset = attach_labels(make_dataset(), LABELS).cast_column("img", datasets.Image(decode=False))
    dataset = dataset.map(
        lambda row, i: {"img": dict(row["img"], bytes=row["img"]["bytes"][: 600 if i == 1 else None])},
        with_indices=True,
    )
    dataset.cast_column("img", datasets.Image()).save_to_disk(tmp_path / "data")
    with pytest.raises(ValueError, match="1 broken of 3 records:\n  record p1: .*truncated"):
        load_records(tmp_path / "data")


def test_missing_columns_and_labels_say_what_there_is(tmp_path):
    make_dataset(mask_column="odd").save_to_disk(tmp_path / "data")
    with pytest.raises(ValueError, match=r"image columns are \['img', 'odd'\].*--mask_column"):
        load_records(tmp_path / "data", labels=LABELS)
    with pytest.raises(ValueError, match="--labels"):
        load_records(tmp_path / "data", mask_column="odd")
    assert_blocks(load_records(tmp_path / "data", mask_column="odd", labels=LABELS), 3)
