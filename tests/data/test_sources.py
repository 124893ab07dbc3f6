"""Every source becomes the same records, and what is broken is named before anything starts."""

import json
import os
import shutil
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
from makers import (
    CATEGORIES,
    HEIGHT,
    WIDTH,
    block_map,
    make_ade20k,
    make_coco,
    make_folder,
    paint,
    palette_image,
    photo,
    save_rotated,
    write_classes,
)
from PIL import Image

from seggen_hf.config import DataConfig, load_recipe
from seggen_hf.data.schema import attach_labels, encode_image, encode_map, labels_of, read_image, read_map
from seggen_hf.data.sources.load import load_records, load_split, splits_of
from seggen_hf.data.sources.map_decoder import read_label_file
from seggen_hf.labels import LabelSet


@pytest.fixture(autouse=True)
def cache_dir(tmp_path_factory, monkeypatch):
    """Converted copies go to a folder of the test, not to the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder / "seggen_hf"


def maps_of(records):
    return [read_map(segmentation_map) for segmentation_map in records["segmentation_map"]]


def assert_blocks(records, count: int):
    """The records hold `block_map`, as PNG L, beside images of the same size."""
    assert len(records) == count
    for index, record in enumerate(records):
        assert record["segmentation_map"].mode == "L" and record["segmentation_map"].format == "PNG"
        assert np.array_equal(read_map(record["segmentation_map"]), block_map(index))
        assert record["image"].mode == "RGB" and record["image"].size == (WIDTH, HEIGHT)


# Real data


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


# Layouts


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


def test_ids_with_gaps_and_another_void_are_renumbered(tmp_path):
    root = make_folder(tmp_path / "data", count=2)
    for index in range(2):
        raw = block_map(index, labels=(7, 23, 40), void=0)
        Image.fromarray(raw).save(root / "train/masks" / f"{index:04d}.png")
    categories = [dict(c, id=i) for c, i in zip(CATEGORIES, (7, 23, 40), strict=True)]
    write_classes(root, categories, ignore_index=0)
    records = load_records(root)
    assert_blocks(records, 2)
    assert labels_of(records).source_ids == (7, 23, 40) and labels_of(records).ignore_index == 255


def test_painted_masks_are_read_through_the_colors(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    for index in range(3):
        Image.fromarray(paint(block_map(index))).save(root / "train/masks" / f"{index:04d}.png")
    with pytest.raises(ValueError, match=r"colors that no class has, first \(0, 0, 0\) at x=0, y=23"):
        load_records(root)
    write_classes(root, CATEGORIES, void_color=[0, 0, 0])
    assert_blocks(load_records(root), 3)


def test_palette_masks_are_read_by_index_or_by_color(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    rainbow = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 9)], -1)  # says nothing: indices are ids
    palette_image(block_map(0), rainbow).save(root / "train/masks/0000.png")
    shuffled = np.zeros((256, 3))  # an optimizer's palette: the colors are the classes, the order is not
    order = [2, 0, 1, 255]
    for place, label in enumerate(order):
        shuffled[place] = (0, 0, 0) if label == 255 else CATEGORIES[label]["color"]
    places = np.zeros(256, int)
    places[order] = range(4)
    palette_image(places[block_map(1)], shuffled).save(root / "train/masks/0001.png")
    write_classes(root, CATEGORIES, ignore_index=255, void_color=[0, 0, 0])
    assert_blocks(load_records(root), 3)


@pytest.mark.parametrize("order", [(0, 1, 255), (1, 255, 0), (255, 1, 0)])
def test_painted_masks_with_a_palette_name_the_color_that_is_not_listed(tmp_path, order):
    root = make_folder(tmp_path / "data", count=1)
    palette, places = np.zeros((256, 3)), np.zeros(256, int)
    for place, label in enumerate(order):
        palette[place] = (9, 9, 9) if label == 255 else CATEGORIES[label]["color"]
        places[label] = place
    palette_image(places[block_map(0, labels=(0, 1, 1))], palette).save(root / "train/masks/0000.png")
    with pytest.raises(ValueError, match=r"colors that no class has, first \(9, 9, 9\)"):
        load_records(root)


def test_palette_masks_of_ids_may_show_void_in_any_color(tmp_path):
    root = make_folder(tmp_path / "data", count=2)
    palette = paint(np.arange(256), void=(224, 224, 192))
    for index in range(2):
        palette_image(block_map(index), palette).save(root / "train/masks" / f"{index:04d}.png")
    assert_blocks(load_records(root), 2)
    write_classes(root, [dict(CATEGORIES[0], color=[0, 0, 0]), *CATEGORIES[1:]], void_color=[224, 224, 192])
    palette[0], palette[255] = 0, 0  # void looks like a class whose id has the same color
    for index in range(2):
        palette_image(block_map(index), palette).save(root / "train/masks" / f"{index:04d}.png")
    assert_blocks(load_records(root), 2)


def test_masks_of_0_and_255_ask_which_label_255_is(tmp_path):
    root = make_folder(tmp_path / "data", count=2, categories=["background", "cell"])
    for index in range(2):
        inside = block_map(index) == 2
        Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(root / "train/masks" / f"{index:04d}.png")
    with pytest.raises(ValueError, match="hold 0 and 255 and never 1.*name id 255 in classes.json") as caught:
        load_records(root)
    (root / "classes.json").write_text(str(caught.value).split("classes.json: ")[1].removesuffix("."))
    records = load_records(root)
    assert labels_of(records).id2label == {0: "background", 1: "cell"}
    for index, segmentation_map in enumerate(maps_of(records)):
        assert np.array_equal(segmentation_map, block_map(index) == 2)


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


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("null", "it holds null"),
        ("[", "is not JSON"),
        ("7", "it holds 7"),
        ('{"id2label": ["a"]}', None),
        ('{"sky": 0}', "lacks an id or a name"),
        ('{"classes": "sky"}', "'classes'; it must be a whole number"),
        ('[{"id": 0, "label": "sky"}]', "lacks an id or a name"),
        ('[{"id": null, "name": "sky"}]', "id of 'sky' is None"),
        ('[{"id": -1, "name": "plate"}]', "'plate' has the id -1"),
        ('[{"id": 0, "name": "sky", "color": "#ff0000"}]', "color of 'sky' is '#ff0000'"),
        ('[{"id": 0, "name": "sky", "isthing": "false"}]', "isthing of 'sky' is 'false'"),
        ('{"categories": ["sky"], "void_color": [0, 0, 0, 255]}', "void_color is"),
        ('{"categories": ["sky"], "ignore_index": "none"}', "ignore_index is 'none'"),
        ('{"0": {"name": "sky"}, "1": {"name": "road"}, "2": {"name": "car"}}', None),
        ('\ufeff["sky", "road", "car"]', None),
    ],
)
def test_label_files_are_understood_or_refused_by_name(tmp_path, content, told):
    (tmp_path / "classes.json").write_text(content, encoding="utf-8")
    if told is None:
        assert read_label_file(tmp_path / "classes.json").labels.id2label[0] in ("sky", "a")
        return
    with pytest.raises(ValueError, match="classes.json") as caught:
        read_label_file(tmp_path / "classes.json")
    assert told in str(caught.value)


def test_a_negative_void_is_no_pixels(tmp_path):
    decoder = read_label_file({"categories": ["sky", "road"], "ignore_index": -100}).decoder
    with pytest.raises(ValueError, match="label ids 156 are outside"):
        decoder.decode(Image.fromarray(np.array([[0, 1, 156]], np.uint8)))
    assert decoder.decode(Image.fromarray(np.array([[0, 1, 255]], np.uint8))).tolist() == [[0, 1, 255]]


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


@pytest.mark.parametrize("parts", [(), ("train", "val")])
def test_pairs_without_splits_come_with_the_commands_that_make_them(tmp_path, parts):
    root = make_folder(tmp_path / "my data", count=5)
    for name in ("images", "masks"):
        (root / "train" / name).rename(root / name)
        for part in parts:
            shutil.copytree(root / name, root / "copy" / part)
        if parts:
            shutil.rmtree(root / name)
            (root / "copy").rename(root / name)
    shutil.rmtree(root / "train")
    with pytest.raises(ValueError, match="no splits") as caught:
        load_records(root)
    subprocess.run(["sh", "-c", "cd " + str(caught.value).split(": cd ")[1]], check=True)
    assert splits_of(root) == (["train", "val"] if parts else ["test", "train"])
    assert [len(load_records(root, split)) for split in splits_of(root)] == ([5, 5] if parts else [1, 4])


def test_ids_above_255_make_16_bit_maps(tmp_path):
    categories = [{"id": i, "name": f"class {i}"} for i in range(300)]
    root = make_folder(tmp_path / "data", count=2, categories=categories, ignore_index=65535)
    wide = block_map(0).astype(np.uint16)
    wide[0, 0], wide[-1] = 299, 65535
    Image.fromarray(wide).save(root / "train/masks/0000.png")
    Image.fromarray(wide.astype(np.int32)).save(root / "train/masks/0001.tiff")
    (root / "train/masks/0001.png").unlink()
    records = load_records(root)
    assert labels_of(records).ignore_index == 65535
    for record in records:
        assert record["segmentation_map"].mode == "I;16" and record["segmentation_map"].format == "PNG"
        assert np.array_equal(read_map(record["segmentation_map"]), wide)


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


LABELS = LabelSet.from_dict(CATEGORIES)


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


def test_coco_records_survive_saving_with_their_segments(tmp_path):
    records = load_records(make_coco(tmp_path / "data", "val"), "val")
    records.save_to_disk(tmp_path / "saved")
    again = load_records(tmp_path / "saved", splits_of(tmp_path / "saved")[0])
    assert again.features == records.features and again[0]["segments_info"] == records[0]["segments_info"]
    assert_blocks(again, 3)  # ids are contiguous by now and are not renumbered a second time


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


def test_zero_as_void_is_for_folders_too(tmp_path):
    root = make_folder(tmp_path / "data", count=2)
    for index in range(2):
        Image.fromarray(block_map(index, labels=(1, 2, 3), void=0)).save(root / "train/masks" / f"{index:04d}.png")
    assert_blocks(load_records(root, zero_is_void=True), 2)


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


def test_scenes_are_a_source_like_any_other():
    records = load_records("scenes", "val", max_records=3, size=(32, 48))
    assert len(records) == 3 and read_map(records[0]["segmentation_map"]).shape == (32, 48)
    assert labels_of(records).num_labels > 6 and records[0]["caption"]
    with pytest.raises(ValueError, match="unseen"):
        load_records("scenes", "dusk")


# What is broken


def test_every_broken_record_is_named_with_its_reason(tmp_path):
    root = make_folder(tmp_path / "data", count=12)
    images, masks = root / "train/images", root / "train/masks"
    (masks / "0001.png").unlink()
    (images / "0002.jpg").unlink()
    whole = (images / "0003.jpg").read_bytes()
    (images / "0003.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "0004.jpg").write_bytes(b"")
    (masks / "0005.png").write_bytes(b"not a picture")
    Image.fromarray(block_map()[:-2]).save(masks / "0006.png")
    Image.fromarray(block_map(labels=(0, 9, 2))).save(masks / "0007.png")
    whole = (masks / "0008.png").read_bytes()
    (masks / "0008.png").write_bytes(whole[: len(whole) * 2 // 3])
    Image.fromarray(photo()[..., 0].astype(np.uint16) * 200).save(images / "0009.png")
    (images / "0009.jpg").unlink()
    Image.fromarray(np.repeat(block_map(), 2, 0).repeat(2, 1)).save(masks / "0010.jpg", quality=30)
    (masks / "0010.png").unlink()
    with pytest.raises(ValueError) as caught:
        load_records(root)
    lines = {line.split(":")[0].split("/")[-1].strip(): line for line in str(caught.value).splitlines()}
    assert "no mask" in lines["0001.jpg"] and "no image" in lines["0002.png"]
    assert "has 10 broken of 12" in str(caught.value) and "seggen doctor SOURCE --fix FOLDER" in str(caught.value)
    assert (
        "truncated" in lines["0003.jpg"].lower()
        and "empty" in lines["0004.jpg"]
        and "not an image" in lines["0005.png"]
    )
    assert "22 x 32" in lines["0006.png"] and "24 x 32" in lines["0006.png"]
    assert "label ids 9 are outside the label set (0..2; void 255)" in lines["0007.png"]
    assert "8-bit" in lines["0009.png"] and "0008.png" in lines and "lossy" in lines["0010.jpg"]


def test_only_twenty_are_listed_and_all_are_counted(tmp_path):
    root = make_folder(tmp_path / "data", count=30)
    for path in sorted((root / "train/masks").iterdir())[:25]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="25 broken of 30 records") as caught:
        load_records(root)
    assert str(caught.value).count("empty") == 20 and "and 5 more" in str(caught.value)


def test_without_the_check_the_rest_can_be_read(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    (root / "train/masks/0001.png").write_bytes(b"")
    records = load_records(root, check=False)
    assert len(records) == 3 and np.array_equal(read_map(records[2]["segmentation_map"]), block_map(2))


def test_unknown_layouts_splits_and_paths_are_refused(tmp_path):
    root = make_folder(tmp_path / "data", count=1, splits=("train", "val"))
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        load_records(root, "test")
    with pytest.raises(ValueError, match="does not exist"):
        load_records(tmp_path / "nothing")
    (tmp_path / "odd" / "pictures").mkdir(parents=True)
    with pytest.raises(ValueError, match="It holds: pictures/"):
        load_records(tmp_path / "odd")
    (root / "classes.json").unlink()
    with pytest.raises(ValueError, match="classes.json, labels.json, id2label.json"):
        load_records(root)
    assert_blocks(load_records(root, labels={"categories": CATEGORIES}), 1)


# EXIF


def test_exif_rotation_follows_the_mask(tmp_path):
    root = make_folder(tmp_path / "data", count=4)
    upright, images = np.repeat(block_map()[..., None], 3, 2) // 2 * 2, root / "train/images"
    save_rotated(images / "0000.jpg", upright)  # annotated without the rotation: the mask fits the stored pixels
    save_rotated(images / "0001.jpg", np.rot90(upright).copy(), 6)  # annotated as viewers show it
    records = load_records(root)
    for index in (0, 1):
        image = read_image(records[index]["image"])
        assert image.shape == (HEIGHT, WIDTH, 3)
        dark, bright = image[:11].mean(), image[-1].mean()
        assert dark < 10 and bright > 200  # sky is 0 and void 254: neither turned nor mirrored
    save_rotated(images / "0002.jpg", photo()[:20], 6)
    with pytest.raises(ValueError, match="0002.png: the mask is 24 x 32 .* and its image 32 x 20"):
        load_records(root)


def test_dropping_exif_leaves_the_pixels_of_a_jpeg_untouched(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    save_rotated(root / "train/images/0000.jpg", photo(), 8)
    stored = np.array(Image.open(root / "train/images/0000.jpg"))
    assert np.array_equal(read_image(load_records(root)[0]["image"]), stored)


def test_half_turns_that_fit_both_ways_are_read_as_shown_with_a_warning(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    save_rotated(root / "train/images/0000.jpg", photo(), 3)
    with pytest.warns(UserWarning, match="fit their masks either way"):
        records = load_records(root)
    stored = np.array(Image.open(root / "train/images/0000.jpg"))
    assert np.array_equal(read_image(records[0]["image"]), stored[::-1, ::-1])
    with pytest.warns(UserWarning, match="first 0000"):  # on later loads too
        load_records(root)


@pytest.mark.parametrize("drawn_rotated", [False, True])
def test_half_turns_are_read_as_the_splits_other_images(tmp_path, drawn_rotated, recwarn):
    root = make_folder(tmp_path / "data", count=3)
    save_rotated(root / "train/images/0000.jpg", photo(), 3)
    save_rotated(root / "train/images/0001.jpg", np.rot90(photo()).copy() if drawn_rotated else photo(), 6)
    stored = np.array(Image.open(root / "train/images/0000.jpg"))
    image = read_image(load_records(root)[0]["image"])
    assert np.array_equal(image, stored[::-1, ::-1] if drawn_rotated else stored)
    assert not [warning for warning in recwarn if "either way" in str(warning.message)]


# Caching


def test_conversion_is_made_once_and_again_when_a_file_changes(tmp_path, cache_dir):
    root = make_coco(tmp_path / "data", "val")
    first = load_records(root, "val")
    (made,) = cache_dir.glob("*.arrow")
    stamp = made.stat().st_mtime_ns
    second = load_records(root, "val")
    assert made.stat().st_mtime_ns == stamp and first._fingerprint == second._fingerprint
    Image.fromarray(photo(50)).save(root / "images/val/000000000000.jpg")
    third = load_records(root, "val")
    assert third._fingerprint != first._fingerprint and len(list(cache_dir.glob("*.arrow"))) == 2


def test_a_file_that_breaks_after_the_check_is_found_again(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    load_records(root)
    (root / "train/masks/0001.png").write_bytes(b"")
    with pytest.raises(ValueError, match="0001.png: the file is empty"):
        load_records(root)


def test_fingerprints_are_the_same_in_every_process(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    code = f"from seggen_hf.data.sources import load_records; print(load_records({str(root)!r})._fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip().splitlines()[-1] == load_records(root)._fingerprint


def test_a_name_that_is_neither_folder_nor_reachable_is_one_clear_error():
    with pytest.raises(ValueError, match="camvid-typo is no folder here, and as a Hub id it cannot be read"):
        load_records("camvid-typo")
