import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from waits import copies_of_a_step

from seggen_hf.data.scenes.records import SCENE_WORDS
from seggen_hf.pipelines import generate_palette
from seggen_hf.trainers import prior_pictures
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.miniature_base import BaseTask
from seggen_hf.trainers.miniature_config import BaseConfig, base_words, to_pixels
from seggen_hf.trainers.miniature_decoder import DecoderTask
from seggen_hf.trainers.prior_pictures import PALETTE_SIZES, PriorPictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> PriorPictures:
    return PriorPictures(tmp_path_factory.mktemp("prior"), 6, 4, 10, processes=1)


def settings(folder, **changes) -> BaseConfig:
    defaults = dict(size="unit", num_decoder_scenes=8, train_batch_size=4, logging_steps=1, ema_decay=0.5)
    return BaseConfig(output_dir=str(folder), **(defaults | changes))


@pytest.mark.slow
def test_pictures_are_drawings_first_then_scenes_and_are_read_the_second_time(pictures):
    images = pictures.first()
    assert images.shape == (20, 64, 64, 3) and images.dtype == np.uint8
    assert pictures.captions[:10] == ["a flat drawing of colored shapes"] * 10
    assert not any("drawing" in caption for caption in pictures.captions[10:])
    allowed = {color for n in PALETTE_SIZES for color in map(tuple, generate_palette(n).colors)}
    assert {tuple(c) for c in images[:6].reshape(-1, 3).tolist()} <= allowed
    again = PriorPictures(pictures._file.parent, 6, 4, 10, processes=1)
    assert np.array_equal(again.first(), images) and again.captions == pictures.captions


def test_an_error_of_the_drawing_is_told_to_who_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(
        prior_pictures, "get_context", lambda kind: (_ for _ in ()).throw(OSError("no more processes"))
    )
    with pytest.raises(OSError, match="no more processes"):
        PriorPictures(tmp_path, 1, 1, 1).first()


def test_every_word_of_a_scene_is_known_to_the_base():
    words = {part for entry in base_words() for part in entry.split()}
    assert set(SCENE_WORDS) <= words


@pytest.mark.slow
def test_the_decoder_learns_and_its_encoder_stays(pictures, tmp_path):
    config = settings(tmp_path, max_train_steps=25, learning_rate=3e-3)
    task = DecoderTask(config, pictures)
    encoder = {name: tensor.clone() for name, tensor in task.vae.encoder.state_dict().items()}
    batches = [task.draw(number) for number in range(100, 110)]  # of no step
    measure = lambda: np.mean([float(task.loss(task.trainable, batch)[0].detach()) for batch in batches])  # noqa: E731
    before = measure()
    run = train(task, config)
    assert measure() < 0.8 * before
    assert all(torch.equal(encoder[name], tensor) for name, tensor in task.vae.encoder.state_dict().items())
    assert run.history[-1]["validation/psnr_scenes"] > 0
    assert (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").is_file()


def build_prior(pictures, config) -> BaseTask:
    decoder = DecoderTask(config, pictures)
    return BaseTask(config, pictures, decoder.vae, decoder.code)


@pytest.mark.slow
def test_the_base_trains_every_weight_that_reaches_a_sample_and_saves_a_pipeline(pictures, tmp_path):
    config = settings(tmp_path / "prior", max_train_steps=2, learning_rate=1e-3)
    task = build_prior(pictures, config)
    loss, parts = task.loss(task.trainable, task.draw(0))
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


@pytest.mark.slow
def test_batches_are_the_encoders_latents_of_the_captions_pictures(pictures, tmp_path):
    task = build_prior(pictures, settings(tmp_path))
    batch = task.draw(3)
    plain = to_pixels(task.images)
    with torch.no_grad():
        known = [task.components["vae"].encode(p).latent_dist.mean for p in (plain, plain.flip(-1))]
    for latents, ids in zip(batch["latents"], batch["input_ids"], strict=True):
        found = [int((k - latents).abs().amax((1, 2, 3)).argmin()) for k in known]
        nearest = min(float((k[i] - latents).abs().max()) for k, i in zip(known, found, strict=True))
        assert nearest < 1e-2
        assert any(torch.equal(task.input_ids[i], ids) for i in found)
    # The palettes of data sets are the decoder's alone.
    assert len(task.images) == 14 and np.array_equal(task.images[0].numpy(), pictures.first()[6])


@pytest.mark.slow
def test_a_batch_follows_from_its_number(pictures, tmp_path):
    config = settings(tmp_path)
    for task in (DecoderTask(config, pictures), build_prior(pictures, config)):
        first, again, other = task.draw(5), task.draw(5), task.draw(6)
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.slow
def test_a_resumed_training_of_the_base_sees_the_batches_of_an_unbroken_one(pictures, tmp_path):
    losses = []
    for name, stops in (("whole", (4,)), ("parts", (2, 4))):
        for last in stops:
            config = settings(tmp_path / name, max_train_steps=last, learning_rate=1e-3, lr_scheduler="constant")
            run = train(build_prior(pictures, config), config)
        losses.append([line["loss"] for line in run.history if "loss" in line])
    assert len(losses[0]) == 4 and len(set(losses[0])) == 4
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.slow
def test_both_losses_wait_for_nothing(pictures, tmp_path):
    config = settings(tmp_path)
    assert copies_of_a_step(DecoderTask(config, pictures)) == []
    assert copies_of_a_step(build_prior(pictures, config)) == []
