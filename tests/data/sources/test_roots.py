"""A data set may name its own files, and those below folders that the user names; nothing else is read."""

import json
import os
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value
from makers import CATEGORIES, block_map, make_ade20k, make_coco, make_folder, photo, write_classes
from PIL import Image as PILImage
from typer.testing import CliRunner

from seggen_hf import load_synthetic
from seggen_hf.cli import app
from seggen_hf.config import DataConfig, load_recipe
from seggen_hf.data.doctor import examine
from seggen_hf.data.schema import encode_image, encode_map, read_image, read_map
from seggen_hf.data.sources.load import load_records
from seggen_hf.data.sources.roots import Roots
from seggen_hf.data.sources.split import load_split
from seggen_hf.data.sources.streamed import stream_records
from seggen_hf.synthesis.shards import shard_features


@pytest.fixture
def private(tmp_path) -> Path:
    """A folder of the user that no data set knows of: a picture, a map, a panoptic PNG and a label file."""
    folder = tmp_path / "private"
    folder.mkdir()
    PILImage.fromarray(photo(77)).save(folder / "image.jpg")
    PILImage.fromarray(block_map(0)).save(folder / "map.png")
    (folder / "classes.json").write_text(json.dumps({"ignore_index": 255, "categories": CATEGORIES}))
    return folder


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def replace_with_link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def folder_with_a_linked_image(root, private):
    make_folder(root)
    replace_with_link(root / "train/images/0002.jpg", private / "image.jpg")
    return "record 0002 names"


def folder_with_a_linked_mask(root, private):
    make_folder(root)
    replace_with_link(root / "train/masks/0001.png", private / "map.png")
    return "record 0001 names"


def folder_with_linked_folders(root, private):
    make_folder(root)
    for name in ("images", "masks"):
        os.makedirs(private / name)
        (root / "train" / name / "more").symlink_to(private / name)
    shutil.copy(private / "image.jpg", private / "images/a.jpg")
    shutil.copy(private / "map.png", private / "masks/a.png")
    return "record more/a names"


def folder_with_linked_labels(root, private):
    make_folder(root)
    replace_with_link(root / "classes.json", private / "classes.json")
    return "classes.json leads out of"


def folder_with_linked_captions(root, private):
    make_folder(root)
    (private / "captions.json").write_text("{}")
    (root / "train/captions.json").symlink_to(private / "captions.json")
    return "captions.json leads out of"


def ade20k_with_a_linked_image(root, private):
    make_ade20k(root)
    replace_with_link(root / "images/training/ADE_training_00000001.jpg", private / "image.jpg")
    return "record ADE_training_00000001 names"


def coco_with(name, part, place=1):
    def make(root, private):
        make_coco(root, "train")
        file_name = name(root, private)
        edit(root / "panoptic_train.json", lambda content: content[part][place].update(file_name=file_name))
        return "names '/" if part == "annotations" else f"record {Path(file_name).with_suffix('')} names"

    return make


def coco_with_a_linked_json(root, private):
    make_coco(root, "train")
    shutil.move(root / "panoptic_train.json", private / "panoptic.json")
    (root / "panoptic_train.json").symlink_to(private / "panoptic.json")
    return "panoptic_train.json leads out of"


def instances_with(name):
    def make(root, private):
        (root / "annotations").mkdir(parents=True)
        (root / "images/train").mkdir(parents=True)
        PILImage.fromarray(photo(1)).save(root / "images/train/a.jpg")
        images = [{"id": 1, "file_name": name(root, private), "height": 24, "width": 32}]
        square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "iscrowd": 0}
        content = {"images": images, "annotations": [square], "categories": [{"id": 1, "name": "car"}]}
        (root / "annotations/instances_train.json").write_text(json.dumps(content))
        return "a file outside the data set"

    return make


def rows_with(image: dict, mask: dict) -> pa.Table:
    good = {"image": encode_image(photo(1)), "mask": encode_map(block_map(1), 3), "image_id": "good"}
    features = Features({"image": Image(), "mask": Image(), "image_id": Value("string")})
    return pa.Table.from_pylist([good, good | image | mask | {"image_id": "bad"}], schema=features.arrow_schema)


def parquet_with(part, path):
    def make(root, private):
        root.mkdir()
        entry = {part: {"bytes": None, "path": path(root, private)}}
        pq.write_table(rows_with(entry, {}), root / "train.parquet")
        write_classes(root, CATEGORIES)
        return "record bad names"

    return make


def linked_parquet(root, private):
    root.mkdir()
    pq.write_table(rows_with({}, {}), private / "train.parquet")
    (root / "train.parquet").symlink_to(private / "train.parquet")
    write_classes(root, CATEGORIES)
    return "train.parquet leads out of"


def saved_rows(root, private):
    """`save_to_disk` puts the bytes into its files; who wants them to lack writes Arrow himself."""
    features = Features({"image": Image(), "mask": Image(), "image_id": Value("string")})
    Dataset.from_dict({"image": [None], "mask": [None], "image_id": ["a"]}, features=features).save_to_disk(root)
    table = rows_with({"image": {"bytes": None, "path": str(private / "image.jpg")}}, {})
    (arrow,) = root.glob("*.arrow")
    with pa.OSFile(str(arrow), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    write_classes(root, CATEGORIES)
    return "record bad names"


def saved_elsewhere(root, private):
    saved_rows(root, private)
    (arrow,) = root.glob("*.arrow")
    shutil.move(arrow, private / arrow.name)
    edit(root / "state.json", lambda content: content["_data_files"][0].update(filename=f"../private/{arrow.name}"))
    return f"{arrow.name} leads out of"


def up(root, private):
    return "../../../private/image.jpg"


def absolute(root, private):
    return str(private / "image.jpg")


def moved_png(root, private):
    return shutil.move(str(root / "panoptic_train/000000000001.png"), str(private / "panoptic.png"))


OUTSIDE = {
    "folder: linked image": folder_with_a_linked_image,
    "folder: linked mask": folder_with_a_linked_mask,
    "folder: linked folders": folder_with_linked_folders,
    "folder: linked labels": folder_with_linked_labels,
    "folder: linked captions": folder_with_linked_captions,
    "ade20k: linked image": ade20k_with_a_linked_image,
    "coco: file_name up": coco_with(up, "images"),
    "coco: file_name absolute": coco_with(absolute, "images"),
    "coco: png absolute": coco_with(moved_png, "annotations"),
    "coco: linked json": coco_with_a_linked_json,
    "instances: file_name up": instances_with(up),
    "instances: file_name absolute": instances_with(absolute),
    "parquet: image": parquet_with("image", absolute),
    "parquet: mask": parquet_with("mask", lambda root, private: str(private / "map.png")),
    "parquet: up": parquet_with("image", lambda root, private: f"{root}/../private/image.jpg"),
    "parquet: linked": linked_parquet,
    "saved: image": saved_rows,
    "saved: elsewhere": saved_elsewhere,
}
READING = {"parquet": {"mask_column": "mask"}, "saved": {"mask_column": "mask"}}


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_leads_out_is_refused_with_its_name_and_read_where_its_folder_is_named(case, private, tmp_path):
    told = OUTSIDE[case](tmp_path / "data", private)
    reading = READING.get(case.partition(":")[0], {})
    for check in (True, False):
        with pytest.raises(ValueError) as refused:
            load_records(tmp_path / "data", "train", check=check, **reading)
        line = str(refused.value)
        assert told in line and str(private) in line, line
        assert "\n" not in line and line.endswith("name its folder with data.media_roots (--media_roots).")
    with pytest.raises(ValueError, match="media_roots"):
        examine(tmp_path / "data", "train", **reading)
    records = load_records(tmp_path / "data", "train", media_roots=[private], **reading)
    for record in records:
        assert read_image(record["image"]).shape == (24, 32, 3) and read_map(record["segmentation_map"]).any()


def test_the_setting_is_a_recipes_and_every_commands(private, tmp_path):
    root = tmp_path / "data"
    folder_with_a_linked_image(root, private)
    recipe = load_recipe("camvid_mini", [f"data.dataset_name={root}", f"data.media_roots=[{private}]"])
    assert len(load_split(recipe.data, "train", None)) == 4
    with pytest.raises(ValueError, match="record 0002"):
        load_split(DataConfig(dataset_name=str(root)), "train", None)
    with pytest.raises(ValueError, match="no folder here"):
        load_records(root, media_roots=[tmp_path / "nowhere"])
    for command in (["doctor", root], ["caption", root, tmp_path / "captioned"]):
        command = [*map(str, command), "--split", "train"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1 and "--media_roots" in result.stderr and result.stderr.count("\n") == 1
        result = CliRunner().invoke(app, [*command, "--media-roots", str(private)])
        assert result.exit_code == 0, result.stderr


def test_links_within_a_data_set_and_to_it_are_its_own(tmp_path):
    root = make_folder(tmp_path / "real" / "data")
    shutil.move(root / "train/images/0001.jpg", root / "kept.jpg")
    (root / "train/images/0001.jpg").symlink_to("../../kept.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "data")
    for source in (root, tmp_path / "link", Path(os.path.relpath(tmp_path / "link"))):
        assert len(load_records(source)) == 4


def test_a_snapshot_in_the_hubs_cache_is_made_of_links_to_its_blobs(private, tmp_path):
    repo = tmp_path / "hub" / "datasets--me--data"
    root = make_folder(repo / "snapshots" / "abc")
    (repo / "blobs").mkdir()
    for number, file in enumerate(path for path in list(root.rglob("*")) if path.is_file()):
        shutil.move(file, repo / "blobs" / str(number))
        file.symlink_to(repo / "blobs" / str(number))
    assert len(load_records(root)) == 4
    replace_with_link(root / "train/images/0002.jpg", private / "image.jpg")
    with pytest.raises(ValueError, match="record 0002"):
        load_records(root)


def test_rows_of_our_own_making_stay_readable(tmp_path):
    """The rows of a folder hold absolute paths; saved, they hold bytes."""
    records = load_records(make_folder(tmp_path / "data"))
    records.save_to_disk(tmp_path / "saved")
    records.to_parquet(tmp_path / "train.parquet")
    shutil.rmtree(tmp_path / "data")
    assert len(load_records(tmp_path / "saved")) == 4


@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_stream_reads_no_file_of_this_machine(column, private, tmp_path):
    root = tmp_path / "data"
    path = private / ("image.jpg" if column == "image" else "map.png")
    parquet_with(column, lambda *_: str(path))(root, private)
    stream = stream_records(str(root), mask_column="mask")
    with pytest.raises(ValueError, match=f"record 1 names '{path}'.*media_roots"):
        stream["image" if column == "image" else "segmentation_map"]
    with pytest.raises(ValueError, match="record bad names"):
        stream[1]
    assert stream_records(str(root), mask_column="mask", media_roots=[private])[1]["image_id"] == "bad"


def test_synthetic_shards_hold_their_pictures_themselves(private, tmp_path):
    good = {
        "image": encode_image(photo(1)), "segmentation_map": encode_map(block_map(1), 3), "caption": "a car",
        "image_id": "a", "kind": "imgsyn", "source_id": "a", "variant": 0, "seed": 1, "scores": None,
    }  # fmt: skip
    schema = shard_features().arrow_schema

    def write(name: str, row: dict, schema=schema) -> Path:
        (tmp_path / name / "data").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / name / "data/train-imgsyn-00000.parquet")
        (tmp_path / name / "labels.json").write_text((private / "classes.json").read_text())
        return tmp_path / name

    assert load_synthetic(write("good", good))[0]["image"].size == (32, 24)
    bad = {"bytes": None, "path": str(private / "image.jpg")}
    with pytest.raises(ValueError, match="record a names .*private/image.jpg"):
        load_synthetic(write("bad", good | {"image": bad}))
    plain = schema.remove_metadata()
    with pytest.raises(ValueError, match="the column image holds .*, not pictures"):
        load_synthetic(write("plain", good | {"image": bad}, plain))
    text = plain.set(plain.get_field_index("image"), pa.field("image", pa.string()))
    with pytest.raises(ValueError, match="the column image holds .*, not pictures"):
        load_synthetic(write("text", good | {"image": bad["path"]}, text))


def test_addresses_are_no_files_and_a_folder_is_resolved_once(tmp_path, monkeypatch):
    roots = Roots(make_folder(tmp_path / "data", count=30))
    for path in ("http://example.org/a.png", "zip://a.png::x.zip", "file:///etc/passwd", "a\0b", "image.png", "/"):
        assert not roots.hold(path)
    asked, real = [], os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: asked.append(path) or real(path))
    files = [path for path in (tmp_path / "data").rglob("*.*g")]
    assert len(files) == 60 and all(roots.hold(file) for file in files) and len(asked) == 2


def test_a_hub_data_set_may_name_what_was_downloaded_for_it(monkeypatch, tmp_path, private):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    roots = Roots("me/data")
    assert roots.hold(tmp_path / "hub/datasets--me--data/snapshots/abc/a.png")
    assert roots.hold(Path(datasets.config.DOWNLOADED_DATASETS_PATH) / "extracted/abc/a.png")
    for path in (private / "image.jpg", tmp_path / "hub/datasets--me--other/snapshots/abc/a.png", "a.png"):
        assert not roots.hold(path)
    assert Roots("me/data", [private]).hold(private / "image.jpg")


def test_many_files_are_checked_in_little_time(tmp_path):
    names = [str(tmp_path / "data" / "train" / "images" / f"{i}.jpg") for i in range(20_000)]
    (tmp_path / "data").mkdir()
    rows = Dataset.from_dict({"image": names}, features=Features({"image": Image(decode=False)}))
    begun = os.times().user
    Roots(tmp_path / "data").check_rows(rows, "here")
    assert os.times().user - begun < 3  # 0.15 s on an idle core
