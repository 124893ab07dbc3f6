import json

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from generators import build, weights
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from seggen_hf.data.schema import attach_labels, labels_of, read_map
from seggen_hf.pipelines import Text2MaskPipeline
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.objective import DenoisingObjective, min_snr_weights
from seggen_hf.trainers.text2mask import map_validity

TYPES = ("epsilon", "v_prediction", "sample")


def scheduler(prediction_type: str, zero_snr: bool = False) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
    )


# The objective


def test_min_snr_weights_are_those_of_the_paper():
    snr = torch.tensor([0.01, 1.0, 5.0, 100.0])
    assert min_snr_weights(snr, 5.0, "sample").tolist() == pytest.approx([0.01, 1, 5, 5])
    assert min_snr_weights(snr, 5.0, "epsilon").tolist() == pytest.approx([1, 1, 1, 0.05])
    expected = [0.01 / 1.01, 0.5, 5 / 6, 5 / 101]
    assert min_snr_weights(snr, 5.0, "v_prediction").tolist() == pytest.approx(expected)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_pure_noise_keeps_a_finite_positive_weight(prediction_type):
    weight = min_snr_weights(torch.zeros(1), 5.0, prediction_type, zero_terminal=True)
    assert weight.tolist() == [1.0]


@pytest.mark.parametrize("gamma", [0.0, 5.0])
def test_the_three_predictions_of_one_error_weigh_the_same(gamma):
    """One error of x0, told as epsilon, v or x0, has one min-SNR loss."""
    latents, noise, error = (torch.randn(6, 4, 8, 8) for _ in range(3))
    timesteps = torch.tensor([10, 200, 400, 600, 800, 990])
    losses = {}
    for prediction_type in TYPES:
        objective = DenoisingObjective(scheduler(prediction_type).config, gamma)
        alpha = objective.schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        wrong = latents + error
        noisy = objective.add_noise(latents, noise, timesteps)
        implied_noise = (noisy - alpha.sqrt() * wrong) / (1 - alpha).sqrt()
        told = {
            "sample": wrong,
            "epsilon": implied_noise,
            "v_prediction": alpha.sqrt() * implied_noise - (1 - alpha).sqrt() * wrong,
        }
        losses[prediction_type] = objective.loss(told[prediction_type], latents, noise, timesteps)[0].item()
    if gamma:
        assert losses["epsilon"] == pytest.approx(losses["sample"], rel=1e-3)
        assert losses["v_prediction"] == pytest.approx(losses["sample"], rel=1e-3)
    else:
        assert losses["sample"] == pytest.approx(error.square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_training_noises_as_the_sampler_expects(zero_snr):
    sampler = scheduler("sample", zero_snr)
    schedule = DenoisingObjective(sampler.config).schedule
    assert torch.allclose(schedule.alphas_cumprod[:-1], sampler.alphas_cumprod[:-1])
    assert (schedule.alphas_cumprod[-1] == 0) == zero_snr


def test_a_schedule_that_is_not_variance_preserving_is_refused():
    with pytest.raises(ValueError, match="EDMEulerScheduler.*variance-preserving"):
        DenoisingObjective(EDMEulerScheduler().config | {"_class_name": "EDMEulerScheduler"})


# The task


@pytest.mark.slow
def test_the_loss_goes_down(miniature_dir, scene_records, tmp_path):
    task, config = build(
        "text2mask",
        miniature_dir,
        tmp_path,
        scene_records.select([0, 1]),
        max_train_steps=30,
        train_batch_size=4,
        checkpointing_steps=0,
    )
    losses = [line["loss"] for line in train(task, config).history if "loss" in line]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.slow
def test_four_steps_equal_two_then_two_more(miniature_dir, scene_records, tmp_path):
    changes = {"ema_decay": 0.9, "snr_gamma": 5.0, "max_crop_zoom": 1.4}
    train(*build("text2mask", miniature_dir, tmp_path / "whole", scene_records, **changes))
    train(*build("text2mask", miniature_dir, tmp_path / "parts", scene_records, max_train_steps=2, **changes))
    train(*build("text2mask", miniature_dir, tmp_path / "parts", scene_records, **changes))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole | parts)


def test_the_colors_of_the_data_set_are_saved_with_the_pipeline(miniature_dir, scene_records, tmp_path):
    own = labels_of(scene_records).with_own_palette()
    task, _ = build("text2mask", miniature_dir, tmp_path, attach_labels(scene_records, own))
    task.save(tmp_path)
    palette = Text2MaskPipeline.from_pretrained(tmp_path).codec.palette
    assert palette.tolist() == [list(color) for color in own.colors]


@pytest.mark.slow
def test_the_artefact_is_a_pipeline_that_reads_its_own_maps(miniature_dir, scene_records, tmp_path):
    task, config = build("text2mask", miniature_dir, tmp_path, scene_records)
    run = train(task, config)
    pipeline = Text2MaskPipeline.from_pretrained(tmp_path)
    assert pipeline.codec == task.codec
    prompt = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
    loaded = pipeline("a house", generator=torch.Generator().manual_seed(0), **prompt)
    trained = task.to_pipeline()("a house", generator=torch.Generator().manual_seed(0), **prompt)
    assert np.array_equal(loaded.color_maps, trained.color_maps)
    numbers = run.history[-1]
    assert 0 <= numbers["validation/decode_confidence"] <= 1 and numbers["validation/decode_distance"] > 0
    with Image.open(tmp_path / "validation" / "step-00000004.png") as grid:
        assert grid.size == (32, 3 * 32 + 2 * 2)  # the record's map, the drawn one, the read one
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not [p.name for p in files if p.suffix in (".bin", ".pt", ".pkl", ".ckpt") or ".tmp" in p.name]


def predict(unet) -> torch.Tensor:
    """A U-Net's answer to drawn inputs."""
    config, draw = unet.config, torch.Generator().manual_seed(0)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    with torch.no_grad():
        return unet.eval()(
            torch.randn(1, config.in_channels, 8, 8, generator=draw),
            400,
            torch.randn(1, 5, config.cross_attention_dim, generator=draw),
            added_cond_kwargs={"text_embeds": torch.randn(1, pooled, generator=draw), "time_ids": torch.zeros(1, 6)},
        ).sample


@pytest.mark.slow
def test_a_lora_loads_and_equals_the_fused_artefact(miniature_dir, scene_records, tmp_path):
    task, config = build(
        "text2mask", miniature_dir, tmp_path, scene_records, lora_rank=2, lora_alpha=4, learning_rate=0.02
    )
    train(task, config)
    prompt = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}

    def draw(pipeline):
        output = pipeline("a red house", generator=torch.Generator().manual_seed(1), **prompt)
        return output.color_maps if hasattr(output, "color_maps") else output.images

    base = StableDiffusionXLPipeline.from_pretrained(miniature_dir)
    plain = draw(base)
    base.load_lora_weights(tmp_path / "lora")
    with_lora = draw(base)
    fused = draw(Text2MaskPipeline.from_pretrained(tmp_path))
    assert np.abs(with_lora - plain).max() > 1e-3
    assert np.abs(with_lora - fused).max() < 1e-4  # the same sums in another order, through two steps and the VAE

    # Of the U-Net itself 1e-5: fused, by diffusers' loader, and by peft's own.
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert metadata["unet.lora_alpha"] == 4 and metadata["unet.r"] == 2
    settings = {name.removeprefix("unet."): value for name, value in metadata.items()}
    unet = StableDiffusionXLPipeline.from_pretrained(miniature_dir).unet
    theirs = inject_adapter_in_model(LoraConfig(**settings), unet)
    state = {name.removeprefix("unet."): value for name, value in load_file(file).items()}
    assert not set_peft_model_state_dict(theirs, state).unexpected_keys
    outputs = [predict(unet) for unet in (Text2MaskPipeline.from_pretrained(tmp_path).unet, base.unet, theirs)]
    assert (predict(StableDiffusionXLPipeline.from_pretrained(miniature_dir).unet) - outputs[0]).abs().max() > 1e-4
    assert max((output - outputs[0]).abs().max() for output in outputs[1:]) < 1e-5
    assert not any("lora" in name for name in weights(tmp_path))


@pytest.mark.slow
def test_a_lora_trains_nothing_else(miniature_dir, scene_records, tmp_path):
    task, config = build("text2mask", miniature_dir, tmp_path, scene_records, lora_rank=2)
    before = {n: p.clone() for n, p in task.base.unet.named_parameters() if not p.requires_grad}
    train(task, config)
    assert all("lora" in n for n, p in task.base.unet.named_parameters() if p.requires_grad)
    assert all(torch.equal(before[n], p) for n, p in task.base.unet.named_parameters() if n in before)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_bf16_trains_in_float32_and_the_artefact_keeps_the_bases_precision(
    miniature_dir, scene_records, tmp_path, mode
):
    changes = {"mixed_precision": "bf16", "max_train_steps": 2} | ({"lora_rank": 2} if mode == "lora" else {})
    task, config = build("text2mask", miniature_dir, tmp_path, scene_records, **changes)
    run = train(task, config)
    assert np.isfinite(run.history[-1]["validation/decode_distance"])
    assert all(p.dtype == torch.float32 for p in task.trainable.parameters() if p.requires_grad)
    saved, original = weights(tmp_path), weights(miniature_dir)
    assert saved.keys() == original.keys() and all(t.dtype == torch.float32 for t in saved.values())
    if mode == "lora":
        untouched = [n for n in saved if "attn" not in n]
        assert all(torch.equal(saved[n], original[n]) for n in untouched)


@pytest.mark.slow
def test_a_training_on_other_records_keeps_the_first_ones_checkpoints_and_cache(
    miniature_dir, scene_records, tmp_path
):
    changes = {"max_train_steps": 1}
    train(*build("text2mask", miniature_dir, tmp_path, scene_records.select([0, 1]), **changes))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="cannot be continued: records was"):
        train(*build("text2mask", miniature_dir, tmp_path, scene_records.select([3, 4]), **changes))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_without_cache_it_trains_too(miniature_dir, scene_records, tmp_path):
    task, config = build("text2mask", miniature_dir, tmp_path, scene_records, cache_latents=False, caption_dropout=0.5)
    assert train(task, config).steps == 4
    assert not (tmp_path / "cache").exists()


def test_misspelt_lora_targets_and_missing_captions_are_refused(miniature_dir, scene_records, tmp_path):
    with pytest.raises(ValueError, match="'to_qq'.*Did you mean 'to_q'"):
        build("text2mask", miniature_dir, tmp_path, scene_records, lora_rank=2, lora_targets=["to_k", "to_qq"])
    with pytest.raises(ValueError, match="no column 'caption'.*seggen caption"):
        build("text2mask", miniature_dir, tmp_path, scene_records.remove_columns("caption"))
    with pytest.raises(ValueError, match="--base_model /nowhere cannot be loaded"):
        build("text2mask", "/nowhere", tmp_path, scene_records)


def test_captions_that_are_not_read_whole_are_told_once(miniature_dir, scene_records, tmp_path, caplog):
    captions = iter(["a road", "a Straße, a road", "a road " * 40, "eine Straße", *["a lake"] * 4])
    records = scene_records.map(lambda _: {"caption": next(captions)})
    build("text2mask", miniature_dir, tmp_path, records)
    told = [record.getMessage() for record in caplog.records if "captions" in record.getMessage()]
    assert len(told) == 2
    assert told[0].startswith("2 of 8 captions hold characters") and told[0].endswith("first: 'a Straße, a road'")
    assert told[1].startswith("1 of 8 captions are longer than the 30 tokens")
    caplog.clear()
    build("text2mask", miniature_dir, tmp_path, scene_records)
    assert "captions" not in caplog.text


@pytest.mark.parametrize("kind", ["text2mask", "mask2img"])
def test_the_pipeline_knows_the_size_of_its_training(kind, miniature_dir, scene_records, tmp_path):
    task, _ = build(kind, miniature_dir, tmp_path, scene_records, height=16, width=24)
    pipeline = task.to_pipeline()
    assert pipeline.trained_size == (16, 24) and pipeline.codec == task.codec


def test_a_validation_map_is_cropped_as_in_training(miniature_dir, scene_records, tmp_path):
    task, _ = build("mask2img", miniature_dir, tmp_path, scene_records, height=32, width=64)
    whole = read_map(scene_records[0]["segmentation_map"])
    assert np.array_equal(task.views.resized_map(0), whole[16:48])
    assert np.array_equal(task.views.resized_image(0), np.asarray(scene_records[0]["image"])[16:48])


def test_validity_counts_the_labels_that_the_caption_names():
    drawn = np.array([[0, 0], [1, 255]])
    names = {0: "sky", 1: "house", 2: "car, auto"}
    facts = map_validity(drawn, "two houses and a car under the Sky", names, ignore_index=255)
    assert facts == {"valid_share": 0.75, "captioned_labels": 3, "found": 2}
