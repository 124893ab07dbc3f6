"""What comes out of a synthesis, and that a sample depends on nothing but its settings and its source."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from synthesis_settings import SIZE, largest_difference, make_config

from seggen_hf import LabelSet, Mask2ImgPipeline, Text2MaskPipeline, load_synthetic
from seggen_hf.data.schema import encode_map, read_map
from seggen_hf.pipelines import resize_nearest
from seggen_hf.synthesis import synthesize
from seggen_hf.synthesis.generators import PromptCache, decoding, generator_digest, is_offloaded, place, quiet


@pytest.mark.slow
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


@pytest.mark.slow
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
    kept = {row["source_id"] for row in plain.values() if row["kind"] == "masksyn" and row["variant"] == 0}
    kept = [place for place, image_id in enumerate(scene_records["image_id"]) if image_id in kept]
    styled = make(tmp_path, scene_records.select(kept[:2]), caption_styles=["in fog"], **settings)
    assert len(styled)
    for row in styled:
        assert row["caption"].endswith(", in fog")
        same = plain[row["image_id"]]
        assert np.array_equal(row["segmentation_map"], same["segmentation_map"])
        assert not np.array_equal(row["image"], same["image"])


def test_provenance_names_no_folder_of_the_machine(generators, scene_records, tmp_path):
    settings = make_config(imgsyn_variants=1, masksyn_variants=0)
    facts = {"mask2img": str(tmp_path / "somebody" / "mask2img"), "data": "somebody/streets", "seed": 3}
    synthesize(scene_records.select([0]), tmp_path / "out", settings, **generators, **SIZE, provenance=facts)
    for name in ("manifest.json", "summary.json"):
        text = (tmp_path / "out" / name).read_text()
        assert json.loads(text)["provenance"] == facts | {"mask2img": "mask2img"} and str(tmp_path) not in text


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
    digest = generator_digest(generators["mask2img"])
    assert digest == generator_digest(generators["mask2img"]) != generator_digest(generators["text2mask"])
    weight = next(generators["mask2img"].controlnet.parameters()).data
    weight += 1e-4
    try:
        assert generator_digest(generators["mask2img"]) != digest
    finally:
        weight -= 1e-4


def test_other_maps_are_other_records(make, scene_records, tmp_path):
    settings = dict(masksyn_variants=0, imgsyn_variants=1)
    make(tmp_path, scene_records.select([0, 1]), **settings)
    void = encode_map(np.full((64, 64), 255, np.uint8), 15)
    changed = scene_records.select([0, 1]).map(lambda _: {"segmentation_map": void}, features=scene_records.features)
    with pytest.raises(ValueError, match="segmentation_maps was"):
        make(tmp_path, changed, **settings)


def test_an_offloaded_generator_is_the_same_generator(generator_dirs, generators):
    pipeline = Mask2ImgPipeline.from_pretrained(generator_dirs[1], use_safetensors=True)
    assert not is_offloaded(pipeline)
    for name in ("unet", "controlnet"):
        cpu_offload(getattr(pipeline, name), torch.device("cpu"))
    assert next(pipeline.unet.parameters()).is_meta and is_offloaded(pipeline)
    assert generator_digest(pipeline) == generator_digest(generators["mask2img"])


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_generators_make_the_same_samples(offload, generator_dirs, made, scene_records, tmp_path):
    classes = {"text2mask": Text2MaskPipeline, "mask2img": Mask2ImgPipeline}
    folders = dict(zip(classes, generator_dirs, strict=True))
    pipelines = {name: c.from_pretrained(folders[name], use_safetensors=True) for name, c in classes.items()}
    for pipeline in pipelines.values():
        if offload == "model":
            place(pipeline, offload, torch.device("cpu"))
        else:  # as diffusers does, but to "cpu": to its "cpu:0" accelerate copies weights out of their parameters
            for component in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
                cpu_offload(component, torch.device("cpu"))
        assert is_offloaded(pipeline)
    few, settings = scene_records.select(range(2)), make_config(offload=offload, vae_slicing=True)
    rows = synthesize(few, tmp_path, settings, **pipelines, **SIZE)
    expected = made[0].filter(lambda id: id < "train-000002", input_columns="source_id")
    assert len(expected) and largest_difference(rows, expected) <= 1


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_weights_wait_where_the_setting_says(offload, generator_dirs):
    pipeline = Mask2ImgPipeline.from_pretrained(generator_dirs[1], use_safetensors=True)
    for _ in range(2):  # once offloaded, it stays so
        place(pipeline, offload, torch.device("cpu"))
        assert is_offloaded(pipeline) == (offload != "none")
        assert next(pipeline.unet.parameters()).is_meta == (offload == "sequential")
        assert hasattr(pipeline.unet, "_hf_hook") == (offload != "none")


def test_settings_of_how_leave_no_trace_and_a_finished_folder_stays(make, made):
    rows, folder = made
    begun = json.loads((folder / "manifest.json").read_text())["fingerprint"]
    assert not {"offload", "vae_slicing", "vae_precision"} & begun.keys()
    assert list(make(folder, offload="model", vae_slicing=True)["image_id"]) == list(rows["image_id"])
    with pytest.raises(ValueError, match="vae_precision was None and is now 'same'"):
        make(folder, vae_precision="same")


def half_precision_vae(generator_dirs, weight=1.0):
    pipeline = Mask2ImgPipeline.from_pretrained(generator_dirs[1], use_safetensors=True)
    pipeline.vae.register_to_config(force_upcast=True)
    with torch.no_grad():
        pipeline.vae.decoder.conv_norm_out.weight *= weight
    return pipeline, pipeline.vae.to(torch.float16)


def test_a_float16_autoencoder_decodes_as_it_is_where_that_is_safe(generator_dirs):
    pipeline, vae = half_precision_vae(generator_dirs)
    latents = torch.randn(2, vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    with decoding([pipeline], make_config(vae_slicing=True)):
        assert vae.config.force_upcast and vae.use_slicing
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    with decoding([pipeline], make_config(vae_precision="same")):
        assert not vae.config.force_upcast and not vae.use_slicing
        first, second = (vae.decode(latents, return_dict=False)[0] for _ in range(2))
        assert first.dtype == second.dtype == torch.float16 and torch.equal(first, second)
    assert vae.config.force_upcast and "decode" not in vars(vae)
    assert all(torch.equal(value, weights[name]) for name, value in vae.state_dict().items())


def test_one_that_overflows_goes_back_to_float32_and_says_so(generator_dirs, caplog):
    pipeline, vae = half_precision_vae(generator_dirs, weight=1e5)  # beyond float16's 65504
    latents = torch.randn(2, vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    with decoding([pipeline], make_config(vae_precision="same")):
        vae.decode(latents, return_dict=False)
        assert vae.config.force_upcast and vae.dtype == torch.float16
    assert "The autoencoder decodes in float32" in caplog.text


def test_an_error_in_writing_ends_the_synthesis(make, scene_records, tmp_path, monkeypatch):
    """Shards are written in a thread: its error must not be lost, nor a shard half there."""

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("seggen_hf.synthesis.engine.write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, scene_records.select(range(4)), masksyn_variants=0)
    assert not (tmp_path / "summary.json").exists() and not list(tmp_path.glob("data/*"))


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


def test_maps_that_are_not_as_named_or_as_real_ones_are_dropped(make, made, scene_records, tmp_path):
    """Of the generated ones alone; what is kept is the same; without the settings nothing of it is in the manifest."""
    strict = make(tmp_path / "strict", min_plausibility=0.6)
    logs = [json.loads(path.read_text()) for path in (tmp_path / "strict/dropped").glob("*.json")]
    dropped = [sample for log in logs for sample in log["dropped"] if sample["reason"] == "implausible"]
    assert dropped and all("-masksyn-" in sample["image_id"] for sample in dropped)
    assert all(sample["scores"]["plausibility"] < 0.6 for sample in dropped)
    names = set(strict["image_id"][:])
    assert names == set(made[0]["image_id"][:]) - {sample["image_id"] for sample in dropped}
    assert json.loads((tmp_path / "strict/manifest.json").read_text())["fingerprint"]["min_plausibility"] == 0.6


def test_all_samples_dropped_is_an_error_with_the_reasons(make, made, scene_records, tmp_path):
    settings = dict(imgsyn_variants=0, masksyn_variants=1, max_color_distance=1e-3, min_region_area=0)
    with pytest.raises(ValueError, match="All 1 samples were dropped: 1 masksyn because"):
        make(tmp_path, scene_records.select([0]), max_ignored_share=0.0, **settings)
    assert len(json.loads((tmp_path / "dropped" / "masksyn-00000.json").read_text())["dropped"]) == 1
    with pytest.raises(ValueError, match="no samples: all were dropped"):
        load_synthetic(tmp_path)
    kept = next(made[1].glob("data/train-imgsyn-*.parquet"))
    shutil.copy(kept, tmp_path / "data" / "train-masksyn-00001.parquet")
    (tmp_path / "manifest.json").unlink()
    assert len(load_synthetic(tmp_path)) > 0  # a shard that lost all its samples reads beside others


def test_maps_of_another_aspect_are_cropped_as_in_training(generators, scene_records, tmp_path):
    """64 x 64 maps for 32 x 64 samples: rows 1:1, in a window whose place each sample draws."""
    rows = np.arange(64)[:, None] // 8 * np.ones((1, 64), int)
    tall = encode_map(rows.astype(np.uint8), 15)
    records = scene_records.select([0, 1]).map(lambda _: {"segmentation_map": tall}, features=scene_records.features)
    settings = make_config(imgsyn_variants=3, masksyn_variants=0, mask2img_steps=1)
    made = synthesize(records, tmp_path / "wide", settings, generators["mask2img"], height=32, width=64)
    tops = set()
    for row in made:
        found = read_map(row["segmentation_map"])
        tops.add(min(top for top in range(33) if np.array_equal(found, rows[top : top + 32])))
    assert len(tops) > 2


def test_a_sample_that_is_not_finite_is_dropped_and_the_others_stay(generators, scene_records, tmp_path, monkeypatch):
    """As when a VAE overflows in half precision: the last sample of every batch has a NaN."""
    for pipeline, kind in ((generators["text2mask"], "masksyn"), (generators["mask2img"], "imgsyn")):
        decode = pipeline.vae.decode

        def broken(*args, decode=decode, **kwargs):
            out = decode(*args, **kwargs)
            (out[0] if isinstance(out, tuple) else out.sample)[-1, 0, 0, 0] = float("nan")
            return out

        none = {"imgsyn_variants": 0, "masksyn_variants": 0}
        settings = make_config(**none | {f"{kind}_variants": 1, "batch_size": 2, "max_ignored_share": 1.0})
        monkeypatch.setattr(pipeline.vae, "decode", broken)
        synthesize(scene_records.select(range(4)), tmp_path / kind, settings, **generators, **SIZE)
        monkeypatch.undo()
        summary = json.loads((tmp_path / kind / "summary.json").read_text())
        assert summary["kinds"][kind]["dropped"]["not_finite"] >= 2 and summary["num_kept"] >= 1


def test_sizes_that_the_vae_cannot_make_are_refused_before_weights_move(generators, scene_records, tmp_path):
    with pytest.raises(ValueError, match="height and width are 30 and 32"):
        synthesize(scene_records, tmp_path / "new", make_config(), **generators, height=30, width=32)
    assert not (tmp_path / "new").exists()


def test_the_size_of_the_training_is_the_default(generator_dirs, scene_records, tmp_path):
    pipeline = Mask2ImgPipeline.from_pretrained(generator_dirs[1], use_safetensors=True)
    pipeline.register_to_config(colormap=pipeline.config.colormap | {"height": 16, "width": 24})
    settings = make_config(imgsyn_variants=1, masksyn_variants=0, mask2img_steps=1)
    made = synthesize(scene_records.select([0]), tmp_path, settings, pipeline)
    assert made[0]["image"].size == made[0]["segmentation_map"].size == (24, 16)


def test_a_folder_of_something_else_is_not_overwritten(make, scene_records, tmp_path):
    (tmp_path / "labels.json").write_text("mine")
    one = scene_records.select([0])
    with pytest.raises(ValueError, match="holds labels.json, and was not begun as the folder of a synthesis"):
        make(tmp_path, one, imgsyn_variants=1, masksyn_variants=0)
    assert (tmp_path / "labels.json").read_text() == "mine"
    (tmp_path / "labels.json").unlink()
    for name in (".seggen.json.tmp", ".gitkeep"):  # of a call that was killed at once, or nothing
        (tmp_path / name).write_text("{")
    assert len(make(tmp_path, one, imgsyn_variants=1, masksyn_variants=0)) == 1


def test_records_without_images_are_enough_and_a_failed_preview_only_warns(
    make, scene_records, tmp_path, monkeypatch, caplog
):
    settings = dict(imgsyn_variants=1, masksyn_variants=0, mask2img_steps=1, conditioning_scale=1)
    few = scene_records.select([0]).remove_columns("image")
    assert len(make(tmp_path / "blank", few, **settings)) == 1 and (tmp_path / "blank" / "preview.png").is_file()
    monkeypatch.setattr("seggen_hf.synthesis.preview.write_preview", lambda *_: 1 / 0)
    assert len(make(tmp_path / "none", few, **settings)) == 1
    assert "There is no" in caplog.text and "ZeroDivisionError" in caplog.text


def test_every_choice_of_kinds_reads_one_converted_copy(made):
    rows, folder = made
    files = [{file["filename"] for file in load_synthetic(folder, kinds).cache_files} for kinds in (None, ["masksyn"])]
    assert files[0] == files[1]
    imgsyn = load_synthetic(folder, ["imgsyn"])
    assert list(imgsyn["image_id"]) == [row["image_id"] for row in rows if row["kind"] == "imgsyn"]
    assert imgsyn._indices is None  # a slice: rows are read in place


def test_paths_that_are_not_there_never_ask_the_hub(made, tmp_path, monkeypatch):
    rows, folder = made
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/synthetic", "synthetic", "./a", tmp_path / "no" / "data", Path("owner/name")):
        with pytest.raises(ValueError, match="does not exist"):
            load_synthetic(path)
    shutil.copytree(folder, tmp_path / "a, b")
    assert len(load_synthetic("a, b")) == len(rows)
