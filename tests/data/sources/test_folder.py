"""Pairs of image and mask files in folders become records."""

import json
import os
import shutil
import subprocess
import time

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


def test_splits_within_images_and_masks_come_with_the_commands_that_turn_them_round(tmp_path):
    root = make_folder(tmp_path / "my data", count=5)
    for name in ("images", "masks"):
        for part in ("train", "val"):
            shutil.copytree(root / "train" / name, root / name / part)
    shutil.rmtree(root / "train")
    with pytest.raises(ValueError, match="splits within images/ and masks/") as caught:
        load_records(root)
    subprocess.run(["sh", "-c", "cd " + str(caught.value).split(": cd ")[1]], check=True)
    assert splits_of(root) == ["train", "val"]
    assert [len(load_records(root, split)) for split in splits_of(root)] == [5, 5]


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
