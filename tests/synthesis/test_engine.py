"""What comes out of a synthesis, and that a sample depends on nothing but its settings and its source."""

import json
import shutil

import numpy as np
import pytest
from synthesis_settings import SIZE, largest_difference, make_config

from seggen_hf import LabelSet, load_synthetic
from seggen_hf.data.schema import read_map
from seggen_hf.pipelines.seggen_colormap import resize_nearest
from seggen_hf.synthesis import synthesize
from seggen_hf.synthesis.generators import PromptCache, quiet, weights_digest


def test_rows_follow_the_plan_and_dropped_samples_are_told(made):
    rows, folder = made
    dropped = [entry for path in (folder / "dropped").iterdir() for entry in json.loads(path.read_text())["dropped"]]
    expected = [f"train-{i:06d}-{kind}-{v:03d}" for kind in ("imgsyn", "masksyn") for i in range(8) for v in range(2)]
    gone = {entry["image_id"] for entry in dropped}
    assert list(rows["image_id"]) == [id for id in expected if id not in gone]
    assert gone and gone < set(expected) and all(entry["reason"] and entry["caption"] for entry in dropped)
    assert len(set(rows["seed"])) == len(rows)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_samples"] == 32 and summary["num_kept"] == len(rows) == 32 - len(gone)
    assert sum(sum(kind["dropped"].values()) for kind in summary["kinds"].values()) == len(gone)
    assert all(kind["samples_per_second"] > 0 for kind in summary["kinds"].values())


def test_imgsyn_keeps_the_human_map_and_masksyn_draws_a_new_one(made, scene_records):
    rows, _ = made
    maps = {record["image_id"]: read_map(record["segmentation_map"]) for record in scene_records}
    for row in rows:
        human, own = resize_nearest(maps[row["source_id"]], **SIZE), read_map(row["segmentation_map"])
        assert own.shape == human.shape == row["image"].size[::-1]
        assert np.array_equal(own, human) == (row["kind"] == "imgsyn")
        assert (row["scores"]["decode_confidence"] is None) == (row["kind"] == "imgsyn")
        assert row["scores"]["num_labels"] == len(np.setdiff1d(own, [255]))
        assert row["scores"]["ignored_share"] == pytest.approx((own == 255).mean())


def test_variants_of_a_record_differ(made):
    rows, _ = made
    images = [np.asarray(row["image"]) for row in rows.select(range(2))]
    assert rows[0]["source_id"] == rows[1]["source_id"] and not np.array_equal(*images)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_batch_size_changes_no_sample(batch_size, make, made, scene_records, tmp_path):
    whole, _ = made  # in batches of 3, which shards of 5 and dropped samples cut into smaller ones
    four = make(tmp_path, scene_records.select(range(4)), batch_size=batch_size, shard_size=8)
    assert largest_difference(four, whole.filter(lambda id: id < "train-000004", input_columns="source_id")) <= 1


def test_a_sample_made_alone_is_the_same(make, made, scene_records, tmp_path):
    whole, _ = made
    alone = make(tmp_path, scene_records.select([3]), imgsyn_variants=1, masksyn_variants=0)
    assert list(alone["image_id"]) == ["train-000003-imgsyn-000"]
    assert (
        largest_difference(alone, whole.filter(lambda id: id == alone[0]["image_id"], input_columns="image_id")) <= 1
    )


def test_the_caption_that_was_used_is_recorded(make, made, scene_records, tmp_path):
    settings = dict(imgsyn_variants=1, masksyn_variants=0, caption_style_share=1.0)
    styled = make(tmp_path, scene_records.select([3]), caption_styles=["in fog"], **settings)
    plain = made[0].select([list(made[0]["image_id"]).index("train-000003-imgsyn-000")])
    assert styled[0]["caption"] == scene_records[3]["caption"] + ", in fog" and styled["seed"][:] == plain["seed"][:]
    assert not np.array_equal(styled[0]["image"], plain[0]["image"])


def test_a_drawn_style_is_for_the_image_and_not_for_the_map(make, made, scene_records, tmp_path):
    settings = dict(imgsyn_variants=0, masksyn_variants=1, caption_style_share=1.0)
    plain = {row["image_id"]: row for row in made[0]}
    styled = make(tmp_path, scene_records.select([2, 3]), caption_styles=["in fog"], **settings)
    assert len(styled)
    for row in styled:
        assert row["caption"].endswith(", in fog")
        same = plain[row["image_id"]]
        assert np.array_equal(row["segmentation_map"], same["segmentation_map"])
        assert not np.array_equal(row["image"], same["image"])


def test_a_finished_folder_is_returned_without_making_anything(make, made):
    rows, folder = made
    before = {path: path.stat().st_mtime_ns for path in (folder / "data").iterdir()}
    again = make(folder, batch_size=7)
    assert list(again["image_id"]) == list(rows["image_id"])
    assert {path: path.stat().st_mtime_ns for path in (folder / "data").iterdir()} == before


def test_other_settings_are_refused_with_what_changed(make, made, scene_records):
    _, folder = made
    with pytest.raises(ValueError, match="mask2img_steps was 2 and is now 3.*--output_dir"):
        make(folder, mask2img_steps=3)
    with pytest.raises(ValueError, match="num_records was 8 and is now 2"):
        make(folder, scene_records.select(range(2)))


def test_other_weights_are_another_generator(generators):
    digest = weights_digest(generators["mask2img"])
    assert digest == weights_digest(generators["mask2img"]) != weights_digest(generators["text2mask"])
    weight = next(generators["mask2img"].controlnet.parameters()).data
    weight += 1e-4
    try:
        assert weights_digest(generators["mask2img"]) != digest
    finally:
        weight -= 1e-4


def test_each_caption_is_encoded_once_and_memory_is_bounded(generators):
    prompts = PromptCache(generators["mask2img"], capacity=2)
    first = prompts(["a road", "a lake", "a road"])
    assert prompts.num_encoded == 2 and first["prompt_embeds"].shape[0] == 3
    assert not prompts(["a lake"])["prompt_embeds"].requires_grad and prompts.num_encoded == 2
    assert prompts(["a road", "a lake", "a park"])["pooled_prompt_embeds"].shape[0] == 3
    assert prompts.num_encoded == 3 and len(prompts._entries) == 2
    direct = generators["mask2img"].encode_prompt(["a road"])
    assert np.allclose(first["prompt_embeds"][2], direct[0][0].detach(), atol=1e-5)
    assert np.allclose(first["negative_pooled_prompt_embeds"][1], direct[3][0].detach(), atol=1e-5)


def test_the_pipelines_progress_bars_come_back(generators):
    pipeline = generators["mask2img"]
    pipeline.set_progress_bar_config(desc="mine")
    with quiet([pipeline]):
        assert pipeline._progress_bar_config == {"desc": "mine", "disable": True}
    assert pipeline._progress_bar_config == {"desc": "mine"}


def test_labels_travel_and_the_folder_reads_like_any_data_set(made, scene_records, tmp_path):
    from datasets import load_dataset

    from seggen_hf import load_records

    rows, folder = made
    labels = LabelSet.from_records(scene_records)
    assert LabelSet.from_records(rows) == labels == LabelSet.from_file(folder / "labels.json")
    assert load_dataset(str(folder), split="train")["image_id"][:] == rows["image_id"][:]
    other = shutil.copytree(folder, tmp_path / folder.name)
    (other / "data" / "train-imgsyn-00000.parquet").unlink()
    assert len(load_dataset(str(other), split="train")) == len(rows) - 5  # not what was cached of the first folder
    records = load_records(folder, cache_dir=tmp_path)
    assert list(records["image_id"]) == list(rows["image_id"]) and LabelSet.from_records(records) == labels
    assert (folder / "preview.png").is_file() and not list(folder.rglob("*.tmp"))


def test_one_kind_or_several_folders_can_be_read(make, made, scene_records, tmp_path):
    rows, folder = made
    kinds = load_synthetic(folder, kinds=["masksyn"])
    assert list(kinds["image_id"]) == [row["image_id"] for row in rows if row["kind"] == "masksyn"]
    both = load_synthetic(f"{folder}, {folder}")
    assert len(both) == 2 * len(rows) and LabelSet.from_records(both) == LabelSet.from_records(rows)
    (folder / "data" / "train-imgsyn-00009.parquet.tmp").write_bytes(b"half")
    assert len(load_synthetic(folder)) == len(rows)
    (folder / "data" / "train-imgsyn-00009.parquet.tmp").unlink()


def test_what_cannot_be_made_is_refused_before_anything_is_drawn(make, scene_records, generators, tmp_path):
    with pytest.raises(ValueError, match="MaskSyn needs text2mask"):
        synthesize(scene_records, tmp_path, make_config(), generators["mask2img"])
    with pytest.raises(ValueError, match="8 of 8 records have no caption.*seggen caption"):
        make(tmp_path, scene_records.map(lambda _: {"caption": None}))
    with pytest.raises(ValueError, match="trained with 15 labels"):
        synthesize(
            scene_records, tmp_path, make_config(), **generators, labels=LabelSet.from_id2label({0: "a", 1: "b"})
        )
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no finished shards"):
        load_synthetic(tmp_path)


def test_all_samples_dropped_is_an_error_with_the_reasons(make, made, scene_records, tmp_path):
    settings = dict(imgsyn_variants=0, masksyn_variants=1, max_color_distance=0.0, min_region_area=0)
    with pytest.raises(ValueError, match="All 1 samples were dropped: 1 masksyn because"):
        make(tmp_path, scene_records.select([0]), max_ignored_share=0.0, **settings)
    assert len(json.loads((tmp_path / "dropped" / "masksyn-00000.json").read_text())["dropped"]) == 1
    with pytest.raises(ValueError, match="no samples: all were dropped"):
        load_synthetic(tmp_path)
    kept = next(made[1].glob("data/train-imgsyn-*.parquet"))
    shutil.copy(kept, tmp_path / "data" / "train-masksyn-00001.parquet")
    (tmp_path / "manifest.json").unlink()
    assert len(load_synthetic(tmp_path)) > 0  # a shard that lost all its samples reads beside others
