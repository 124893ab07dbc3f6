import dataclasses

import numpy as np
import pytest
import torch
from generators import build

from seggen_hf.data.schema import labels_of, read_map
from seggen_hf.storage.content_digests import records_digest
from seggen_hf.trainers.latents import LatentCache, compress_map, pack_maps, unpack_map

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cached(miniature_dir, scene_records, tmp_path_factory):
    """A Mask2Img task with its cache made."""
    out = tmp_path_factory.mktemp("cached")
    task, _ = build("mask2img", miniature_dir, out, scene_records, max_crop_zoom=1.5, cache_variants=3)
    task.to(CPU, torch.float32)
    return task


def test_cached_embeddings_equal_what_the_pipeline_encodes(cached):
    for index in (0, 5):
        embeds, _, pooled, _ = cached.base.encode_prompt(cached.captions[index], do_classifier_free_guidance=False)
        assert torch.allclose(torch.from_numpy(cached.cache.read("prompt_embeds", index)), embeds[0], atol=1e-6)
        assert torch.allclose(torch.from_numpy(cached.cache.read("pooled", index)), pooled[0], atol=1e-6)


def test_a_dropped_caption_is_what_guidance_puts_in_its_place(cached):
    _, embeds, _, pooled = cached.base.encode_prompt("a house", negative_prompt=None, do_classifier_free_guidance=True)
    assert not embeds.any() and not pooled.any()  # SDXL: force_zeros_for_empty_prompt
    cached.config.caption_dropout, before = 0.999, cached.config.caption_dropout
    sample = cached.sample(0, np.random.default_rng(0), 0)
    cached.config.caption_dropout = before
    assert np.array_equal(sample["prompt_embeds"], embeds[0]) and np.array_equal(sample["pooled"], pooled[0])


def test_cached_latents_equal_those_encoded_in_the_step(cached):
    for variant in range(3):
        view = cached.views.variant(2, variant)
        fresh = cached.encoders.encode_pixels(torch.from_numpy(view["pixels"][None]))[0]
        assert torch.allclose(torch.from_numpy(cached.cache.read("latents", 2, variant)), fresh, atol=1e-5)
        stored = unpack_map(cached.cache.read_bytes("map", 2, variant), np.uint8, (32, 32))
        assert np.array_equal(stored, view["segmentation_map"])
        assert np.array_equal(cached.cache.read("time_ids", 2, variant), view["time_ids"])


def test_views_keep_image_and_map_together_and_every_second_is_mirrored(miniature_dir, scene_records, tmp_path):
    task, _ = build("mask2img", miniature_dir, tmp_path, scene_records, height=64, width=64)
    assert task.views.num_variants == 2  # nothing but the mirror can differ
    plain, mirrored = task.views.variant(1, 0), task.views.variant(1, 1)
    original = read_map(scene_records[1]["segmentation_map"])
    assert np.array_equal(plain["segmentation_map"], original)
    assert np.array_equal(plain["pixels"], np.asarray(scene_records[1]["image"]))
    assert np.array_equal(mirrored["segmentation_map"], original[:, ::-1])
    assert np.array_equal(mirrored["pixels"], plain["pixels"][:, ::-1])


@pytest.mark.parametrize(("conditioning", "expected"), [("true", [64, 64]), ("target", [32, 32])])
def test_time_ids_tell_original_size_crop_and_target(miniature_dir, scene_records, tmp_path, conditioning, expected):
    task, _ = build(
        "mask2img", miniature_dir, tmp_path, scene_records, max_crop_zoom=3.0, size_conditioning=conditioning
    )
    ids = np.stack([task.views.view(0, False, np.random.default_rng(seed))["time_ids"] for seed in range(20)])
    assert (ids[:, :2] == expected).all() and (ids[:, 4:] == 32).all()
    assert (ids[:, 2:4] == 0).all() if conditioning == "target" else len(np.unique(ids[:, 2])) > 5
    assert ids[:, 2:4].max() <= 2 * 32  # in pixels of the scaled image


def test_a_cache_in_use_is_not_made_twice(cached, miniature_dir, scene_records):
    folder = cached.cache.folder
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    again, _ = build(
        "mask2img", miniature_dir, cached.config.output_dir, scene_records, max_crop_zoom=1.5, cache_variants=3
    )
    again.to(CPU, torch.float32)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_whatever_the_content_depends_on_changes_the_digest(cached, scene_records):
    facts = cached._cache_facts()
    assert facts == cached._cache_facts()
    for name, value in (("height", 64), ("seed", 5), ("max_crop_zoom", 1.2), ("random_flip", False)):
        old, cached.config = cached.config, dataclasses.replace(cached.config, **{name: value})
        assert cached._cache_facts() != facts, name
        cached.config = old
    columns = ["segmentation_map", "caption", "image"]
    assert records_digest(scene_records, columns) == records_digest(scene_records, columns)
    assert records_digest(scene_records.select([1, 0, *range(2, 8)]), columns) != facts["records"]
    assert records_digest(scene_records.map(lambda r: {"caption": r["caption"] + "."}), columns) != facts["records"]


def encode(indices, calls=None):
    if calls is not None:
        calls.append(indices)
    maps = [np.full((3, 5), index, np.uint8) for index in indices]
    packed, places = pack_maps([compress_map(m) for m in maps])
    return {"latents": np.array([[[i], [i + 0.5]] for i in indices], "f4"), "map_bytes": packed, "map_places": places}


def test_rows_come_back_from_any_chunk(tmp_path):
    cache = LatentCache(tmp_path, {"a": 1}, num_records=200)
    cache.build(encode, estimated_bytes=1000, max_gb=1)
    assert cache.num_chunks == 4 and cache.is_complete
    for index in (0, 63, 64, 199):
        assert cache.read("latents", index, 1).tolist() == [index + 0.5]
        assert (unpack_map(cache.read_bytes("map", index), np.uint8, (3, 5)) == index).all()


def test_a_broken_off_build_goes_on_with_the_missing_chunks(tmp_path):
    cache, calls = LatentCache(tmp_path, {"a": 1}, num_records=200), []

    def until_the_third(indices):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(indices, calls)

    with pytest.raises(KeyboardInterrupt):
        cache.build(until_the_third, estimated_bytes=1000, max_gb=1)
    assert not cache.is_complete
    (cache.folder / ".chunk-00002.safetensors.1.tmp").write_bytes(b"half")
    cache.build(lambda indices: encode(indices, calls), estimated_bytes=1000, max_gb=1)
    assert cache.is_complete and [c.start for c in calls] == [0, 64, 128, 192]
    assert not list(cache.folder.glob(".chunk*"))


def test_a_cache_of_other_facts_is_not_found_and_goes(tmp_path):
    old = LatentCache(tmp_path, {"a": 1}, num_records=3)
    old.build(encode, estimated_bytes=1000, max_gb=1)
    new = LatentCache(tmp_path, {"a": 2}, num_records=3)
    assert not new.is_complete
    new.build(encode, estimated_bytes=1000, max_gb=1)
    assert [p.name for p in tmp_path.iterdir()] == [new.folder.name]


def test_too_large_a_cache_is_refused_before_anything_is_written(miniature_dir, scene_records, tmp_path):
    task, _ = build("text2mask", miniature_dir, tmp_path / "out", scene_records, cache_max_gb=1e-6)
    with pytest.raises(ValueError, match="--cache_max_gb allows 1e-06.*--no_cache_latents"):
        task.to(CPU, torch.float32)
    assert not (tmp_path / "out").exists()


def test_the_estimate_is_that_of_the_files(cached):
    assert cached.cache.num_bytes == pytest.approx(cached.estimate_cache(), rel=0.1)


def test_ids_that_are_no_labels_are_refused_before_encoding(miniature_dir, scene_records, tmp_path):
    from seggen_hf.labels import LabelSet

    task, config = build("text2mask", miniature_dir, tmp_path / "out", scene_records)
    few = LabelSet.from_id2label({i: n for i, n in labels_of(scene_records).id2label.items() if i < 2})
    task = type(task).from_config(config, scene_records, few)
    with pytest.raises(ValueError, match="which are no labels"):
        task.to(CPU, torch.float32)
    assert not (tmp_path / "out").exists()


def test_a_sample_costs_far_less_than_its_step(cached):
    """Nothing is decoded in a step: a thousand samples within two seconds even on a busy machine."""
    import time

    begun = time.process_time()
    for position in range(1000):
        cached.sample(position % 8, np.random.default_rng([0, position]), 0)
    assert time.process_time() - begun < 2
