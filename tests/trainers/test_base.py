import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from waits import copies_of_a_step

from seggen_hf.data.scenes import SCENE_WORDS
from seggen_hf.trainers.base import BaseConfig, BaseTask, DecoderTask, base_words, draw_prior
from seggen_hf.trainers.loop import train


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return draw_prior(tmp_path_factory.mktemp("prior"), num_scenes=10, num_drawings=4, processes=1)


def settings(folder, **changes) -> BaseConfig:
    defaults = dict(size="unit", num_scenes=10, num_drawings=4, train_batch_size=4, logging_steps=1, ema_decay=0.5)
    return BaseConfig(output_dir=str(folder), **(defaults | changes))


def test_the_prior_holds_scenes_first_then_drawings(prior):
    images, captions = prior
    assert images.shape == (14, 64, 64, 3) and images.dtype == np.uint8
    assert captions[10:] == ["a flat drawing of colored shapes"] * 4
    assert not any("drawing" in caption for caption in captions[:10])


def test_every_word_of_a_scene_is_known_to_the_base():
    words = {part for entry in base_words() for part in entry.split()}
    assert set(SCENE_WORDS) <= words


def test_the_decoder_learns_and_its_encoder_stays(prior, tmp_path):
    config = settings(tmp_path, max_train_steps=25, learning_rate=3e-3)
    task = DecoderTask(config, prior[0])
    encoder = {name: tensor.clone() for name, tensor in task.vae.encoder.state_dict().items()}
    run = train(task, config)
    losses = [line["loss"] for line in run.history if "loss" in line]
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert all(torch.equal(encoder[name], tensor) for name, tensor in task.vae.encoder.state_dict().items())
    assert run.history[-1]["validation/psnr_scenes"] > 0
    assert (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").is_file()


def test_the_base_trains_every_weight_that_reaches_a_sample_and_saves_a_pipeline(prior, tmp_path):
    images, captions = prior
    config = settings(tmp_path / "prior", max_train_steps=2, learning_rate=1e-3)
    decoder = DecoderTask(config, images)
    task = BaseTask(config, images, captions, decoder.vae, decoder.code, tmp_path / "latents.npy")
    loss, parts = task.loss(
        task.trainable, task.collate([task.sample(i, np.random.default_rng(i), 0) for i in range(4)])
    )
    loss.backward()
    idle = [name for name, p in task.trainable.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    task.trainable.zero_grad()
    train(task, config)
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "prior" / "pipeline", use_safetensors=True)
    assert pipeline("a street", height=64, width=64, num_inference_steps=2, output_type="np").images.shape == (
        1,
        64,
        64,
        3,
    )


def test_latents_of_the_cache_are_the_encoders(prior, tmp_path):
    images, captions = prior
    config = settings(tmp_path)
    decoder = DecoderTask(config, images)
    task = BaseTask(config, images, captions, decoder.vae, decoder.code, tmp_path / "latents.npy")
    mirrored = torch.from_numpy(images[2][:, ::-1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = decoder.vae.encode(mirrored).latent_dist.mean[0].numpy()
    np.testing.assert_allclose(task.latents[2, 1], expected, atol=1e-2)


def test_both_losses_wait_for_nothing(prior, tmp_path):
    images, captions = prior
    config = settings(tmp_path)
    decoder = DecoderTask(config, images)
    task = BaseTask(config, images, captions, copy.deepcopy(decoder.vae), decoder.code, tmp_path / "latents.npy")
    assert copies_of_a_step(decoder) == []
    assert copies_of_a_step(task) == []
