"""What people's files look like, one row a case: the value that is read, or the line that the user sees."""

import numpy as np
import pytest
import real_files as make
from real_files import NAN, SIZE, SQUARE, annotation, category, entry, read

from seggen_hf.data.schema import read_map
from seggen_hf.data.sources.layout import splits_of

HEIGHT, WIDTH = SIZE


def has_square(record) -> bool:
    """Whether label 0 is where SQUARE is, and background around it."""
    expected = np.ones(SIZE, int)
    expected[2:10, 2:10] = 0
    return np.array_equal(read_map(record["segmentation_map"]), expected)


# COCO instances that are read: (what differs, ids of the records, a note or None)
READ = {
    "plain": ({}, ["a"], None),
    "image-id-text": ({"images": [entry("0")]}, ["a"], None),
    "image-id-float": ({"images": [entry(0.0)]}, ["a"], None),
    "annotation-of-text-id": ({"annotations": [annotation(image="0")]}, ["a"], None),
    "image-id-words": ({"images": [entry("scan-7")], "annotations": [annotation(image="scan-7")]}, ["a"], None),
    "category-id-text": (
        {"categories": [{"id": "1", "name": "cell"}], "annotations": [annotation(category="1")]}, ["a"], None,
    ),
    "category-id-text-in-one-place": ({"annotations": [annotation(category="1")]}, ["a"], None),
    "category-id-huge": (
        {"categories": [{"id": 2_000_000_000, "name": "cell"}], "annotations": [annotation(category=2_000_000_000)]},
        ["a"], None,
    ),
    "name-with-its-folder": ({"images": [entry(name="train/a.png")]}, ["a"], None),
    "name-with-another-folder": ({"images": [entry(name="upload/7/a.png")]}, ["a"], None),
    "name-with-backslashes": ({"images": [entry(name="C:\\data\\train\\a.png")]}, ["a"], None),
    "name-of-another-machine": ({"images": [entry(name="/mnt/data/set/a.png")]}, ["a"], None),
    "name-with-a-dot": ({"images": [entry(name="./a.png")]}, ["a"], None),
    "name-below-a-folder": ({"images": [entry(name="x/a.png")], "files": ["x/a.png"]}, ["x/a"], None),
    "two-suffixes": (
        {
            "images": [entry(0, "a.png"), entry(1, "a.jpg")],
            "annotations": [annotation(1, 0), annotation(2, 1)],
            "files": ["a.png", "a.jpg"],
        },
        ["a.jpg", "a.png"], None,
    ),
    "no-height": ({"images": [entry(height=None)]}, ["a"], "have no size"),
    "no-width": ({"images": [entry(width=None)]}, ["a"], "have no size"),
    "zero-size": ({"images": [entry(height=0, width=0)]}, ["a"], "have no size"),
    "negative-size": ({"images": [entry(height=-4)]}, ["a"], "have no size"),
    "size-as-text": ({"images": [entry(height=str(HEIGHT), width=str(WIDTH))]}, ["a"], None),
    "size-swapped": ({"images": [entry(height=WIDTH, width=HEIGHT)]}, ["a"], "in each other's place"),
    "flat-polygon": ({"annotations": [annotation(segmentation=SQUARE[0])]}, ["a"], None),
    "good-and-sliver": ({"annotations": [annotation(segmentation=[*SQUARE, [3, 3, 9, 9]])]}, ["a"], None),
    "good-and-empty-part": ({"annotations": [annotation(segmentation=[*SQUARE, []])]}, ["a"], None),
    "polygon-partly-outside": (
        {"annotations": [annotation(), annotation(2, segmentation=[[-9, -9, -2, -9, -2, -2, -9, -2]])]},
        ["a"], "1 annotations are passed over: they cover no pixel",
    ),
    "no-iscrowd": ({"annotations": [{k: v for k, v in annotation().items() if k != "iscrowd"}]}, ["a"], None),
    "iscrowd-null": ({"annotations": [annotation(iscrowd=None)]}, ["a"], None),
    "area-nan": ({"annotations": [annotation(area=NAN, bbox=[NAN] * 4)]}, ["a"], None),
    "root-category": (
        {"categories": [category(0, "things", "none"), category(1, "cell", "things")]},
        ["a"], "'things' (id 0) is the root of the others",
    ),
    "root-named-like-its-class": (
        {"categories": [category(0, "cell", "none"), category(1, "cell", "cell")]},
        ["a"], "'cell' (id 0) is the root of the others",
    ),
    "box-only": (
        {"annotations": [annotation(), annotation(2, segmentation=[], bbox=[3, 3, 2, 2])]},
        ["a"], "1 annotations are passed over: they have no segmentation, first annotation 2 of a.png",
    ),
    "no-segmentation-key": (
        {"annotations": [annotation(), {"id": 2, "image_id": 0, "category_id": 1, "bbox": [3, 3, 2, 2]}]},
        ["a"], "they have no segmentation",
    ),
    "bad-box": (
        {"annotations": [annotation(), annotation(2, segmentation=None, bbox=["x", NAN, None, -1])]},
        ["a"], "they have no segmentation",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_coco_instances_are_read(tmp_path, case):
    changes, ids, note = READ[case]
    make.instances(tmp_path, **changes)
    records, told, labels = read(tmp_path)
    assert list(records) == ids and labels.id2label == {0: "cell", 1: "background"}
    assert all(has_square(record) for record in records.values())
    assert [note in line for line in told] == [True] if note else told == []


# COCO instances that are refused: (what differs, what the line says)
REFUSED = {
    "image-id-twice": (
        {"images": [entry(0, "a.png"), entry(0, "b.png")], "files": ["a.png", "b.png"]},
        "image id 0 is given 2 times, to a.png, b.png",
    ),
    "name-too-long-for-a-file-system": ({"images": [entry(name="x" * 3000)]}, "too long for the file system"),
    "image-listed-twice": ({"images": [entry(0), entry(1)]}, "a.png is listed 2 times, as images 0, 1"),
    "two-names-of-one-file": ({"images": [entry(0), entry(1, "./a.png")]}, "and .* are the same file"),
    "no-file-name": ({"images": [entry(name=None)]}, "lacks a file_name"),
    "no-image-id": ({"images": [entry(None)]}, "lacks an id"),
    "file-missing": ({"images": [entry(name="b.png")]}, "b.png: the file is missing"),
    "ambiguous-name": (
        {"images": [entry(0, "x/a.png"), entry(1, "y/a.png")]}, "x/a.png: the file is missing",
    ),
    "size-of-another-picture": ({"images": [entry(height=99)]}, "declares 99 x 24 .* the file is 16 x 24"),
    "size-absurd": ({"images": [entry(height=10**6, width=10**6)]}, "declares 1000000 x 1000000"),
    "size-and-file-missing": ({"images": [entry(name="b.png", height=None)]}, "declares no size, and the file cannot"),
    "category-unlisted": ({"annotations": [annotation(category=5)]}, "annotation 1 has category 5, not listed"),
    "category-null": ({"annotations": [annotation(category=None)]}, "annotation 1 has category None, not listed"),
    "category-id-words": ({"categories": [{"id": "cell", "name": "cell"}]}, "must be a whole number"),
    "category-without-id": ({"categories": [{"name": "cell"}]}, "must be a whole number"),
    "category-twice": ({"categories": [{"id": 1, "name": "cell"}, {"id": 1, "name": "nerve"}]}, "id"),
    "image-unlisted": ({"annotations": [annotation(image=9)]}, "is of image 9, which is not listed"),
    "image-entry-is-text": ({"images": ["a.png"]}, "images is no list of entries"),
    "annotations-null": ({"annotations": "none"}, "annotations is no list of entries"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_coco_instances_are_refused(tmp_path, case):
    changes, line = REFUSED[case]
    make.instances(tmp_path, **changes)
    with pytest.raises(ValueError, match=line):
        read(tmp_path)


# Of two annotations the second has no mask: what it holds, and why it is passed over.
PASSED_OVER = {
    "polygon-nan": ([[NAN, 5, 9, 5, 9, 9]], "NaN or infinite"),
    "polygon-infinite": ([[float("inf"), 5, 9, 5, 9, 9]], "NaN or infinite"),
    "polygon-far": ([[1e12, 5, 9, 5, 9, 9]], "far outside"),
    "polygon-far-negative": ([[-1e12, 5, 9, 5, 9, 9]], "far outside"),
    "polygon-odd": ([[1, 2, 9, 2, 9, 9, 4]], "x without a y"),
    "polygon-of-text": ([["1", 2, 9, 2, 9, 9]], "no number"),
    "polygon-of-null": ([[None, 2, 9, 2, 9, 9]], "no number"),
    "polygon-of-points": ([[[1, 2], [9, 2], [9, 9]]], "no number"),
    "two-points": ([[1, 2, 9, 9]], "cover no pixel"),
    "outside": ([[40, 2, 50, 2, 50, 9]], "cover no pixel"),
    "empty": ([], "no segmentation"),
    "null": (None, "no segmentation"),
    "text": ("polygon", "neither polygons nor an RLE"),
    "number": (7, "neither polygons nor an RLE"),
    "rle-short": ({"size": list(SIZE), "counts": [10, 50]}, "do not add up"),
    "rle-long": ({"size": list(SIZE), "counts": [10, 5000]}, "do not add up"),
    "rle-negative": ({"size": list(SIZE), "counts": [HEIGHT * WIDTH + 5, -5]}, "do not add up"),
    "rle-floats": ({"size": list(SIZE), "counts": [10.5, 373.5]}, "no whole numbers"),
    "rle-nan": ({"size": list(SIZE), "counts": [NAN]}, "no whole numbers"),
    "rle-huge": ({"size": list(SIZE), "counts": [10**30]}, "do not add up"),
    "rle-other-size": ({"size": [4, 4], "counts": [16]}, "size of their RLE"),
    "rle-swapped-size": ({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, "size of their RLE"),
    "rle-no-size": ({"counts": [HEIGHT * WIDTH]}, "size of their RLE"),
    "rle-no-counts": ({"size": list(SIZE)}, "no whole numbers"),
    "rle-text-short": ({"size": list(SIZE), "counts": "04"}, "do not add up"),
    "rle-text-broken": ({"size": list(SIZE), "counts": "0PPP"}, "text of their RLE"),
    "rle-text-garbage": ({"size": list(SIZE), "counts": "\u00fc\x01"}, "text of their RLE"),
    "rle-text-empty": ({"size": list(SIZE), "counts": ""}, "text of their RLE"),
    "rle-empty-mask": ({"size": list(SIZE), "counts": [HEIGHT * WIDTH]}, "cover no pixel"),
}


@pytest.mark.parametrize("case", PASSED_OVER)
def test_an_annotation_is_passed_over_and_its_image_stays(tmp_path, case):
    segmentation, reason = PASSED_OVER[case]
    make.instances(tmp_path, annotations=[annotation(), annotation(2, segmentation=segmentation)])
    records, (line,), _ = read(tmp_path)
    assert has_square(records["a"]) and "1 annotations are passed over: " in line and reason in line


def test_what_is_in_the_box_of_a_mask_that_cannot_be_read_is_void(tmp_path):
    make.instances(tmp_path, annotations=[annotation(), annotation(2, segmentation=None, bbox=[8, 8, 4.5, 4])])
    expected = np.ones(SIZE, int)
    expected[8:12, 8:13] = 255
    expected[2:10, 2:10] = 0
    records, _, _ = read(tmp_path)
    assert np.array_equal(read_map(records["a"]["segmentation_map"]), expected)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is not a COCO instances JSON"),
        ("{", "is not a COCO instances JSON"),
        ("[]", "is not a COCO instances JSON"),
        ("{}", "is not a COCO instances JSON"),
        ('{"images": [], "annotations": []}', "KeyError"),
        ("[" * 100_000, "is not a COCO instances JSON"),
        ('{"images": null, "annotations": [], "categories": []}', "images is no list of entries"),
    ],
)
def test_a_json_that_is_none_is_told(tmp_path, text, line):
    make.instances(tmp_path).write_text(text)
    with pytest.raises(ValueError, match=line):
        read(tmp_path)


def test_a_byte_order_mark_is_read_over(tmp_path):
    for file in (make.instances(tmp_path / "instances"), make.panoptic(tmp_path / "panoptic")):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert has_square(read(tmp_path / "instances")[0]["a"]) and list(read(tmp_path / "panoptic")[0]) == ["0"]


@pytest.mark.parametrize("name", ["result.json", "annotations.json", "annotations/instances.json"])
def test_a_single_json_beside_its_images_is_the_split_train(tmp_path, name):
    file = make.instances(tmp_path / "export", split="images", images=[entry(name="images/a.png")])
    (tmp_path / "export" / name).parent.mkdir(exist_ok=True)
    file.rename(tmp_path / "export" / name)
    assert splits_of(tmp_path / "export") == ["train"]
    assert has_square(read(tmp_path / "export")[0]["a"])


def test_splits_that_number_their_categories_anew_have_one_label_set(tmp_path):
    both = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    swapped = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    make.instances(tmp_path, categories=both)
    make.instances(tmp_path, categories=swapped, annotations=[annotation(category=2)], split="valid")
    make.instances(tmp_path, categories=swapped[1:], annotations=[annotation(category=2)], split="test")
    for split in ("train", "val", "test"):
        records, told, labels = read(tmp_path, split)
        assert labels.id2label == {0: "cat", 1: "dog", 2: "background"}
        assert set(np.unique(read_map(records["a"]["segmentation_map"]))) == {0, 2}
        assert ["matched by name" in line for line in told] == ([] if split == "train" else [True])


def test_a_split_with_more_categories_than_train_is_refused(tmp_path):
    make.instances(tmp_path)
    make.instances(tmp_path, categories=[{"id": 1, "name": "cell"}, {"id": 2, "name": "nerve"}], split="valid")
    for split in ("train", "val"):
        with pytest.raises(ValueError, match="has 1 categories that .* lacks, first 'nerve'"):
            read(tmp_path, split)
    records, _, labels = read(tmp_path, labels={0: "cell", 1: "nerve", 2: "background"})
    assert labels.num_labels == 3 and list(records) == ["a"]


# COCO panoptic: (what differs, the line, or None where it is read)
PANOPTIC = {
    "plain": ({}, None),
    "ids-as-text": ({"segments": [{"id": "5", "category_id": "1"}, {"id": "9", "category_id": 7}]}, None),
    "area-nan": (
        {"segments": [{"id": 5, "category_id": 1, "area": NAN}, {"id": 9, "category_id": 7, "bbox": None}]}, None,
    ),
    "segment-without-pixels": (
        {"segments": [{"id": 5, "category_id": 1}, {"id": 9, "category_id": 7}, {"id": 77, "category_id": 7}]}, None,
    ),
    "no-segments-info": ({"annotations": [{"image_id": 0, "file_name": "0.png"}]}, "0.png: no segments_info"),
    "segments-info-null": (
        {"annotations": [{"image_id": 0, "file_name": "0.png", "segments_info": None}]}, "no segments_info",
    ),
    "segments-info-text": ({"segments": ["5"]}, "no segments_info"),
    "id-twice": ({"segments": [{"id": 5, "category_id": 1}, {"id": 5, "category_id": 7}]}, "lists the id 5 twice"),
    "id-zero": ({"segments": [{"id": 0, "category_id": 7}]}, "a segment has the id 0"),
    "id-negative": ({"segments": [{"id": -5, "category_id": 7}]}, "a segment has the id -5"),
    "id-huge": ({"segments": [{"id": 2**70, "category_id": 7}]}, "a segment has the id 1180591620717411303424"),
    "id-null": ({"segments": [{"id": None, "category_id": 7}]}, "a segment has the id None"),
    "id-not-listed": ({"segments": [{"id": 5, "category_id": 1}]}, "segment ids 9 are not in the JSON's segments"),
    "category-unlisted": ({"segments": [{"id": 5, "category_id": 3}]}, r"no category \[3\]"),
    "category-missing": ({"segments": [{"id": 5}]}, r"no category \[None\]"),
    "image-annotated-twice": (
        {"annotations": [{"image_id": 0, "file_name": name, "segments_info": []} for name in ("0.png", "1.png")]},
        "0.jpg: 2 annotations in .*, 0.png and more",
    ),
    "annotation-without-file": ({"annotations": [{"image_id": 0, "segments_info": []}]}, "lacks a file_name"),
    "annotation-of-no-image": (
        {"annotations": [{"image_id": 4, "file_name": "0.png", "segments_info": []}]}, "is of image 4, which is not",
    ),
    "png-missing": (
        {"annotations": [{"image_id": 0, "file_name": "7.png", "segments_info": []}]}, "7.png: the file is missing",
    ),
    "no-annotation": ({"annotations": []}, "0.jpg: no annotation"),
}  # fmt: skip


@pytest.mark.parametrize("case", PANOPTIC)
def test_coco_panoptic(tmp_path, case):
    changes, line = PANOPTIC[case]
    make.panoptic(tmp_path, **changes)
    if line:
        with pytest.raises(ValueError, match=line):
            read(tmp_path)
        return
    records, told, labels = read(tmp_path)
    found = read_map(records["0"]["segmentation_map"])
    assert told == [] and (found[:, : WIDTH // 2] == 0).all() and (found[:, WIDTH // 2 :] == 1).all()
    assert [s["area"] for s in records["0"]["segments_info"]] == [HEIGHT * WIDTH // 2] * 2
