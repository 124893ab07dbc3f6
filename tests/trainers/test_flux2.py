"""Trainings on a FLUX.2-klein of unit size: the stock pipeline's own predictions, flow matching, LoRA, resume."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from generators import build, weights
from PIL import Image

from seggen_hf.config import Mask2ImgConfig, Text2MaskConfig
from seggen_hf.pipelines import Flux2Mask2ImgPipeline, Flux2Text2MaskPipeline, encode_condition
from seggen_hf.trainers.families.choice import family_of
from seggen_hf.trainers.families.flux2 import Flux2, Flux2Encoders
from seggen_hf.trainers.families.sdxl import SDXL
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.mask2img import Mask2ImgTask
from seggen_hf.trainers.objective import FlowObjective
from seggen_hf.trainers.reference import ReferenceTask

KLASSES = {"text2mask": Flux2Text2MaskPipeline, "mask2img": Flux2Mask2ImgPipeline}


def begin(kind, base, out, records, **changes):
    """A task and its settings; a reference picture has 64 pixels a side at least."""
    return build(kind, base, out, records, **({"height": 64, "width": 64, "lora_rank": 2} | changes))


# The family


def test_a_base_s_own_index_tells_its_family(flux2_dir, miniature_dir):
    indices = [json.loads((folder / "model_index.json").read_text()) for folder in (flux2_dir, miniature_dir)]
    assert [family_of(index) for index in indices] == [Flux2, SDXL]
    with pytest.raises(ValueError, match="reads captions by Mistral3ForConditionalGeneration; only klein"):
        family_of(indices[0] | {"text_encoder": ["transformers", "Mistral3ForConditionalGeneration"]})


def test_settings_of_other_families_are_refused_before_anything_is_loaded(flux2_dir, scene_records, tmp_path):
    for changes, told in (
        ({"conditioning": "bits"}, "--conditioning is 'bits'.*has no ControlNet"),
        ({"train_base": True, "lora_rank": 0}, "--train_base is True"),
        ({"controlnet_model": "some/controlnet"}, "--controlnet_model"),
        ({"height": 32, "width": 32}, "sides of at least 64 pixels"),
        ({"snr_gamma": 5.0}, "--snr_gamma is 5.0; FLUX.2 is trained by flow matching"),
    ):
        with pytest.raises(ValueError, match=told):
            begin("mask2img", flux2_dir, tmp_path, scene_records, **changes)
    with pytest.raises(ValueError, match="--train_text_encoders is set; .* is a FLUX.2, whose Qwen3"):
        begin("adapt", flux2_dir, tmp_path, scene_records, train_text_encoders=True, lora_rank=0)


# Flow matching


def test_the_line_leads_from_latents_to_noise():
    objective = FlowObjective({"shift": 3.0, "use_dynamic_shifting": True, "num_train_timesteps": 1000})
    assert objective.num_timesteps == 1000
    timesteps = torch.tensor([0, 499, 999])
    assert objective.sigma(timesteps).tolist() == pytest.approx([0.001, 0.5, 1.0])
    latents, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    noisy, target = objective.add_noise(latents, noise, timesteps), objective.target(latents, noise, timesteps)
    assert torch.allclose(noisy[2], noise[2])
    back = noisy - objective.sigma(timesteps).view(-1, 1, 1, 1) * target
    assert torch.allclose(back, latents, atol=1e-5)
    loss, plain = objective.loss(target + 2, latents, noise, timesteps)
    assert loss.item() == pytest.approx(4, rel=1e-4) and plain.item() == loss.item()
    # A shift that holds for all sizes is part of the training; klein's depends on the size.
    shifted = FlowObjective({"shift": 3.0, "use_dynamic_shifting": False, "num_train_timesteps": 1000})
    assert shifted.sigma(torch.tensor([499])).item() == pytest.approx(0.75)


@pytest.mark.parametrize("kind", ["text2mask", "mask2img"])
def test_training_asks_the_network_what_the_pipeline_asks_it(kind, flux2_dir, scene_records, tmp_path):
    """The tokens, places, sigma and captions of the first step, and what the network says of them."""
    task, _ = begin(kind, flux2_dir, tmp_path, scene_records)
    pipeline, heard = task.to_pipeline(), []
    pipeline.set_progress_bar_config(disable=True)
    hook = task.network.register_forward_hook(
        lambda module, args, kwargs, output: heard.append((kwargs, output[0])), with_kwargs=True
    )
    ids = task.views.resized_map(0)
    shown = {"segmentation_map": task.codec.encode(ids)} if kind == "mask2img" else {}
    noise = torch.randn(1, *task.latent_shape, generator=torch.Generator().manual_seed(3))
    caption = task.captions[0]
    size = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 1.0}
    pipeline(caption, latents=noise, **shown, **size)
    hook.remove()
    (asked, said), count = heard[0], task.latent_shape[1] * task.latent_shape[2]
    assert asked["timestep"].item() == 1.0 and asked["guidance"] is None
    batch = {"timestep": torch.tensor([999]), "prompt_embeds": task.encoders.encode_captions([caption])[0]}
    if kind == "mask2img":
        batch["condition"] = encode_condition(task.codec, ids, 64, 64)
        assert asked["hidden_states"].shape[1] == 2 * count
    with torch.no_grad():
        ours = task.predict(task.network, noise, batch)
    theirs = said[:, :count].transpose(1, 2).reshape(noise.shape)
    assert torch.allclose(ours, theirs, atol=1e-5) and ours.std() > 1e-3


def test_latents_are_those_that_the_pipeline_decodes(flux2_dir, scene_records, tmp_path):
    """The batch norm of latents is undone in sampling: what was encoded comes back as from the bare autoencoder."""
    task, _ = begin("text2mask", flux2_dir, tmp_path, scene_records)
    pixels = torch.from_numpy(np.array(scene_records[0]["image"].resize((64, 64))))[None]
    latents = task.encoders.encode_pixels(pixels)
    assert latents.shape == (1, *task.latent_shape) == (1, 16, 8, 8) and latents.dtype == torch.float32
    vae, images = task.base.vae, pixels.movedim(-1, 1).float() / 127.5 - 1
    with torch.no_grad():
        plain = vae.encode(images).latent_dist.mode()
    std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    undone = Flux2KleinPipeline._unpatchify_latents(latents * std + vae.bn.running_mean.view(1, -1, 1, 1))
    assert torch.allclose(undone, plain, atol=1e-5)


def test_the_cache_keeps_large_embeddings_in_half_precision():
    embeddings = torch.tensor([[70000.0, -1.5, 1e-7, 0.0]])  # beyond float16
    for kind, exact in ((np.float32, embeddings), (np.float16, embeddings.bfloat16().float())):
        assert np.array_equal(Flux2Encoders.unpack(Flux2Encoders.pack(embeddings, kind)), exact.numpy())


# Training


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text2mask", "mask2img"])
def test_a_lora_trains_resumes_and_draws(kind, flux2_dir, scene_records, tmp_path):
    """4 steps == 2, a stop, 2; the artefact is the family's pipeline, and stock with the adapter draws the same."""
    task, config = begin(kind, flux2_dir, tmp_path / "whole", scene_records)
    before = {n: p.clone() for n, p in task.network.named_parameters() if not p.requires_grad}
    run = train(task, config)
    assert isinstance(task, ReferenceTask) == (kind == "mask2img")
    assert all("lora" in n for n, p in task.network.named_parameters() if p.requires_grad)
    assert all(torch.equal(before[n], p) for n, p in task.network.named_parameters() if n in before)
    assert all(np.isfinite(line["loss"]) for line in run.history if "loss" in line)
    first, _ = begin(kind, flux2_dir, tmp_path / "parts", scene_records, max_train_steps=2)
    train(first, begin(kind, flux2_dir, tmp_path / "parts", scene_records, max_train_steps=2)[1])
    train(*begin(kind, flux2_dir, tmp_path / "parts", scene_records))
    whole, parts = weights(tmp_path / "whole", "transformer"), weights(tmp_path / "parts", "transformer")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[n], parts[n]) for n in whole)
    original = weights(flux2_dir, "transformer")
    changed = {n for n in whole if not torch.equal(whole[n], original[n])}
    assert whole.keys() == original.keys() and changed
    assert all(".attn." in name for name in changed)
    assert any("single_transformer_blocks.1.attn.to_out" in name for name in changed)
    with Image.open(tmp_path / "whole" / "validation" / "step-00000004.png") as picture:
        assert picture.size[0] >= 64

    merged = KLASSES[kind].from_pretrained(tmp_path / "whole", use_safetensors=True)
    stock = KLASSES[kind].from_pretrained(flux2_dir, use_safetensors=True, colormap=task.colormap)
    assert merged.trained_size == (64, 64) and merged.codec == task.codec
    shown = {"segmentation_map": task.codec.encode(task.views.resized_map(0))} if kind == "mask2img" else {}

    def draw(pipeline):
        pipeline.set_progress_bar_config(disable=True)
        seed = torch.Generator().manual_seed(1)
        size = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}
        return pipeline("a red house", generator=seed, **shown, **size)[0]

    plain = draw(stock)
    stock.load_lora_weights(tmp_path / "whole" / "lora")
    assert np.abs(draw(stock) - plain).max() > 1e-4
    assert np.abs(draw(stock) - draw(merged)).max() < 1e-5


@pytest.mark.slow
def test_recomputed_activations_change_nothing(flux2_dir, scene_records, tmp_path):
    same = {"max_train_steps": 1, "num_validation_images": 0}
    plain = train(*begin("mask2img", flux2_dir, tmp_path / "plain", scene_records, **same))
    changes = same | {"gradient_checkpointing": True}
    again = train(*begin("mask2img", flux2_dir, tmp_path / "again", scene_records, **changes))
    assert again.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-5)


@pytest.mark.slow
def test_it_trains_without_a_cache(flux2_dir, scene_records, tmp_path):
    changes = {"max_train_steps": 2, "cache_latents": False, "caption_dropout": 0.5, "num_validation_images": 0}
    run = train(*begin("mask2img", flux2_dir, tmp_path, scene_records, **changes))
    assert np.isfinite(run.history[-1]["loss"]) and not (tmp_path / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text2mask", "mask2img"])
def test_in_bf16_the_frozen_networks_are_as_published_and_the_adapter_is_float32(
    kind, flux2_dir, scene_records, tmp_path
):
    task, config = begin(kind, flux2_dir, tmp_path, scene_records, mixed_precision="bf16", max_train_steps=1)
    assert task.base.text_encoder.dtype == torch.bfloat16 and task.base.vae.dtype == torch.float32
    run = train(task, config)
    assert np.isfinite(run.history[0]["loss"])
    trained = {n: p for n, p in task.network.named_parameters() if p.requires_grad}
    assert trained and all(p.dtype == torch.float32 for p in trained.values())
    frozen = {p.dtype for n, p in task.network.named_parameters() if p.ndim > 1 and n not in trained}
    assert frozen == {torch.bfloat16}
    saved, original = weights(tmp_path, "transformer"), weights(flux2_dir, "transformer")
    untouched = [n for n in saved if ".attn." not in n]
    assert untouched and all(torch.equal(saved[n], original[n]) for n in untouched)


@pytest.mark.slow
def test_the_whole_network_trains_too_and_learns(flux2_dir, scene_records, tmp_path):
    """On two records the loss of one fixed batch falls."""
    records = scene_records.select([0, 1])
    changes = {"lora_rank": 0, "max_train_steps": 40, "num_validation_images": 0, "checkpointing_steps": 40}
    task, config = begin("text2mask", flux2_dir, tmp_path, records, **changes)

    def loss() -> float:
        rng = np.random.default_rng(0)
        with torch.no_grad():
            return task.loss(task.network, task.collate([task.sample(i % 2, rng, 0) for i in range(8)]))[0].item()

    train(task, config)
    after = loss()
    task.network.load_state_dict(weights(flux2_dir, "transformer"))
    assert after < 0.9 * loss()
    assert not (tmp_path / "lora").exists()


@pytest.mark.slow
def test_a_base_that_learned_a_domain_is_of_its_family(flux2_dir, scene_records, tmp_path):
    adapted = tmp_path / "adapted"
    changes = {"max_train_steps": 1, "num_validation_images": 1, "validation_inference_steps": 1}
    train(*begin("adapt", flux2_dir, adapted, scene_records, **changes))
    assert family_of(json.loads((adapted / "model_index.json").read_text())) is Flux2
    task, _ = begin("text2mask", adapted, tmp_path / "next", scene_records)
    assert torch.equal(
        task.base.vae.bn.running_mean, Flux2KleinPipeline.from_pretrained(flux2_dir).vae.bn.running_mean
    )


def test_a_scheduler_that_is_none_of_flow_matching_is_told(flux2_dir, scene_records, tmp_path):
    broken = tmp_path / "base"
    shutil.copytree(flux2_dir, broken)
    scheduler = broken / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "DDIMScheduler", "beta_start": 0.1, "beta_end": 0.2}))
    index = json.loads((broken / "model_index.json").read_text())
    index["scheduler"][1] = "DDIMScheduler"
    (broken / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"cannot be loaded: The base's scheduler \(.*\) is none of flow matching"):
        begin("text2mask", broken, tmp_path / "out", scene_records)


def test_names_of_targets_are_the_settings_own_where_they_are_given(flux2_dir, scene_records, tmp_path):
    task, _ = begin("text2mask", flux2_dir, tmp_path, scene_records, lora_targets=["ff.linear_in"])
    trained = [n for n, p in task.network.named_parameters() if p.requires_grad]
    assert len(trained) == 2 and all("ff.linear_in.lora" in name for name in trained)
    with pytest.raises(ValueError, match="'to_qq', which names no layer of the transformer"):
        begin("text2mask", flux2_dir, tmp_path, scene_records, lora_targets=["to_qq"])


def test_the_task_of_a_base_is_that_of_its_family(flux2_dir, miniature_dir, scene_records, tmp_path):
    assert type(begin("mask2img", flux2_dir, tmp_path, scene_records)[0]) is ReferenceTask
    assert type(begin("mask2img", miniature_dir, tmp_path, scene_records, lora_rank=0)[0]) is Mask2ImgTask
    assert Text2MaskConfig().lora_targets == Mask2ImgConfig().lora_targets  # no setting for the user to get wrong
