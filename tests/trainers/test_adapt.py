"""The base is trained on images without maps, and stays an SDXL pipeline that the generators start from."""

import dataclasses
import logging
import logging.handlers

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from generators import build, weights
from safetensors.torch import load_file

from seggen_hf.data.schema import attach_labels, labels_of
from seggen_hf.plan.generators import plan_adapt
from seggen_hf.trainers.loop import train


@pytest.fixture(scope="module")
def images(scene_records):
    """Scenes without their maps, and one of them without its caption."""
    captions = [None if i == 0 else caption for i, caption in enumerate(scene_records["caption"])]
    records = scene_records.select_columns(["image", "image_id"]).add_column("caption", captions)
    return attach_labels(records, labels_of(scene_records))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"lora_rank": 4}, {"cache_latents": False}], ids=["whole", "lora", "uncached"]
)
def test_the_base_is_trained_on_images_and_goes_on_as_a_base(miniature_dir, images, tmp_path, changes):
    task, config = build("adapt", miniature_dir, tmp_path / "out", images, **changes)
    train(task, config)
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "out", use_safetensors=True, add_watermarker=False)
    before, after = weights(miniature_dir), weights(tmp_path / "out")
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "out/lora").is_dir() == ("lora_rank" in changes)
    assert not list((tmp_path / "out").rglob("map_*"))  # the cache holds none
    for part in ("vae", "text_encoder", "text_encoder_2"):
        theirs, own = weights(miniature_dir, part), weights(tmp_path / "out", part)
        assert all(torch.equal(theirs[name], own[name]) for name in theirs)
    generator, _ = build("text2mask", tmp_path / "out", tmp_path / "next", images_with_maps(images))
    own = dict(generator.base.unet.named_parameters())
    assert all(torch.allclose(own[name].cpu(), after[name].float(), atol=1e-3) for name in after)
    drawn = pipeline(
        "a car", height=32, width=32, num_inference_steps=1, generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images  # fmt: skip
    assert drawn.shape == (1, 32, 32, 3) and np.isfinite(drawn).all()


def images_with_maps(images):
    from seggen_hf.data.scenes.records import scene_records

    return scene_records("train", num_records=len(images))


def test_a_sample_is_the_image_and_its_caption_or_none(miniature_dir, images, tmp_path):
    """Without a caption it is what guidance calls none, as dropped captions are."""
    task, _ = build("adapt", miniature_dir, tmp_path, images, caption_dropout=0.0, cache_latents=False)
    task.to(torch.device("cpu"), torch.float32)
    samples = [task.sample(index, np.random.default_rng(0), 0) for index in (0, 1)]
    assert samples[0]["caption"] is None and samples[1]["caption"] == images[1]["caption"]
    assert samples[1]["pixels"].shape == (32, 32, 3) and samples[1]["pixels"].std() > 5
    assert np.array_equal(samples[1]["pixels"], task.views.view(1, False, np.random.default_rng(0))["pixels"]) or (
        np.array_equal(samples[1]["pixels"], task.views.view(1, True, np.random.default_rng(0))["pixels"])
    )


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"cache_latents": False}], ids=["cached", "uncached"])
def test_the_text_encoders_train_with_the_base(miniature_dir, images, tmp_path, changes):
    """What reads captions learns new words; the generators that start from here read by it, and leave it."""
    settings = {"train_text_encoders": True, "ema_decay": 0.9, "gradient_checkpointing": True, **changes}
    task, config = build("adapt", miniature_dir, tmp_path / "out", images, **settings)
    trained = sum(parameter.numel() for parameter in task.trainable.parameters() if parameter.requires_grad)
    plan, frozen = plan_adapt(config), plan_adapt(dataclasses.replace(config, train_text_encoders=False))
    assert plan.trained == trained > frozen.trained and plan.flops > frozen.flops
    assert sum(plan.memory.values()) > sum(frozen.memory.values())
    assert plan.waiting["draws validation images"] == 0 < frozen.waiting["draws validation images"]
    assert sum(plan.host.values()) <= sum(frozen.host.values()) + 16 * (trained - frozen.trained)
    train(task, config)
    chunks = list((tmp_path / "out/cache").rglob("chunk-*.safetensors"))
    assert bool(chunks) == config.cache_latents
    assert all(load_file(chunk).keys() == {"latents", "time_ids"} for chunk in chunks)
    for part, unread in (("text_encoder", ("encoder.layers.1.", "final_layer_norm")), ("text_encoder_2", ())):
        before, after = weights(miniature_dir, part), weights(tmp_path / "out", part)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed and not [name for name in changed if any(end in name for end in unread)]
        assert {name for name in before if name.endswith("q_proj.weight")} - changed == {
            name for name in before if name.endswith("q_proj.weight") and any(end in name for end in unread)
        }
    vaes = (weights(miniature_dir, "vae"), weights(tmp_path / "out", "vae"))
    assert all(torch.equal(vaes[0][name], vaes[1][name]) for name in vaes[0])
    kept = load_file(max((tmp_path / "out/checkpoints").iterdir()) / "model.safetensors")
    assert {name.split(".")[0] for name in kept} == {"network", "text_encoders"}
    records = images_with_maps(images)
    bases = [build("text2mask", base, tmp_path / "next", records)[0] for base in (miniature_dir, tmp_path / "out")]
    read = [generator.encoders.encode_captions(["a car"])[0] for generator in bases]
    assert not torch.allclose(read[0], read[1], atol=1e-3) and not read[1].requires_grad


def test_a_dropped_caption_is_what_guidance_calls_none(miniature_dir, images, tmp_path):
    task, _ = build("adapt", miniature_dir, tmp_path, images, train_text_encoders=True, cache_latents=False)
    batch = task.collate([task.sample(index, np.random.default_rng(0), 0) for index in (0, 1)])
    noisy = torch.randn(2, *task.latent_shape, generator=torch.Generator().manual_seed(0))
    answers = task.predict(task.trainable, noisy, batch)
    null = dict(zip(task.encoders.arrays, task.encoders.encode_null(), strict=True))
    one = {name: value[:1] for name, value in batch.items()} | null
    assert batch["captions"][0] is None
    assert torch.allclose(answers[:1], task.family.predict(task.network, noisy[:1], one), atol=1e-5)
    answers[1].square().mean().backward()
    assert task.base.text_encoder_2.text_projection.weight.grad.abs().sum() > 0


def test_a_lora_leaves_the_text_encoders_alone(miniature_dir, images, tmp_path):
    with pytest.raises(ValueError, match="train_text_encoders is True.*lora_rank 0"):
        build("adapt", miniature_dir, tmp_path, images, train_text_encoders=True, lora_rank=4)


def test_a_caption_that_is_too_long_is_told_once(miniature_dir, images, tmp_path, caplog):
    """By the check of all captions; a training that reads them in every step would else say it in every step."""
    records = images.remove_columns("caption").add_column("caption", ["a car " * 50] * len(images))
    records = attach_labels(records, labels_of(images))
    said, lines = logging.getLogger(StableDiffusionXLPipeline.__module__), logging.handlers.BufferingHandler(100)
    said.addHandler(lines)
    level = said.level
    said.setLevel(logging.WARNING)  # a command that ran before may have quieted diffusers
    try:
        task, _ = build("adapt", miniature_dir, tmp_path, records, train_text_encoders=True, cache_latents=False)
        assert [line for line in caplog.messages if "are longer than the" in line]
        task.encoders.encode_captions(["a car " * 50])
        assert not lines.buffer and not said.disabled
        task.base.encode_prompt("a car " * 50)
        assert lines.buffer  # as the pipeline itself would
    finally:
        said.removeHandler(lines)
        said.setLevel(level)
