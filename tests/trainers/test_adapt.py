"""The base is trained on images without maps, and stays an SDXL pipeline that the generators start from."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from generators import build, weights

from seggen_hf.data.schema import attach_labels, labels_of
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
