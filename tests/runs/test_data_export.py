"""Synthetic data in the formats of others is what it was, read by our own readers and by pycocotools."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from typer.testing import CliRunner

from seggen_hf import load_synthetic
from seggen_hf.cli import app
from seggen_hf.data.scenes.records import scene_records
from seggen_hf.data.schema import labels_of, load_saved, read_image, read_map, read_panoptic
from seggen_hf.data.sources.load import load_records
from seggen_hf.demo.decisions import Decisions
from seggen_hf.demo.drawing import Drawing
from seggen_hf.labels import LabelSet
from seggen_hf.pipelines import ColormapCodec


def export(*words):
    return CliRunner().invoke(app, ["export", *map(str, words)])


@pytest.mark.parametrize("format", ["folder", "voc", "ultralytics", "cityscapes"])
@pytest.mark.parametrize("with_real", [False, True])
def test_labels_are_read_back(tiny_run, tmp_path, format, with_real):
    words = ["--format", format, "--json", *(["--with-real"] if with_real else [])]
    done = export(tiny_run, tmp_path / "out", *words)
    assert done.exit_code == 0, done.output
    made, real = load_synthetic(tiny_run / "synthetic"), load_saved(tiny_run / "captions")
    assert json.loads(done.stdout)["records"] == len(made) + with_real * len(real)
    records = load_records(tmp_path / "out", "train")
    found = {record["image_id"].rsplit("/", 1)[-1]: record for record in records}  # Cityscapes names a city before it
    assert labels_of(records).id2label == labels_of(made).id2label
    expected = [*made, *(real if with_real else [])]
    assert len(found) == len(expected)
    for record in expected:
        same = found[record["image_id"]]
        assert np.array_equal(read_map(same["segmentation_map"]), read_map(record["segmentation_map"]))
        assert np.array_equal(read_image(same["image"]), read_image(record["image"]))


def keep(folder, records, labels):
    """The folder of a synthesis whose samples have segments: what the demo makes of `records`."""
    kept = Decisions(folder, labels, panoptic=True)
    for record in records:
        categories = {segment["id"]: segment["category_id"] for segment in record["segments_info"]}
        drawing = Drawing(read_panoptic(record["panoptic_map"]), ColormapCodec(labels), categories)
        kept.save(record["image_id"], "keep", record["image"], drawing, record["caption"], 0, {}, False)
    return folder


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    """The folder of a synthesis with segments, and the records that it holds."""
    records = scene_records("train", num_records=4)
    return keep(tmp_path_factory.mktemp("segments") / "kept", records, labels_of(records)), records


def things_of(record, things):
    """Segments of a record and their masks."""
    ids = read_panoptic(record["panoptic_map"])
    return [(s, ids == s["id"]) for s in record["segments_info"] if s["category_id"] in things]


def test_instances_are_read_back_by_pycocotools_and_by_us(segments, tmp_path):
    folder, records = segments
    assert export(folder, tmp_path / "coco", "--format", "coco").exit_code == 0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco/annotations/instances_train.json"))
    names = {image["file_name"].rsplit(".", 1)[0]: number for number, image in coco.imgs.items()}
    things = set(labels_of(records).things)
    assert {category["id"] for category in coco.cats.values()} == things
    for record in records:
        annotations = coco.loadAnns(coco.getAnnIds(names[record["image_id"]]))
        for annotation, (_, mask) in zip(annotations, things_of(record, things), strict=True):
            assert np.array_equal(coco.annToMask(annotation) > 0, mask)
    assert export(folder, tmp_path / "panoptic", "--format", "coco-panoptic").exit_code == 0
    back = {record["image_id"]: record for record in load_records(tmp_path / "panoptic", "train")}
    for record in records:
        assert np.array_equal(
            read_panoptic(back[record["image_id"]]["panoptic_map"]), read_panoptic(record["panoptic_map"])
        )


def test_polygons_for_ultralytics_are_the_instances(segments, tmp_path):
    folder, records = segments
    assert export(folder, tmp_path / "out", "--format", "ultralytics").exit_code == 0
    labels = labels_of(records)
    yolo = {task: yaml.safe_load((tmp_path / f"out/{task}.yaml").read_text()) for task in ("segment", "semantic")}
    assert yolo["segment"]["names"] == dict(enumerate(labels.id2label[thing] for thing in labels.things))
    assert yolo["semantic"]["names"] == labels.id2label and yolo["semantic"]["masks_dir"] == "masks"
    images = tmp_path / "out" / yolo["segment"]["train"]
    for record in records:
        (image,) = images.glob(f"{record['image_id']}.*")
        lines = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt").read_text().splitlines()
        for line, (segment, mask) in zip(lines, things_of(record, labels.things), strict=True):
            number, *shares = line.split()
            assert labels.things[int(number)] == segment["category_id"]
            points = np.array(shares, float).reshape(-1, 2) * mask.shape[::-1]
            assert np.array_equal(
                mask_utils.decode(mask_utils.frPyObjects([points.ravel().tolist()], *mask.shape)[0]), mask
            )
    back = {record["image_id"]: record for record in load_records(tmp_path / "out", "train")}
    for record in records:
        masks = [read_map(each["segmentation_map"]) for each in (record, back[record["image_id"]])]
        assert np.array_equal(*masks)


@pytest.mark.parametrize("is_cityscapes", [False, True])
def test_instance_ids_of_cityscapes_are_a_thousand_times_the_id_and_a_number(segments, tmp_path, is_cityscapes):
    folder, records = segments
    labels = labels_of(records)
    if is_cityscapes:  # a set of its 19 names has its ids
        labels = LabelSet.builtin("cityscapes")
        folder = keep(tmp_path / "kept", records, labels)
    done = export(folder, tmp_path / "out", "--format", "cityscapes")
    assert done.exit_code == 0, done.output
    ids = labels.source_ids if is_cityscapes else range(1, labels.num_labels + 1)
    for record in records:
        stem = tmp_path / "out/gtFine/train/masksyn" / f"{record['image_id']}_gtFine"
        maps = {
            name: np.array(Image.open(f"{stem}_{name}.png")) for name in ("labelIds", "instanceIds", "labelTrainIds")
        }
        expected = read_map(record["segmentation_map"])
        known = expected != 255
        assert np.array_equal(maps["labelTrainIds"], expected) and (maps["labelIds"][~known] == 0).all()
        assert np.array_equal(maps["labelIds"][known], np.array(ids)[expected[known]])
        numbers = maps["instanceIds"]
        assert np.array_equal(np.where(numbers >= 1000, numbers // 1000, numbers), maps["labelIds"])
        found = {number: numbers == number for number in np.unique(numbers[numbers >= 1000])}
        masks = [mask for _, mask in things_of(record, labels.things)]
        assert len(found) == len(masks)
        assert all(any(np.array_equal(mask, other) for other in found.values()) for mask in masks)
    back = load_records(tmp_path / "out", "train")
    assert labels_of(back).id2label == labels.id2label and labels_of(back).things == labels.things
    found = {record["image_id"]: read_map(record["segmentation_map"]) for record in back}
    assert all(
        np.array_equal(found[f"masksyn/{record['image_id']}"], read_map(record["segmentation_map"]))
        for record in records
    )


def test_samples_of_fiftyone_hold_all_that_a_record_says(segments, tmp_path):
    folder, records = segments
    assert export(folder, tmp_path / "out", "--format", "fiftyone").exit_code == 0
    labels = labels_of(records)
    info = json.loads((tmp_path / "out/metadata.json").read_text())["info"]
    assert info["default_mask_targets"] == {str(label + 1): name for label, name in labels.id2label.items()}
    samples = json.loads((tmp_path / "out/samples.json").read_text())["samples"]
    for sample, record in zip(samples, records, strict=True):
        assert (sample["image_id"], sample["caption"]) == (record["image_id"], record["caption"])
        assert sample["tags"] == ["masksyn"]
        assert np.array_equal(
            read_image(Image.open(tmp_path / "out" / sample["filepath"])), read_image(record["image"])
        )
        shown = np.array(Image.open(tmp_path / "out" / sample["segmentation"]["mask_path"])).astype(int)
        expected = read_map(record["segmentation_map"])
        assert np.array_equal(shown, np.where(expected == 255, 0, expected + 1))
        things = things_of(record, labels.things)
        for detection, (segment, mask) in zip(sample["instances"]["detections"], things, strict=True):
            assert detection["label"] == labels.id2label[segment["category_id"]]
            box = np.array(detection["bounding_box"]).reshape(2, 2) * mask.shape[::-1]
            x, y, width, height = np.round(box).astype(int).ravel()
            pasted = np.zeros_like(mask)
            pasted[y : y + height, x : x + width] = np.array(Image.open(tmp_path / "out" / detection["mask_path"])) > 0
            assert np.array_equal(pasted, mask)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["RUN", "OUT", "--format", "coco"], "tells segments, and these records have labels alone"),
        (["RUN/synthetic", "OUT", "--format", "voc", "--with-real"], "is no run"),
        (["RUN", "RUN", "--format", "voc"], "exists; name a new folder"),
        (["RUN/captions", "OUT", "--format", "voc"], "captions"),
    ],
)
def test_what_cannot_be_exported_is_told(tiny_run, tmp_path, words, told):
    places = {"RUN": str(tiny_run), "OUT": str(tmp_path / "out")}
    done = export(*[place.replace("RUN", places["RUN"]).replace("OUT", places["OUT"]) for place in words])
    assert done.exit_code == 1 and told in done.stderr, done.output
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
