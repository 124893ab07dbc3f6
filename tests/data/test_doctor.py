"""The doctor finds what was broken on purpose, and its copy is clean while the source stays as it was."""

import hashlib
import json
import re
import shutil
import warnings

import datasets
import numpy as np
import pytest
from makers import (
    CATEGORIES,
    HEIGHT,
    WIDTH,
    block_map,
    make_coco,
    make_folder,
    paint,
    photo,
    save_rotated,
    write_classes,
)
from PIL import Image
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.data.doctor import examine, fix
from seggen_hf.data.scenes.records import scene_records
from seggen_hf.data.schema import encode_image, encode_map, labels_of, read_image, read_map
from seggen_hf.data.sources.load import load_records


def state_of(root):
    return {path: hashlib.sha1(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


def make_sick(root):
    """12 records: 0..4 are broken, 5 and 6 turned by EXIF, 7 equals 8, 9 is in val too, 10 is all void."""
    make_folder(root, count=12, splits=("train", "val"))
    images, masks = root / "train/images", root / "train/masks"
    (masks / "0000.png").unlink()
    (images / "0001.jpg").write_bytes((images / "0001.jpg").read_bytes()[:700])
    Image.fromarray(block_map()[:9]).save(masks / "0002.png")
    Image.fromarray(block_map(labels=(0, 1, 77))).save(masks / "0003.png")
    (masks / "0004.png").write_bytes(b"")
    save_rotated(images / "0005.jpg", np.rot90(photo()).copy(), 6)  # as viewers show it
    save_rotated(images / "0006.jpg", photo(), 6)  # the mask fits only without the rotation
    shutil.copy(images / "0007.jpg", images / "0008.jpg")
    shutil.copy(images / "0009.jpg", root / "val/images/0003.jpg")
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(masks / "0010.png")
    write_classes(root, [*CATEGORIES, {"id": 3, "name": "bus", "color": [0, 0, 142]}], ignore_index=255)
    return root


def test_everything_that_is_wrong_is_reported(tmp_path):
    report = examine(make_sick(tmp_path / "data"))
    problems = "\n".join(report.problems)
    assert len(report.problems) == 7
    assert "'car' and 'bus' share the color (0, 0, 142)" in problems
    for name in ("images/0000.jpg: no mask", "images/0001.jpg", "masks/0002.png", "masks/0003.png", "masks/0004.png"):
        assert name in problems
    assert "val: 0003 is the same image as train: 0009" in problems
    warnings = "\n".join(report.warnings)
    assert "train: never present: bus" in warnings and "train: the same image: 0007, 0008" in warnings
    assert (
        "1 maps are all void, first 0010" in warnings and "1 images are read without their EXIF rotation" in warnings
    )


def test_counts_are_those_of_the_pixels(tmp_path):
    root = make_folder(tmp_path / "data", count=5)
    (split,) = examine(root, "train").splits
    expected = np.zeros(4, int)
    for index in range(5):
        expected += [(block_map(index) == label).sum() for label in (0, 1, 2, 255)]
    assert np.array_equal(split.pixels, expected) and split.images.tolist() == [5, 5, 5, 5]
    assert split.sizes == {(HEIGHT, WIDTH): 5} and split.void_share == pytest.approx(1 / HEIGHT)
    report = examine(root, "train")
    assert report.problems == [] and report.warnings == []


def test_the_report_is_json_and_text(tmp_path):
    report = examine(make_sick(tmp_path / "data"))
    content = json.loads(json.dumps(report.to_dict()))
    assert content["splits"]["train"]["records"] == 12 and len(content["splits"]["train"]["broken"]) == 5
    assert content["splits"]["val"]["classes"][2]["name"] == "car" and content["problems"] == report.problems
    assert sum(entry["share"] for entry in content["splits"]["val"]["classes"]) == pytest.approx(1)
    text = report.to_text()
    assert "train: 12 records, 5 broken" in text and "Problems: 7" in text and "0003.png" in text


def test_the_clean_copy_loads_and_the_source_is_untouched(tmp_path):
    root = make_sick(tmp_path / "data")
    (root / "val/captions.json").write_text(json.dumps({"0001": "a car"}))
    before = state_of(root)
    result = fix(root, tmp_path / "clean")
    assert state_of(root) == before
    assert result.written == {"train": 7, "val": 12} and len(result.left_out) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "data"]
    records = load_records(tmp_path / "clean", "train")
    assert records["image_id"][:] == [f"{i:04d}" for i in range(5, 12)]
    original = load_records(root, "train", check=False)
    for record in records:
        source = original[int(record["image_id"]) - 1]  # 0000 has no mask
        assert source["image_id"] == record["image_id"]
        assert np.array_equal(read_map(record["segmentation_map"]), read_map(source["segmentation_map"]))
        assert np.array_equal(read_image(record["image"]), read_image(source["image"]))
        assert record["image"].getexif().get(0x0112, 1) == 1
    assert (tmp_path / "clean/train/images/0011.jpg").read_bytes() == (root / "train/images/0011.jpg").read_bytes()
    report = examine(tmp_path / "clean")
    assert not report.collisions and not any(split.broken for split in report.splits)
    assert labels_of(records).colors[2:] == [(0, 0, 142), None]
    assert load_records(tmp_path / "clean", "val")["caption"][1] == "a car"


def test_painted_sources_become_label_ids(tmp_path):
    root = make_folder(tmp_path / "painted", count=2)
    for index in range(2):
        Image.fromarray(paint(block_map(index))).save(root / "train/masks" / f"{index:04d}.png")
    write_classes(root, CATEGORIES, void_color=[0, 0, 0])
    clean = tmp_path / "clean"
    assert fix(root, clean, "train").left_out == []
    for index, path in enumerate(sorted((clean / "train/masks").iterdir())):
        assert np.array_equal(np.array(Image.open(path)), block_map(index)) and Image.open(path).mode == "L"
    assert labels_of(load_records(clean)).id2label == {0: "sky", 1: "road", 2: "car"}


@pytest.mark.parametrize("kind", ["panoptic", "instances", "records"])
def test_the_copy_of_a_source_with_segments_keeps_them(tmp_path, kind):
    if kind == "panoptic":
        source = make_coco(tmp_path / "data", "train", count=3)
        (source / "images/train/000000000001.jpg").write_bytes(b"")
    elif kind == "instances":
        source = tmp_path / "data"
        (source / "train").mkdir(parents=True)
        Image.fromarray(photo()).save(source / "train/a.png")
        thing = {"id": 1, "image_id": 0, "category_id": 4, "segmentation": [[2, 2, 20, 2, 20, 9, 2, 9]], "iscrowd": 0}
        content = {
            "images": [{"id": 0, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
            "categories": [{"id": 4, "name": "cell"}],
            "annotations": [thing, thing | {"id": 2, "segmentation": None, "bbox": [24, 12, 4, 4]}],
        }
        (source / "train/_annotations.coco.json").write_text(json.dumps(content))
    else:
        source = tmp_path / "data"
        scene_records("train", num_records=2).save_to_disk(source)
    whole = not examine(source, "train").problems
    report = fix(source, tmp_path / "clean", "train")
    assert (report.left_out == []) == whole == (kind != "panoptic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the annotation that is passed over
        own = load_records(source, "train", check=False)
    copied = load_records(tmp_path / "clean", "train")
    assert labels_of(copied).id2label == labels_of(own).id2label and labels_of(copied).things == labels_of(own).things
    by_id = {record["image_id"]: record for record in copied}
    assert len(by_id) == len(own) - len(report.left_out)
    for record in own.remove_columns("image"):  # one of them is broken
        if record["image_id"] in by_id:
            copy = by_id[record["image_id"]]
            for name in ("segmentation_map", "panoptic_map"):
                assert np.array_equal(read_image(copy[name]), read_image(record[name]))
            assert copy["segments_info"] == record["segments_info"]


def test_a_copy_of_nothing_is_an_error(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    (root / "train/masks/0000.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Nothing of .* could be kept: train: .*0000\.png: the file is empty"):
        fix(root, tmp_path / "clean")
    assert not (tmp_path / "clean").exists()


def test_the_copy_goes_to_a_new_folder_outside_the_source(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    with pytest.raises(ValueError, match="exists"):
        fix(root, tmp_path)
    with pytest.raises(ValueError, match="lies in the source"):
        fix(root, root / "clean")
    with pytest.raises(ValueError, match="no split 'test'"):
        fix(root, tmp_path / "clean", "test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_ids_that_lead_out_of_the_copy_are_refused(tmp_path):
    rows = [{"image": encode_image(photo(i)), "mask": encode_map(block_map(i), 3)} for i in range(2)]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    dataset = datasets.Dataset.from_list(rows, features=features)
    dataset.add_column("image_id", ["a", "../../../b"]).save_to_disk(tmp_path / "data" / "set")
    with pytest.raises(ValueError, match="leads out of the folder"):
        fix(tmp_path / "data" / "set", tmp_path / "clean", labels=CATEGORIES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_equal_images_with_numbers_as_ids_are_told(tmp_path):
    rows = [{"image": encode_image(photo()), "mask": encode_map(block_map(), 3), "image_id": i} for i in range(2)]
    features = datasets.Features({name: datasets.Image() for name in ("image", "mask")})
    features["image_id"] = datasets.Value("int64")
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "data")
    assert "the same image: 0, 1" in examine(tmp_path / "data", labels=CATEGORIES).to_text()


def test_masks_of_0_and_255_are_a_problem(tmp_path):
    root = make_folder(tmp_path / "data", count=2, categories=["background", "cell"])
    for path in (root / "train/masks").iterdir():
        Image.fromarray(np.where(block_map() == 2, 255, 0).astype(np.uint8)).save(path)
    (problem,) = examine(root).problems
    assert "if 255 is 'cell', name id 255 in classes.json" in problem
    with pytest.raises(ValueError, match="name id 255"):
        fix(root, tmp_path / "clean")


def test_camvid_is_healthy(camvid_dir):
    report = examine(camvid_dir, "val")
    (split,) = report.splits
    assert report.problems == [] and split.num_records == 101 and split.sizes == {(360, 480): 101}
    assert 0.2 < split.pixels[3] / split.pixels[:-1].sum() < 0.4  # road
    assert 0 < split.void_share < 0.1


def test_the_scenes_can_be_examined_too():
    report = examine("scenes", "val")
    assert report.problems == [] and report.splits[0].num_records > 50


def test_a_picture_in_another_file_is_told_as_the_same(tmp_path):
    """Another format, a pass of compression, another size; frames of one scene are not the same picture."""
    root = make_folder(tmp_path / "data", count=3, splits=("train", "val"))
    scenes = scene_records("train", num_records=8)
    for split in ("train", "val"):
        shutil.rmtree(root / split)
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True)
    for index, scene in enumerate(scenes):
        image, mask = scene["image"].convert("RGB"), Image.new("L", scene["image"].size)
        image.save(root / "train/images" / f"{index}.png")
        mask.save(root / "train/masks" / f"{index}.png")
    pixels = np.asarray(scenes[3]["image"].convert("RGB"))
    changed = {
        "format": scenes[0]["image"].convert("RGB"),
        "pass": scenes[1]["image"].convert("RGB"),
        "size": scenes[2]["image"].convert("RGB").resize((48, 48), Image.Resampling.BOX),
        "moved": Image.fromarray(np.roll(pixels, 6, axis=1)),
        "flat": Image.new("RGB", (64, 64), (9, 9, 9)),
    }
    for name, image in changed.items():
        suffix, options = ("jpg", {"quality": 80}) if name == "pass" else ("bmp" if name == "format" else "png", {})
        image.save(root / "val/images" / f"{name}.{suffix}", **options)
        Image.new("L", image.size).save(root / "val/masks" / f"{name}.png")
    found = [line for line in examine(root).problems if "the same picture" in line]
    assert [line.split(" is the same picture as ")[0] for line in found] == ["val: format", "val: pass", "val: size"]
    assert "train: 0, in another file (its pixels differ by 0.0 of 255)" in found[0] and "train: 1" in found[1]


def test_images_without_masks_are_looked_through(tmp_path):
    root = make_folder(tmp_path / "data", count=3, splits=("train", "val"))
    more = tmp_path / "more"
    more.mkdir()
    for number in range(4):
        Image.fromarray(photo(40 + number)).save(more / f"{number}.png")
    shutil.copy(more / "0.png", more / "again.png")
    (more / "cut.jpg").write_bytes((root / "train/images/0001.jpg").read_bytes()[:700])
    shutil.copy(root / "val/images/0002.jpg", more / "seen.jpg")
    (more / "captions.jsonl").write_text('{"file_name": "1.png", "caption": "a street"}\n')
    report = examine(root, unlabelled=str(more))
    (problem,) = report.problems
    assert problem.startswith("unlabelled: ") and "cut.jpg" in problem
    told = "\n".join(report.warnings)
    assert "unlabelled: the same image: 0, again" in told and "1 of them is in val too, first seen (0002)" in told
    counts = report.to_dict()["unlabelled"]
    assert (counts["images"], counts["captions"], counts["shared"]) == (7, 1, {"val": 1})
    assert "7 images, 1 broken, 1 with captions" in report.to_text()
    assert examine(root).to_dict()["unlabelled"] is None
    (more / "cut.jpg").unlink()
    done = CliRunner().invoke(app, ["doctor", str(root), "--unlabelled", str(more)])
    assert done.exit_code == 0 and "unlabelled" in done.stdout
    done = CliRunner().invoke(app, ["doctor", str(root), "--unlabelled", "no/where/at/all"])
    assert done.exit_code == 1 and "is no folder, no split" in done.stderr


def test_images_of_16_bits_are_copied_with_8_of_a_range_that_is_told(tmp_path):
    root = make_folder(tmp_path / "own", count=2)
    deep = np.linspace(100, 4100, 24 * 32).round().reshape(24, 32).astype(np.uint16)
    path = root / "train/images/0000.jpg"
    path.unlink()
    Image.fromarray(deep).save(path.with_suffix(".png"))
    found = CliRunner().invoke(app, ["doctor", str(root)])
    assert found.exit_code == 1 and re.search(
        r"values 100 to 4100 \(99% of them 1\d\d(\.\d)? to 40\d\d\)", found.stdout
    )
    for wrong in (["--value-range", "100", "4100"], ["--fix", str(tmp_path / "x"), "--value-range", "5", "5"]):
        refused = CliRunner().invoke(app, ["doctor", str(root), *wrong])
        assert refused.exit_code == 2 and "--value-range LOW HIGH goes with --fix FOLDER" in refused.stderr
    words = ["doctor", str(root), "--fix", str(tmp_path / "copy"), "--value-range", "100", "2100"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "2 records of train; 0 left out" in done.stderr, done.output
    records = load_records(tmp_path / "copy")
    (image,) = (read_image(row["image"]) for row in records if row["image_id"] == "0000")
    expected = np.minimum((deep.astype(float) - 100) / 2000, 1) * 255
    assert np.abs(image - expected[..., None]).max() <= 0.5
