"""Every source is found by its name or layout, converted once, and refused in one line."""

import subprocess
import sys

import pytest
from makers import CATEGORIES, assert_blocks, make_coco, make_folder, photo
from PIL import Image

from seggen_hf.config import DataConfig
from seggen_hf.data.schema import labels_of, read_map
from seggen_hf.data.sources.load import load_records
from seggen_hf.data.sources.split import load_split
from seggen_hf.data.sources.unlabelled import load_unlabelled
from seggen_hf.pipelines import ColormapCodec


def test_scenes_are_a_source_like_any_other():
    records = load_records("scenes", "val", max_records=3, size=(32, 48))
    assert len(records) == 3 and read_map(records[0]["segmentation_map"]).shape == (32, 48)
    assert labels_of(records).num_labels > 6 and records[0]["caption"]
    with pytest.raises(ValueError, match="unseen"):
        load_records("scenes", "dusk")


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


def test_what_names_say_is_held_out_is_trained_on_by_nobody(tmp_path):
    """A video, say; the images without masks are without it too."""
    root = make_folder(tmp_path / "data", count=12, splits=("train",))
    every = load_records(root)["image_id"][:]
    settings = {"dataset_name": str(root), "held_out_names": [f"{every[0]}", "*5"], "unlabelled": str(root / "train")}
    data = DataConfig(**settings, test_splits=["held-out"])
    apart, kept = (load_split(data, split, None)["image_id"][:] for split in ("held-out", "train"))
    assert apart == [name for name in every if name == every[0] or name.endswith("5")] and len(apart) > 1
    assert kept == [name for name in every if name not in apart]
    assert load_unlabelled(data)["image_id"][:] == kept
    for names, told in ((["none*"], "fit none of the 12 ids of train"), (["*"], "fit all of the 12")):
        with pytest.raises(ValueError, match=told):
            load_split(DataConfig(dataset_name=str(root), held_out_names=names), "train", None)
    with pytest.raises(ValueError, match="0 beside held_out_names"):
        DataConfig(held_out=0.2, held_out_names=["a"])


def test_a_seed_draws_other_records_to_train_on_and_the_same_ones_again(tmp_path):
    root = str(make_folder(tmp_path / "data", count=12, splits=("train", "val")))

    def names(split="train", count=4, **settings):
        return load_split(DataConfig(dataset_name=root, max_train_records=4, **settings), split, count)["image_id"][:]

    drawn = {seed: names(train_records_seed=seed) for seed in range(3)}
    assert all(found == sorted(found) and len(set(found)) == 4 for found in drawn.values())
    assert len({tuple(found) for found in [*drawn.values(), names()]}) == 4
    assert names(train_records_seed=1) == drawn[1] and len(names(count=None, train_records_seed=1)) == 12
    assert names("val", train_records_seed=1) == names("val")  # what is tested on is never drawn
    apart = names(train_records_seed=1, held_out=0.3, held_out_seed=1)
    held_out = names("held-out", None, train_records_seed=1, held_out=0.3, held_out_seed=1)
    assert not set(apart) & set(held_out) and len(apart) == 4
    for settings in ({"max_train_records": None}, {"streaming": True}):
        with pytest.raises(ValueError, match="train_records_seed is 1"):
            DataConfig(**{"max_train_records": 4, "train_records_seed": 1} | settings)


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


@pytest.mark.slow
def test_fingerprints_are_the_same_in_every_process(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    code = f"from seggen_hf.data.sources.load import load_records; print(load_records({str(root)!r})._fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip().splitlines()[-1] == load_records(root)._fingerprint


def test_a_name_that_is_neither_folder_nor_reachable_is_one_clear_error():
    with pytest.raises(ValueError, match="camvid-typo is no folder here, and as a Hub id it cannot be read"):
        load_records("camvid-typo")


def test_the_colors_of_the_label_file_become_the_palette_where_the_settings_say_so(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    own = load_split(DataConfig(dataset_name=str(root), palette="dataset"), "train", None)
    assert ColormapCodec(labels_of(own)).palette.tolist() == [entry["color"] for entry in CATEGORIES]
    own.save_to_disk(tmp_path / "saved")  # and who reads what was saved with it chooses anew
    for generated in (str(root), str(tmp_path / "saved")):
        records = load_records(generated)
        assert labels_of(records).palette == "generated" and labels_of(records).colors == labels_of(own).colors
    make_folder(tmp_path / "gray", count=1, categories=[{**entry, "color": None} for entry in CATEGORIES])
    with pytest.raises(ValueError, match="data.palette is 'dataset', and 3 of the 3 labels have no color"):
        load_split(DataConfig(dataset_name=str(tmp_path / "gray"), palette="dataset"), "train", None)
    with pytest.raises(ValueError, match="--task panoptic needs more"):
        DataConfig(palette="dataset", task="panoptic")
