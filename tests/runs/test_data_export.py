"""Synthetic data in the formats of others is what it was, read by our own readers and by pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from typer.testing import CliRunner

from seggen_hf import load_synthetic
from seggen_hf.cli import app
from seggen_hf.data.schema import labels_of, load_saved, read_image, read_map, read_panoptic
from seggen_hf.data.sources.load import load_records


def export(*words):
    return CliRunner().invoke(app, ["export", *map(str, words)])


@pytest.mark.parametrize("format", ["folder", "voc"])
@pytest.mark.parametrize("with_real", [False, True])
def test_labels_are_read_back(tiny_run, tmp_path, format, with_real):
    words = ["--format", format, "--json", *(["--with-real"] if with_real else [])]
    done = export(tiny_run, tmp_path / "out", *words)
    assert done.exit_code == 0, done.output
    made, real = load_synthetic(tiny_run / "synthetic"), load_saved(tiny_run / "captions")
    assert json.loads(done.stdout)["records"] == len(made) + with_real * len(real)
    found = {record["image_id"]: record for record in load_records(tmp_path / "out", "train")}
    assert labels_of(load_records(tmp_path / "out", "train")).id2label == labels_of(made).id2label
    expected = [*made, *(real if with_real else [])]
    assert len(found) == len(expected)
    for record in expected:
        same = found[record["image_id"]]
        assert np.array_equal(read_map(same["segmentation_map"]), read_map(record["segmentation_map"]))
        assert np.array_equal(read_image(same["image"]), read_image(record["image"]))


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    """The folder of a synthesis whose records have segments: scenes, as the demo keeps them."""
    from seggen_hf.data.scenes.records import scene_records
    from seggen_hf.data.schema import attach_labels, save_dataset

    records = scene_records("train", num_records=4)
    folder = tmp_path_factory.mktemp("segments") / "records"
    save_dataset(attach_labels(records, labels_of(records)), folder)
    return folder, records


def test_instances_are_read_back_by_pycocotools_and_by_us(segments, tmp_path, monkeypatch):
    folder, records = segments
    monkeypatch.setattr("seggen_hf.runs.data_export.load_synthetic", lambda path: load_saved(path))
    assert export(folder, tmp_path / "coco", "--format", "coco").exit_code == 0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "coco/annotations/instances_train.json"))
    names = {image["file_name"].rsplit(".", 1)[0]: number for number, image in coco.imgs.items()}
    things = set(labels_of(records).things)
    assert {category["id"] for category in coco.cats.values()} == things
    for record in records:
        ids = read_panoptic(record["panoptic_map"])
        annotations = coco.loadAnns(coco.getAnnIds(names[record["image_id"]]))
        own = [segment for segment in record["segments_info"] if segment["category_id"] in things]
        assert len(annotations) == len(own)
        for annotation, segment in zip(annotations, own, strict=True):
            assert np.array_equal(coco.annToMask(annotation) > 0, ids == segment["id"])
    assert export(folder, tmp_path / "panoptic", "--format", "coco-panoptic").exit_code == 0
    back = {record["image_id"]: record for record in load_records(tmp_path / "panoptic", "train")}
    for record in records:
        assert np.array_equal(
            read_panoptic(back[record["image_id"]]["panoptic_map"]), read_panoptic(record["panoptic_map"])
        )


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
