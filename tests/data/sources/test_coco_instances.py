"""COCO instances and panoptic columns as records: real small files, painted by hand for comparison."""

import json

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value, load_from_disk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PILImage
from pycocotools import mask as mask_utils

from seggen_hf.data.schema import encode_image, encode_panoptic, labels_of, read_image, read_map, read_panoptic
from seggen_hf.data.sources.instance_painter import rle_counts
from seggen_hf.data.sources.layout import splits_of
from seggen_hf.data.sources.load import load_records
from seggen_hf.segments import label_map, measure_segments

CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "debris"}]
SIZE = (20, 30)


def box(x, y, w, h):
    """A rectangle's polygon and its mask."""
    mask = np.zeros(SIZE, bool)
    mask[y : y + h, x : x + w] = True
    return [x, y, x + w, y, x + w, y + h, x, y + h], mask


def annotation(id, image, category, segmentation, **more):
    return {"id": id, "image_id": image, "category_id": category, "segmentation": segmentation} | more


def rle(mask):
    found = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return found | {"counts": found["counts"].decode()}


def counts(mask):
    """Uncompressed RLE: runs of 0 and 1 by turns, down the columns."""
    flat, runs, value = mask.flatten(order="F"), [], False
    position = 0
    while position < len(flat):
        end = position
        while end < len(flat) and flat[end] == value:
            end += 1
        runs.append(end - position)
        position, value = end, not value
    return {"size": list(mask.shape), "counts": runs}


def write(root, annotations, layout="coco", split="train", images=("b.png", "a.jpg"), categories=CATEGORIES):
    file, folder = {
        "coco": (f"annotations/instances_{split}2017.json", f"{split}2017"),
        "plain": (f"instances_{split}.json", f"images/{split}"),
        "exported": (f"{split}/_annotations.coco.json", split),
    }[layout]
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    listed = [{"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(images)]
    for name in images:
        PILImage.new("RGB", SIZE[::-1], (90, 40, 10)).save(root / folder / name)
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (root / file).write_text(json.dumps(content))
    return root


BIG, BIG_MASK = box(2, 2, 12, 10)
SMALL, SMALL_MASK = box(4, 4, 3, 3)
PART_A, MASK_A = box(20, 1, 4, 4)
PART_B, MASK_B = box(24, 12, 5, 6)
_, CROWD_MASK = box(0, 14, 14, 6)
ANNOTATIONS = [
    annotation(1, 0, 3, [SMALL]),
    annotation(2, 0, 3, [BIG]),
    annotation(3, 0, 7, [PART_A, PART_B]),
    annotation(4, 0, 3, counts(CROWD_MASK), iscrowd=1),
]


@pytest.mark.parametrize(("layout", "split"), [("coco", "train"), ("plain", "train"), ("exported", "valid")])
def test_instances_are_painted_small_over_large_and_the_rest_is_background(tmp_path, layout, split):
    root = write(tmp_path / "data", ANNOTATIONS, layout, split)
    assert splits_of(root) == [split.removesuffix("id")]
    records = load_records(root, split)
    labels = labels_of(records)
    assert labels.id2label == {0: "cell", 1: "debris", 2: "background"} and labels.things == [0, 1]
    assert records["image_id"][:] == ["a", "b"]
    empty, full = records
    assert (read_map(empty["segmentation_map"]) == 2).all() and len(empty["segments_info"]) == 1
    expected = np.full(SIZE, 2)
    for mask, label in ((CROWD_MASK, 0), (BIG_MASK, 0), (MASK_A, 1), (MASK_B, 1), (SMALL_MASK, 0)):
        expected[mask] = label
    assert np.array_equal(read_map(full["segmentation_map"]), expected)
    panoptic_map, segments = read_panoptic(full["panoptic_map"]), full["segments_info"]
    by_mask = {s["category_id"]: s for s in segments if s["category_id"] != 0}
    assert np.array_equal(panoptic_map == by_mask[1]["id"], MASK_A | MASK_B)
    cells = [s for s in segments if s["category_id"] == 0 and not s["iscrowd"]]
    assert sorted(s["area"] for s in cells) == [9, 120 - 9]
    (small,) = [s for s in cells if s["area"] == 9]
    assert small["bbox"] == [4, 4, 3, 3] and np.array_equal(panoptic_map == small["id"], SMALL_MASK)
    (crowd,) = [s for s in segments if s["iscrowd"]]
    assert np.array_equal(panoptic_map == crowd["id"], CROWD_MASK) and crowd["isthing"]
    assert segments == measure_segments(panoptic_map, segments)
    assert read_image(full["image"]).shape == (*SIZE, 3)


def test_the_three_forms_of_a_mask_are_one(tmp_path):
    _, mask = box(3, 5, 11, 7)
    forms = ([box(3, 5, 11, 7)[0]], rle(mask), counts(mask))
    found = []
    for place, form in enumerate(forms):
        record = load_records(write(tmp_path / str(place), [annotation(1, 0, 3, form)], images=["a.png"]))[0]
        found.append(read_panoptic(record["panoptic_map"]))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    assert np.array_equal(found[0] == 1, mask)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (annotation(9, 0, 5, [BIG]), "annotation 9 has category 5"),
        (annotation(9, 77, 3, [BIG]), "annotation 9 is of image 77"),
    ],
)
def test_what_is_broken_is_named(tmp_path, wrong, told):
    with pytest.raises(ValueError, match=f"broken of .* records(.|\n)*{told}"):
        load_records(write(tmp_path / "data", [*ANNOTATIONS, wrong]))


NAN, FAR_AWAY = [[float("nan"), 5, 25, 5, 25, 15]], [[1e9, 5, 25, 5, 25, 15]]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([], "have no segmentation"),
        (None, "have no segmentation"),
        ("none", "neither polygons nor an RLE"),
        ([[1, 2, 3, 4]], "cover no pixel"),
        ([[40, 2, 50, 2, 50, 9]], "cover no pixel"),
        ([[1, 2, 30, 2, 9, 9, 4]], "an x without a y"),
        ([[1, 2, "30", 2, 9, 9]], "no number"),
        (NAN, "NaN or infinite"),
        (FAR_AWAY, "far outside"),
        (counts(np.ones((4, 4), bool)), "size of their RLE"),
        ({"size": list(SIZE), "counts": [10, 50]}, "do not add up"),
        ({"size": list(SIZE), "counts": [700, -100]}, "do not add up"),
        ({"size": list(SIZE), "counts": [1e300, 5]}, "no whole numbers"),
        ({"size": list(SIZE), "counts": "04"}, "do not add up"),
        ({"size": list(SIZE), "counts": "PPPPPPPPPPPPPPPP0"}, "text of their RLE"),
        ({"size": list(SIZE), "counts": "\x7f\x01"}, "text of their RLE"),
        ({"size": list(SIZE), "counts": None}, "no whole numbers"),
    ],
)
def test_an_annotation_without_a_mask_is_passed_over_with_its_reason(tmp_path, shape, reason):
    """What is in its box and in no other mask is void; if it shows nothing, it changes nothing."""
    wrong = annotation(9, 0, 3, shape) | {"bbox": [20, 10, 6.5, 5]}
    with pytest.warns(
        UserWarning, match=rf"1 annotations are passed over: .*{reason}.*, first annotation 9 of b\.png"
    ):
        records = load_records(write(tmp_path / "data", [*ANNOTATIONS, wrong]))
    whole = load_records(write(tmp_path / "whole", ANNOTATIONS))
    found, expected = (read_map(rows[1]["segmentation_map"]) for rows in (records, whole))  # of b.png
    if "no pixel" not in reason:
        boxed = np.zeros(SIZE, bool)
        boxed[10:15, 20:27] = True
        expected = np.where(boxed & (expected == 2), 255, expected)
        assert (expected == 255).any()
    assert np.array_equal(found, expected)


def test_of_several_polygons_the_whole_ones_count(tmp_path):
    polygon, mask = box(3, 5, 11, 7)
    for place, form in enumerate(([polygon, [3, 3, 9, 9]], polygon)):
        records = load_records(write(tmp_path / str(place), [annotation(1, 0, 3, form)], images=["a.png"]))
        assert np.array_equal(read_panoptic(records[0]["panoptic_map"]) == 1, mask)


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_the_counts_of_an_rle_are_those_of_pycocotools(mask):
    encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    expected = np.diff([0, *changes, flat.size])
    expected = [0, *expected] if flat[0] else list(expected)
    assert rle_counts(encoded["counts"]).tolist() == expected


def test_missing_and_resized_images_are_named(tmp_path):
    root = write(tmp_path / "data", ANNOTATIONS)
    (root / "train2017" / "a.jpg").unlink()
    PILImage.new("RGB", (8, 8)).save(root / "train2017" / "b.png")
    with pytest.raises(
        ValueError, match="b.png: the JSON declares 20 x 30 .* file is 8 x 8(.|\n)*a.jpg: the file is missing"
    ):
        load_records(root)
    (root / "annotations" / "instances_train2017.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="is not a COCO instances JSON"):
        load_records(root)


def test_a_changed_file_is_painted_anew_and_a_named_background_is_stuff(tmp_path):
    categories = [*CATEGORIES, {"id": 1, "name": "background"}]
    root = write(tmp_path / "data", ANNOTATIONS[:1], categories=categories)
    first = load_records(root)
    assert labels_of(first).id2label == {0: "background", 1: "cell", 2: "debris"}
    assert labels_of(first).things == [1, 2] and len(first[1]["segments_info"]) == 2
    write(tmp_path / "data", ANNOTATIONS[:3], categories=categories)
    assert len(load_records(root)[1]["segments_info"]) == 4
    assert len(load_records(root, max_records=1)) == 1


def test_labels_of_the_user_are_matched_by_name(tmp_path):
    root = write(tmp_path / "data", ANNOTATIONS)
    wanted = [{"id": 0, "name": "background"}, {"id": 1, "name": "debris", "isthing": 1}]
    records = load_records(root, labels=[*wanted, {"id": 2, "name": "cell", "isthing": 1}])
    assert set(np.unique(read_map(records[1]["segmentation_map"]))) == {0, 1, 2}
    with pytest.raises(ValueError, match="lacks 1 categories"):
        load_records(root, labels=wanted)
    as_thing = [entry | {"isthing": 1} for entry in (*wanted, {"id": 2, "name": "cell"})]
    with pytest.raises(ValueError, match="is a thing"):
        load_records(root, labels=as_thing)


def test_records_with_segments_are_kept_when_saved(tmp_path):
    records = load_records(write(tmp_path / "data", ANNOTATIONS))
    records.save_to_disk(tmp_path / "saved")
    again = load_records(tmp_path / "saved")
    assert again["segments_info"][:] == records["segments_info"][:]
    assert np.array_equal(read_panoptic(again[1]["panoptic_map"]), read_panoptic(records[1]["panoptic_map"]))
    assert labels_of(again) == labels_of(records) and load_from_disk(tmp_path / "saved").features == records.features


def test_a_panoptic_column_alone_is_enough(tmp_path):
    """Segments without measures and flags, and category ids with gaps: what data sets on the Hub have."""
    panoptic_map = np.zeros(SIZE, np.int32)
    panoptic_map[:, :10], panoptic_map[:, 10:12], panoptic_map[5:9, 20:25] = 300, 70_000, 2
    features = Features(
        {
            "image": Image(),
            "panoptic": Image(),
            "segments_info": [{"id": Value("int64"), "category_id": Value("int64")}],
        }
    )
    row = {
        "image": encode_image(np.zeros((*SIZE, 3), np.uint8)),
        "panoptic": encode_panoptic(panoptic_map),
        "segments_info": [
            {"id": 300, "category_id": 12},
            {"id": 70_000, "category_id": 40},
            {"id": 2, "category_id": 40},
        ],
    }
    Dataset.from_list([row], features=features).save_to_disk(tmp_path / "saved")
    labels = [{"id": 12, "name": "grass"}, {"id": 40, "name": "cow", "isthing": 1}]
    (record,) = load_records(tmp_path / "saved", labels={"categories": labels})
    assert np.array_equal(read_panoptic(record["panoptic_map"]), panoptic_map)
    assert [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in record["segments_info"]] == [
        (300, 0, False, 200),
        (70_000, 1, True, 40),
        (2, 1, True, 20),
    ]
    assert np.array_equal(read_map(record["segmentation_map"]), label_map(panoptic_map, record["segments_info"], 255))
    with pytest.raises(ValueError, match="has category 40, which is no label"):
        load_records(tmp_path / "saved", labels={"categories": labels[:1]})


def test_real_nuclei_written_as_instances_are_the_same(shared_data_dir, tmp_path):
    real = load_records(shared_data_dir / "nuclei", "val", max_records=3)
    folder = tmp_path / "data" / "val"
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number, record in enumerate(real):
        image, panoptic_map = read_image(record["image"]), read_panoptic(record["panoptic_map"])
        PILImage.fromarray(image).save(folder / f"{record['image_id']}.png")
        height, width = panoptic_map.shape
        images.append({"id": number, "file_name": f"{record['image_id']}.png", "height": height, "width": width})
        for segment in record["segments_info"]:
            if segment["isthing"]:
                mask = rle(panoptic_map == segment["id"])
                annotations.append(annotation(len(annotations), number, 1, mask))
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "nucleus"}]}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    for record, expected in zip(load_records(tmp_path / "data", "val"), real, strict=True):
        assert record["image_id"] == expected["image_id"]
        found, true = read_panoptic(record["panoptic_map"]), read_panoptic(expected["panoptic_map"])
        pairs = np.unique(np.stack([found.ravel(), true.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(found)) == len(np.unique(true))  # one to one
        labels = read_map(record["segmentation_map"])
        assert np.array_equal(labels == 0, read_map(expected["segmentation_map"]) == 1)
