"""Images of any folder are segmented, looked at, and told in COCO's words."""

import json

import numpy as np
import pytest
import real_files as make
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.data.scenes.records import scene_labels
from seggen_hf.data.schema import read_image, read_map, read_panoptic
from seggen_hf.pipelines import ColormapCodec
from seggen_hf.runs.prediction import find_labels
from seggen_hf.segmenter.build import load_segmenter
from seggen_hf.segmenter.inference import predict_semantic
from seggen_hf.segments import measure_segments


@pytest.fixture
def images(tmp_path):
    """Three images of two sizes, one of them in a folder of its own, and a file that is none."""
    make.picture(tmp_path / "images/a.png", 1, (48, 40))
    make.picture(tmp_path / "images/x/b.jpg", 2, (48, 40))
    make.picture(tmp_path / "images/c.png", 3, (32, 64))
    (tmp_path / "images/broken.png").write_bytes(b"none")
    return tmp_path / "images"


def predict(*words):
    done = CliRunner().invoke(app, ["predict", *map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_semantic_maps_are_the_segmenters_and_a_second_call_makes_nothing(tiny_run, images, tmp_path):
    segmenter, out = tiny_run / "segmenter-real/seed-0", tmp_path / "out"
    found = predict(segmenter, images, out, "--batch-size", 2)
    assert (found["images"], found["kept"], found["task"]) == (3, 0, "semantic")
    assert len(found["unreadable"]) == 1 and "broken.png: the file is not an image" in found["unreadable"][0]
    model, processor = load_segmenter(segmenter, scene_labels())
    for name, file in (("a", "a.png"), ("x/b", "x/b.jpg"), ("c", "c.png")):
        picture = read_image(str(images / file))
        (expected,) = predict_semantic(model, processor, [picture])
        assert np.array_equal(read_map(str(out / f"maps/{name}.png")), expected)
        assert Image.open(out / f"overlays/{name}.jpg").size == picture.shape[1::-1]
    legend = np.array(Image.open(out / "legend.png"))
    assert (legend == ColormapCodec(scene_labels()).palette[3]).all(-1).any()  # each label's color, beside its name
    content = json.loads((out / "predictions.json").read_text())
    assert [(image["file_name"], image["height"], image["width"]) for image in content["images"]] == [
        ("a.png", 48, 40), ("c.png", 32, 64), ("x/b.jpg", 48, 40),
    ]  # fmt: skip
    assert len(content["categories"]) == 15 and "annotations" not in content
    stamps = {path: path.stat().st_mtime_ns for path in (out / "maps").rglob("*.png")}
    # Killed in the middle of a line: that image is made again, and no other.
    log = out / "progress.jsonl"
    log.write_text(log.read_text()[:-20])
    again = predict(segmenter, images, out)
    assert (again["images"], again["kept"]) == (3, 2)
    assert sum(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items()) == 1
    assert content == json.loads((out / "predictions.json").read_text())


def test_panoptic_maps_and_their_segments_agree(tiny_run, images, tmp_path):
    out = tmp_path / "out"
    predict(tiny_run / "segmenter-real/seed-0", images, out, "--task", "panoptic", "--no-overlays")
    content = json.loads((out / "predictions.json").read_text())
    assert len(content["annotations"]) == 3 and not (out / "overlays").exists()
    assert not (out / "legend.png").exists()
    for entry in content["annotations"]:
        ids = read_panoptic(str(out / "panoptic" / entry["file_name"]))
        segments = [{"id": s["id"], "category_id": s["category_id"]} for s in entry["segments_info"]]
        assert {s["id"] for s in measure_segments(ids, segments)} == {s["id"] for s in entry["segments_info"]}
        assert set(np.unique(ids).tolist()) - {0} == {s["id"] for s in entry["segments_info"]}


def test_instances_are_coco_results(tiny_run, images, tmp_path):
    predict(tiny_run / "segmenter-real/seed-0", images, tmp_path / "all", "--task", "instance", "--min-score", 0)
    content = json.loads((tmp_path / "all/predictions.json").read_text())
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    assert content["annotations"] and len({entry["id"] for entry in content["annotations"]}) == len(
        content["annotations"]
    )
    for entry in content["annotations"]:
        assert entry["segmentation"]["size"] == sizes[entry["image_id"]]
        assert coco_mask.decode(entry["segmentation"]).sum() == entry["area"] > 0
        assert entry["category_id"] in scene_labels().things
    predict(tiny_run / "segmenter-real/seed-0", images, tmp_path / "sure", "--task", "instance", "--min-score", 0.9)
    assert len(json.loads((tmp_path / "sure/predictions.json").read_text())["annotations"]) <= len(
        content["annotations"]
    )


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["SEGMENTER", "/no/such/folder", "OUT"], 1, "There are no images in /no/such/folder"),
        (["SEGMENTER", "IMAGES/*.txt", "OUT"], 1, "There are no images"),
        (["SEGMENTER", "IMAGES/broken.png", "OUT"], 1, "None of 1 images could be read"),
        (["IMAGES", "IMAGES", "OUT"], 1, "There is no segmenter"),
        (["SEGMENTER", "IMAGES", "IMAGES"], 1, "holds"),
        (["SEGMENTER", "IMAGES", "OUT", "--task", "depth"], 2, "There is no task 'depth'"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(tiny_run, images, tmp_path, words, status, told):
    places = {"SEGMENTER": tiny_run / "segmenter-real/seed-0", "IMAGES": images, "OUT": tmp_path / "out"}
    words = [str(places.get(word, word)).replace("IMAGES", str(images)) for word in words]
    done = CliRunner().invoke(app, ["predict", *words])
    assert done.exit_code == status and told in done.stderr, done.output


def test_another_segmenter_does_not_go_on_in_the_folder(tiny_run, images, tmp_path):
    predict(tiny_run / "segmenter-real/seed-0", images / "*.png", tmp_path / "out")
    other = [tiny_run / "segmenter-synthetic/seed-0", images, tmp_path / "out"]
    done = CliRunner().invoke(app, ["predict", *map(str, other)])
    assert done.exit_code == 1 and "begun by another segmenter" in done.stderr


def test_labels_are_found_beside_a_segmenter_or_in_its_configuration(tiny_run, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_run / "segmenter-real/seed-0", tmp_path / "own")
    assert find_labels(folder) == scene_labels()
    for name in ("labels.json", "id2label.json"):
        (folder / name).unlink(missing_ok=True)
    assert find_labels(folder).id2label == scene_labels().id2label
