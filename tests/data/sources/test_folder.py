"""Pairs of image and mask files in folders become records."""

import json
import os
import shutil
import time
import warnings

import numpy as np
import pytest
import real_files as make
from makers import CATEGORIES, assert_blocks, block_map, make_folder, maps_of, photo
from PIL import Image

from seggen_hf.config import DataConfig
from seggen_hf.data.held_out import HELD_OUT
from seggen_hf.data.schema import labels_of
from seggen_hf.data.sources.layout import splits_of
from seggen_hf.data.sources.load import load_records
from seggen_hf.data.sources.split import load_split


@pytest.mark.slow
@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_camvid_is_read_lazily_and_checked_in_seconds(camvid_dir, split, count):
    start = time.perf_counter()
    records = load_records(camvid_dir, split)
    assert time.perf_counter() - start < 20  # 1.2 s and 0.3 s on two idle cores
    assert len(records) == count and labels_of(records).num_labels == 11
    assert records.data.nbytes < 400 * count  # paths, no pixels
    assert records[0]["image"].size == records[0]["segmentation_map"].size == (480, 360)
    assert records[0]["image_id"] == sorted(os.listdir(camvid_dir / split / "images"))[0].removesuffix(".jpg")
    labels = np.unique(np.concatenate([np.unique(m) for m in maps_of(records.select(range(20)))]))
    assert set(labels) <= {*range(11), 255}


def test_camvid_colors_and_names_come_from_its_classes(camvid_dir):
    labels = labels_of(load_records(camvid_dir, "val", max_records=1))
    assert labels.id2label[3] == "road" and labels.colors[3] == (128, 64, 128) and 8 in labels.things


def test_a_folder_keeps_its_file_names_and_its_files(tmp_path, cache_dir):
    root = make_folder(tmp_path / "data", count=4)
    (root / "train/captions.json").write_text(json.dumps({"0002": "a blue car"}))
    records = load_records(root)
    assert_blocks(records, 4)
    assert records["image_id"][:] == ["0000", "0001", "0002", "0003"]
    assert records["caption"][:] == [None, None, "a blue car", None]
    assert labels_of(records).id2label == {0: "sky", 1: "road", 2: "car"} and labels_of(records).things == [2]
    assert records.data.nbytes < 2000 and not list(cache_dir.glob("*.arrow"))


def test_images_in_subfolders_are_found(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    for name, suffix in (("images", "jpg"), ("masks", "png")):
        (root / "train" / name / "city").mkdir()
        shutil.copy(root / "train" / name / f"0000.{suffix}", root / "train" / name / "city" / f"a.{suffix}")
    assert load_records(root)["image_id"][:] == ["0000", "city/a"]


@pytest.mark.parametrize(
    "content",
    [
        {"categories": CATEGORIES},
        CATEGORIES,
        ["sky", "road", "car"],
        {"0": "sky", "1": "road", "2": "car"},
        {"ignore_index": 255, "categories": [*CATEGORIES, {"id": 255, "name": "void", "color": [0, 0, 0]}]},
    ],
)
def test_label_files_come_in_several_forms(tmp_path, content):
    root = make_folder(tmp_path / "data", count=1)
    (root / "classes.json").write_text(json.dumps(content))
    records = load_records(root)
    assert_blocks(records, 1)
    assert labels_of(records).id2label == {0: "sky", 1: "road", 2: "car"}


def test_tiny_images_are_read(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    Image.fromarray(photo()[:5, :6]).save(root / "train/images/0000.jpg")
    Image.fromarray(block_map()[:5, :6]).save(root / "train/masks/0000.png")
    assert load_records(root)[0]["image"].size == (6, 5)


def test_linked_folders_are_followed_and_hidden_ones_are_not(tmp_path):
    root, other = make_folder(tmp_path / "data", count=1), make_folder(tmp_path / "other", count=2)
    for name in ("images", "masks"):
        (root / "train" / name / "city").symlink_to(other / "train" / name)
        (root / "train" / name / "again").symlink_to(root / "train" / name)  # a circle
    hidden = root / "train/images/.ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(root / "train/images/0000.jpg", hidden / "0000-checkpoint.jpg")
    records = load_records(root, media_roots=[other])  # see test_roots.py
    assert records["image_id"][:] == ["0000", "city/0000", "city/0001"]


def test_captions_may_name_files_and_those_of_no_image_are_told(tmp_path):
    root = make_folder(tmp_path / "data", count=2)
    file = root / "train/captions.json"
    file.write_text(json.dumps({"0000.jpg": "a car", "0001": "a road", "0007": "nothing"}))
    with pytest.warns(UserWarning, match="1 captions are of no image, first '0007'"):
        assert load_records(root)["caption"][:] == ["a car", "a road"]
    for content in ("[]", '{"0000": ["a"]}', "{"):
        file.write_text(content)
        with pytest.raises(ValueError, match="captions.json"):
            load_records(root)


LAYOUTS = {
    "splits within": (
        ["images/train/a.jpg", "masks/train/a.png", "images/val/b.jpg", "masks/val/b.png"],
        ["train", "val"],
    ),
    "years": (["img_dir/train2017/a.jpg", "ann_dir/train2017/a.png"], ["train2017"]),
    "labels": (
        ["train/images/a.jpg", "train/labels/a.png", "valid/images/b.jpg", "valid/labels/b.png"],
        ["train", "valid"],
    ),
    "one split": (["image/a.jpg", "mask/a.png"], ["train"]),
    "upper case": (["Images/a.JPG", "Masks/a.PNG"], ["train"]),
    "videos": (["images/left/a.jpg", "masks/left/a.png", "images/right/a.jpg", "masks/right/a.png"], ["train"]),
    "trimaps": (["images/a.jpg", "annotations/trimaps/a.png"], ["train"]),
    "beside": (["a.jpg", "a_mask.png", "b.jpg", "b_mask.png"], ["train"]),
    "beside, splits": (["train/a.png", "train/a-seg.png", "test/b.png", "test/b-seg.png"], ["test", "train"]),
    "unlabelled beside": (["images/a.jpg", "labels/a.png", "unlabelled/c.jpg"], ["train"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_and_masks_are_found_however_their_folders_are_called(tmp_path, name):
    files, splits = LAYOUTS[name]
    masks = [file for file in files if any(sign in file.lower() for sign in ("mask", "label", "ann", "-seg"))]
    masks = [file for file in masks if not file.startswith("unlabelled")]
    for index, file in enumerate(files):
        if file in masks:
            make.mask(tmp_path / file, values=((0, 1),))
        else:
            make.picture(tmp_path / file, index)
    (tmp_path / "classes.json").write_text('["sky", "road"]')
    assert splits_of(tmp_path) == splits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = [load_records(tmp_path, split) for split in splits]
    assert sum(map(len, loaded)) == len(masks)
    for records in loaded:
        for row in records:
            assert np.array_equal(np.unique(np.array(row["segmentation_map"])), [0, 1])
            assert np.array(row["image"]).shape[:2] == make.SIZE and np.array(row["image"]).std() > 20
    if name.startswith("beside"):
        with pytest.warns(UserWarning, match="masks lie beside their images, with [-_]"):
            load_records(tmp_path, splits[0])


@pytest.mark.parametrize(
    "files",
    [["a.jpg", "b.jpg"], ["a.jpg", "a_mask.png", "b.jpg"], ["a.jpg", "a_mask.png", "a_color.png"]],
    ids=["images alone", "one without a mask", "two masks"],
)
def test_what_lies_beside_images_is_no_guess(tmp_path, files):
    for index, file in enumerate(files):
        make.picture(tmp_path / file, index)
    with pytest.raises(ValueError, match="holds . images and no masks"):
        load_records(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("_classes.csv", "Pixel Value, Class\n0, sky\n1, road\n"),
        ("train/_classes.csv", "Pixel Value, Class\n0, sky\n1, road\n"),
        ("classes.txt", "sky\nroad\n\n"),
        ("labels.txt", "sky\r\nroad\r\n"),
    ],
)
def test_names_of_labels_may_be_a_table_or_lines(tmp_path, file, content):
    make.picture(tmp_path / "train/a.jpg")
    make.mask(tmp_path / "train/a_mask.png")
    (tmp_path / file).write_bytes(content.encode())
    with pytest.warns(UserWarning, match="beside their images"):
        records = load_records(tmp_path)
    assert labels_of(records).id2label == {0: "sky", 1: "road"}
    (tmp_path / file).write_text("Pixel Value, Class\n" if file.endswith("csv") else "")
    with pytest.raises(ValueError, match=file):
        load_records(tmp_path)


def test_a_folder_without_splits_is_one_and_a_part_of_it_is_held_out(tmp_path):
    root = make_folder(tmp_path / "data", count=10)
    for name in ("images", "masks"):
        (root / "train" / name).rename(root / name)
    (root / "train").rmdir()
    assert splits_of(root) == ["train"] and len(load_records(root)) == 10
    with pytest.raises(ValueError, match=r"no split 'test'; it has train. To score .* data.held_out=0.2"):
        load_records(root, "test")
    data = DataConfig(dataset_name=str(root), held_out=0.3, test_splits=[HELD_OUT])
    train, test = load_split(data, "train", None), load_split(data, HELD_OUT, None)
    assert len(train) == 7 and len(test) == 3 and not set(train["image_id"][:]) & set(test["image_id"][:])
    assert load_split(data, "train", 2)["image_id"][:] == train["image_id"][:2]


def test_zero_as_void_is_for_folders_too(tmp_path):
    root = make_folder(tmp_path / "data", count=2)
    for index in range(2):
        Image.fromarray(block_map(index, labels=(1, 2, 3), void=0)).save(root / "train/masks" / f"{index:04d}.png")
    assert_blocks(load_records(root, zero_is_void=True), 2)


@pytest.mark.parametrize(
    ("values", "draft"),
    [
        ([0, 255], {"categories": [{"id": 0, "name": "?"}, {"id": 255, "name": "?"}]}),
        ([0, 3, 255], {"ignore_index": 255, "categories": [{"id": 0, "name": "?"}, {"id": 3, "name": "?"}]}),
        (
            [[0, 0, 9], [0, 0, 3]],
            {
                "categories": [
                    {"id": 0, "name": "?", "color": [0, 0, 3]},
                    {"id": 1, "name": "?", "color": [0, 0, 9]},
                ]
            },
        ),
        (list(range(41)), None),
    ],
    ids=["two ids", "void", "painted", "no labels"],
)
def test_a_folder_without_labels_is_told_which_its_masks_hold(tmp_path, values, draft):
    make.picture(tmp_path / "images/a.png", size=(4, 41))
    make.mask(tmp_path / "masks/a.png", values=(values,), size=(4, 41))
    with pytest.raises(ValueError, match=r"write .*classes\.json") as refused:
        load_records(tmp_path)
    written = str(refused.value).partition("classes.json")[2].partition(": ")[2]
    if draft is None:
        assert '"name": "sky"' in written
        return
    assert json.loads(written.partition("masks: ")[2] or written) == draft
    named = {"categories": [fact | {"name": f"n{fact['id']}"} for fact in draft["categories"]]}
    (tmp_path / "classes.json").write_text(json.dumps(draft | named))
    assert labels_of(load_records(tmp_path)).num_labels == 2
