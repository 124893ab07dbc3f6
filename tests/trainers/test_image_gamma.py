"""Dark images are brightened for the autoencoder, and what is drawn is as dark as they are."""

import numpy as np
import pytest
import torch
from generators import build

from seggen_hf.config import Mask2ImgConfig, load_recipe
from seggen_hf.pipelines import Flux2Mask2ImgPipeline, Mask2ImgPipeline
from seggen_hf.runs.preflight import check_run
from seggen_hf.synthesis.generators import generator_digest
from seggen_hf.trainers.loop import train

GAMMA = 0.5


def draw(pipeline, output_type="np", side=32):
    """One image of an empty map, as float64 `(H, W, 3)`."""
    images = pipeline(
        "a car",
        np.zeros((side, side), np.uint8),
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
        output_type=output_type,
    ).images
    image = images[0] if output_type != "pt" else images[0].movedim(0, -1)
    return np.asarray(image, np.float64)


@pytest.mark.parametrize("kind", ["adapt", "mask2img"])
def test_the_autoencoder_reads_brightened_images(miniature_dir, scene_records, tmp_path, kind):
    task, _ = build(kind, miniature_dir, tmp_path, scene_records, image_gamma=GAMMA)
    pixels = torch.arange(2 * 32 * 32 * 3, dtype=torch.int64).remainder(256).to(torch.uint8).view(2, 32, 32, 3)
    brightened = (pixels.movedim(-1, 1) / 255.0).sqrt()
    found = task.encoders.encode_pixels(pixels)
    assert torch.allclose(found, task.encoders.encode_images(2 * brightened - 1), atol=1e-5)
    assert not torch.allclose(found, task.encoders.encode_images(pixels.movedim(-1, 1) / 127.5 - 1), atol=1e-2)


def test_color_maps_stay_as_they_are(miniature_dir, scene_records, tmp_path):
    task, _ = build("text2mask", miniature_dir, tmp_path, scene_records)
    assert task.encoders.image_gamma == 1


@pytest.mark.slow
def test_the_pipeline_undoes_it_for_every_output_type(miniature_dir, scene_records, tmp_path):
    task, config = build("mask2img", miniature_dir, tmp_path, scene_records, image_gamma=GAMMA, max_train_steps=1)
    train(task, config)
    pipeline = Mask2ImgPipeline.from_pretrained(tmp_path, use_safetensors=True)
    plain = Mask2ImgPipeline(
        **pipeline.components,
        colormap={name: value for name, value in pipeline.config.colormap.items() if name != "image_gamma"},
    )
    assert (pipeline.image_gamma, plain.image_gamma) == (GAMMA, 1)
    assert generator_digest(pipeline) != generator_digest(plain)
    bright = draw(plain)
    assert bright.std() > 0.01
    assert np.abs(draw(pipeline) - bright**2).max() < 1e-5
    assert np.abs(draw(pipeline, "pt") - bright**2).max() < 1e-5
    assert np.abs(draw(pipeline, "pil") - bright**2 * 255).max() <= 0.51  # rounded once
    assert np.array_equal(draw(pipeline, "latent"), draw(plain, "latent"))


@pytest.mark.slow
def test_flux2_undoes_it_too(flux2_dir, scene_records, tmp_path):
    changes = {"height": 64, "width": 64, "lora_rank": 2, "image_gamma": GAMMA}
    task, _ = build("mask2img", flux2_dir, tmp_path, scene_records, **changes)
    pipeline = task.to_pipeline()
    assert pipeline.image_gamma == GAMMA
    colormap = {name: value for name, value in pipeline.config.colormap.items() if name != "image_gamma"}
    plain = Flux2Mask2ImgPipeline(**pipeline.components, colormap=colormap)
    assert np.abs(draw(pipeline, side=64) - draw(plain, side=64) ** 2).max() < 1e-5


@pytest.mark.slow
def test_neither_cache_nor_checkpoints_of_another_gamma_go_on(miniature_dir, scene_records, tmp_path):
    train(*build("mask2img", miniature_dir, tmp_path, scene_records, max_train_steps=2))
    task, config = build("mask2img", miniature_dir, tmp_path, scene_records, image_gamma=GAMMA)
    with pytest.raises(ValueError, match=r"image_gamma was 1\.0 and is now 0\.5"):
        train(task, config)
    plain, _ = build("mask2img", miniature_dir, tmp_path, scene_records)
    first = []
    for one in (plain, task):
        one.to(torch.device("cpu"), torch.float32)
        first.append(np.array(one.cache.read("latents", 0, 0)))
    assert not np.allclose(*first, atol=1e-2)


def test_the_base_learns_images_of_the_gamma_that_mask2img_is_trained_with(tmp_path):
    recipe = load_recipe("nuclei_mini", ["mask2img.image_gamma=0.5", "data.unlabelled=images"])
    assert recipe.adapt.image_gamma == recipe.mask2img.image_gamma == GAMMA
    recipe.adapt.image_gamma = 1.0
    with pytest.raises(ValueError, match=r"adapt\.image_gamma is 1\.0 and mask2img\.image_gamma 0\.5"):
        check_run(recipe, tmp_path)


def test_a_gamma_that_is_no_power_is_refused():
    with pytest.raises(ValueError, match="image_gamma"):
        Mask2ImgConfig(image_gamma=0.0)
