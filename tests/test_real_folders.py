"""What people's folders look like beside COCO, one row a case: what is read, or the line that the user sees."""

import json
import os
import unicodedata

import numpy as np
import pytest
import real_files as make
from PIL import Image
from real_files import SIZE, read

from seggen_hf.data.schema import read_map
from seggen_hf.data.sources.layout import splits_of

HEIGHT, WIDTH = SIZE


# Folders: (what differs, settings, ids or the line, a note)
FOLDERS = {
    "plain": ({}, {}, ["a"], None),
    "suffix-mask": ({"masks": ["a_mask.png"]}, {}, ["a"], "like their images and _mask"),
    "suffix-label-ids": ({"masks": ["a_labelIds.png"]}, {}, ["a"], "like their images and _labelIds"),
    "suffix-with-a-dash": ({"masks": ["a-seg.png"]}, {}, ["a"], "like their images and -seg"),
    "suffix-of-the-image": ({"masks": ["a.jpg.png"]}, {}, ["a"], "image's own suffix"),
    "suffix-of-two-kinds-of-image": (
        {"images": ["a.jpg", "b.png"], "masks": ["a.jpg.png", "b.png.png"]}, {}, ["a", "b"], "image's own suffix",
    ),
    "longest-name-wins": (
        {"images": ["a.jpg", "a_b.jpg"], "masks": ["a_mask.png", "a_b_mask.png"]}, {}, ["a", "a_b"], "and _mask",
    ),
    "suffix-named": (
        {"masks": ["a_labelIds.png", "a_color.png"]}, {"mask_suffix": "_labelIds"}, ["a"], None,
    ),
    "suffix-to-be-named": (
        {"masks": ["a_labelIds.png", "a_color.png"]}, {},
        r"each image has 2 masks, which end in _color, _labelIds; .*--mask_suffix _color", None,
    ),
    "suffix-of-none": ({"masks": ["a_x.png"]}, {"mask_suffix": "_y"}, "no mask's name ends in '_y', but in _x", None),
    "suffix-of-some": (
        {"images": ["a.jpg", "b.jpg"], "masks": ["a_mask.png"]}, {}, "b.jpg: no mask", None,
    ),
    "names-apart": (
        {"images": [unicodedata.normalize("NFC", "Übung.jpg")], "masks": [unicodedata.normalize("NFD", "Übung.png")]},
        {}, ["Übung"], None,
    ),
    "two-images-of-one-name": ({"images": ["a.jpg", "a.png"]}, {}, "has the name of", None),
    "upper-case-suffix": ({"images": ["a.JPG"], "masks": ["a.PNG"]}, {}, ["a"], None),
    "mask-jpeg": ({"masks": ["a.jpg"]}, {}, "the mask is a lossy JPEG", None),
    "mask-webp-lossy": ({"masks": ["a.webp"]}, {}, "the mask is a lossy WEBP", None),
    "void-to-be-named": (
        {"values": ((0, 1, 3),)}, {}, r"label ids 3 are outside the label set .*say so with --void_ids 3", None,
    ),
    "void-named": ({"values": ((0, 1, 3),)}, {"void_ids": [3]}, ["a"], None),
    "void-that-is-a-label": ({}, {"void_ids": [1]}, "void_ids.* names 1, which is the id of a label", None),
    "all-void": ({"values": ((255,),)}, {}, "every pixel of every map is void", None),
    "other-size": ({"size": (8, 8)}, {}, "the mask is 8 x 8", None),
    "label-id-huge": ({"labels": {"0": "sky", "2000000000": "road"}}, {}, "id 2000000000; a mask holds ids up", None),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_of_images_and_masks(tmp_path, case):
    changes, settings, expected, note = FOLDERS[case]
    make.folder(tmp_path, **changes)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            read(tmp_path, **settings)
        return
    records, told, _ = read(tmp_path, **settings)
    assert list(records) == expected
    assert [note in line for line in told] == [True] if note else told == []
    for record in records.values():
        assert set(np.unique(read_map(record["segmentation_map"]))) >= {0, 1}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # `read` takes back what it set
def test_a_picture_of_more_megapixels_than_allowed_is_refused_and_read_when_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    make.folder(tmp_path)
    with pytest.raises(ValueError, match=r"a.jpg: it has more than \S+ megapixels; .* data.max_megapixels"):
        read(tmp_path, max_megapixels=HEIGHT * WIDTH / 2e6)
    records, told, _ = read(tmp_path, max_megapixels=HEIGHT * WIDTH / 1e6)
    assert list(records) == ["a"] and told == []


def test_an_imagefolder_of_datasets_is_read(tmp_path):
    for split, names in (("train", "ab"), ("test", "c")):
        for name in names:
            make.picture(tmp_path / split / f"{name}.jpg")
            make.mask(tmp_path / split / f"{name}_map.png")
        lines = [json.dumps({"file_name": f"{name}.jpg", "mask_file_name": f"{name}_map.png"}) for name in names]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines))
    (tmp_path / "classes.json").write_text(json.dumps({"0": "sky", "1": "road"}))
    assert sorted(splits_of(tmp_path)) == ["test", "train"]
    records, _, labels = read(tmp_path)
    assert list(records) == ["a", "b"] and labels.id2label == {0: "sky", 1: "road"}
    assert set(np.unique(read_map(records["b"]["segmentation_map"]))) == {0, 1}
    assert list(read(tmp_path, "test")[0]) == ["c"]


# Folders of tools whose own files are not read: (the files, what the line says)
OTHERS = {
    "labelme": ({"a.jpg": "", "a.json": {"shapes": [], "imagePath": "a.jpg"}}, "labelme's JSON files.* as COCO"),
    "supervisely": ({"meta.json": {}, "ds0/img/a.jpg": "", "ds0/ann/a.jpg.json": {}}, "Supervisely's.* as COCO"),
    "yolo": ({"data.yaml": "", "train/images/a.jpg": "", "train/labels/a.txt": "0 0.1"}, "YOLO's.* as COCO"),
}


def test_images_without_masks_are_told_what_they_are_good_for(tmp_path):
    make.picture(tmp_path / "a.jpg")
    make.picture(tmp_path / "more/b.jpg")
    with pytest.raises(ValueError, match="holds 2 images and no masks.*data.unlabelled="):
        read(tmp_path)


@pytest.mark.parametrize("case", OTHERS)
def test_files_of_tools_that_are_not_read_are_named(tmp_path, case):
    files, line = OTHERS[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=line):
        read(tmp_path)


def test_a_mask_of_lossless_webp_is_read(tmp_path):
    make.folder(tmp_path, masks=["a.webp"], lossless=True)
    assert set(np.unique(read_map(read(tmp_path)[0]["a"]["segmentation_map"]))) == {0, 1}


def test_a_pipe_is_no_file(tmp_path):
    make.folder(tmp_path)
    os.mkfifo(tmp_path / "train/images/b.jpg")
    os.mkfifo(tmp_path / "train/masks/b.png")
    assert list(read(tmp_path)[0]) == ["a"]
    make.instances(tmp_path / "coco")
    (tmp_path / "coco/train/a.png").unlink()
    os.mkfifo(tmp_path / "coco/train/a.png")
    with pytest.raises(ValueError, match=r"a\.png: it is no file, but a pipe"):
        read(tmp_path / "coco")


def test_voc_has_its_own_labels_and_its_border_is_void(tmp_path):
    make.voc(tmp_path, values=((0, 15, 255),), names=("a", "b"), listed=("b",))
    records, told, labels = read(tmp_path)
    assert splits_of(tmp_path) == ["train"] and list(records) == ["b"] and told == []
    assert labels.num_labels == 21 and labels.id2label[15] == "person"
    assert np.unique(read_map(records["b"]["segmentation_map"])).tolist() == [0, 15, 255]


def test_voc_in_colors_and_in_its_archives_folder(tmp_path):
    root = make.voc(tmp_path / "VOCdevkit/VOC2012", values=(((0, 0, 0), (192, 128, 128), (224, 224, 192)),))
    records, _, _ = read(tmp_path)
    assert np.unique(read_map(records["a"]["segmentation_map"])).tolist() == [0, 15, 255] and root.is_dir()


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncell wall:1,2,3:a,b:\n"


def test_cvats_masks_have_the_labels_of_their_labelmap(tmp_path):
    make.voc(tmp_path, LABELMAP, values=(((0, 0, 0), (1, 2, 3), (128, 64, 128)),))
    records, _, labels = read(tmp_path)
    assert labels.id2label == {0: "background", 1: "road", 2: "cell wall"}
    assert read_map(records["a"]["segmentation_map"])[0, [0, WIDTH // 2, WIDTH - 1]].tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"listed": ("a", "z")}, "z has no file in JPEGImages"),
        ({"labelmap": "road:red::\n"}, "the line 'road:red::' names no color"),
        ({"labelmap": LABELMAP, "values": (((0, 0, 0), (9, 8, 7)),)}, "colors that no class has, first"),
        ({"values": ((0, 99),)}, "label ids 99 are outside the label set"),
    ],
)
def test_voc_is_refused(tmp_path, changes, line):
    make.voc(tmp_path, **changes)
    with pytest.raises(ValueError, match=line):
        read(tmp_path)


@pytest.mark.parametrize(
    ("ending", "values"), [("_gtFine_labelIds", ((7, 23, 0, 26),)), ("_gtFine_labelTrainIds", ((0, 10, 255, 13),))]
)
def test_cityscapes_has_19_labels_and_the_rest_is_void(tmp_path, ending, values):
    make.cityscapes(tmp_path, ending, values)
    assert splits_of(tmp_path) == ["train"]
    records, told, labels = read(tmp_path)
    (record,) = records.values()
    assert list(records) == ["ulm/ulm_000000_000019"] and told == [] and labels.num_labels == 19
    assert read_map(record["segmentation_map"])[0, [0, 6, 12, 18]].tolist() == [0, 10, 255, 13]
    assert labels.id2label[13] == "car" and 13 in labels.things


def test_a_row_without_a_picture_is_one_line(tmp_path):
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    mask = Image.fromarray(np.zeros(SIZE, np.uint8))
    rows = {"image": [Image.new("RGB", SIZE[::-1])] * 2, "mask": [mask, None]}
    data = Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "mask": ImageFeature()}))
    data.save_to_disk(tmp_path / "data")
    (tmp_path / "data/id2label.json").write_text(json.dumps({"0": "sky", "1": "road"}))
    with pytest.raises(ValueError, match="record 00000001: the row holds no picture here"):
        read(tmp_path / "data")
