import json

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from generators import build, weights
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from seggen_hf.config import Mask2ImgConfig
from seggen_hf.data.schema import labels_of, read_map, read_panoptic
from seggen_hf.labels import LabelSet
from seggen_hf.pipelines import Mask2ImgPipeline, PanopticCodec, encode_condition
from seggen_hf.segmenter.build import build_segmenter
from seggen_hf.synthesis.generators import generator_digest
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.mask2img import Mask2ImgTask, embedding_channels


@pytest.mark.slow
def test_the_loss_goes_down(miniature_dir, scene_records, tmp_path):
    task, config = build(
        "mask2img",
        miniature_dir,
        tmp_path,
        scene_records.select([0, 1]),
        max_train_steps=30,
        train_batch_size=4,
        train_base=True,
        checkpointing_steps=0,
    )
    losses = [line["loss"] for line in train(task, config).history if "loss" in line]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.slow
def test_the_controlnet_trains_and_the_base_stays(miniature_dir, scene_records, tmp_path):
    task, config = build("mask2img", miniature_dir, tmp_path, scene_records)
    before = {name: p.clone() for name, p in task.controlnet.named_parameters()}
    train(task, config)
    assert not any(p.requires_grad for p in task.base.unet.parameters())
    original, saved = weights(miniature_dir), weights(tmp_path)
    assert all(torch.equal(original[name], saved[name]) for name in original | saved)
    changed = [name for name, p in task.controlnet.named_parameters() if not torch.equal(p, before[name])]
    assert {"controlnet_mid_block.weight", "controlnet_down_blocks.0.weight"} <= set(changed)


@pytest.mark.slow
@pytest.mark.parametrize("train_base", [False, True])
def test_four_steps_equal_two_then_two_more(miniature_dir, scene_records, tmp_path, train_base):
    changes = {"train_base": train_base, "max_crop_zoom": 1.4, "gradient_checkpointing": train_base}
    train(*build("mask2img", miniature_dir, tmp_path / "whole", scene_records, **changes))
    train(*build("mask2img", miniature_dir, tmp_path / "parts", scene_records, max_train_steps=2, **changes))
    train(*build("mask2img", miniature_dir, tmp_path / "parts", scene_records, **changes))
    for part in ("controlnet", "unet"):
        whole, parts = weights(tmp_path / "whole", part), weights(tmp_path / "parts", part)
        assert all(torch.equal(whole[name], parts[name]) for name in whole | parts)
    moved = any(not torch.equal(t, weights(tmp_path / "whole")[n]) for n, t in weights(miniature_dir).items())
    assert moved == train_base


@pytest.mark.slow
def test_the_artefact_is_a_pipeline_that_draws_from_maps(miniature_dir, scene_records, tmp_path):
    labels = labels_of(scene_records)
    model, processor = build_segmenter("unit", labels)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "segmenter")
    task, config = build(
        "mask2img",
        miniature_dir,
        tmp_path / "run",
        scene_records,
        validation_segmenter=str(tmp_path / "segmenter"),
        num_validation_images=2,
    )
    run = train(task, config)
    numbers = run.history[-1]
    names = [f"validation/{kind}_{of}" for kind in ("alignment", "real") for of in ("pixel_accuracy", "mIoU")]
    assert all(0 <= numbers[name] <= 1 for name in names)
    with Image.open(tmp_path / "run" / "validation" / "step-00000004.png") as grid:
        assert grid.size == (2 * 32 + 2, 3 * 32 + 2 * 2)  # maps, drawn images, real images
    pipeline = Mask2ImgPipeline.from_pretrained(tmp_path / "run")
    prompt = {"segmentation_map": task.views.resized_map(0), "num_inference_steps": 2, "output_type": "np"}
    loaded = pipeline("a house", generator=torch.Generator().manual_seed(0), **prompt).images
    trained = task.to_pipeline()("a house", generator=torch.Generator().manual_seed(0), **prompt).images
    assert loaded.shape == (1, 32, 32, 3) and np.array_equal(loaded, trained)


@pytest.mark.slow
def test_validation_may_draw_nothing_and_its_segmenter_must_have_the_labels(miniature_dir, scene_records, tmp_path):
    task, config = build(
        "mask2img", miniature_dir, tmp_path / "run", scene_records, num_validation_images=0, max_train_steps=1
    )
    assert train(task, config).steps == 1 and not (tmp_path / "run" / "validation").exists()
    others = LabelSet.from_id2label({0: "a", 1: "b"})
    for part in build_segmenter("unit", others):
        part.save_pretrained(tmp_path / "segmenter")
    with pytest.raises(ValueError, match="other labels"):
        build("mask2img", miniature_dir, tmp_path, scene_records, validation_segmenter=str(tmp_path / "segmenter"))


def test_the_condition_of_training_is_that_of_inference(miniature_dir, scene_records, tmp_path):
    task, _ = build("mask2img", miniature_dir, tmp_path, scene_records, height=64, width=64, random_flip=False)
    task.to(torch.device("cpu"), torch.float32)
    batch = task.collate([task.sample(3, np.random.default_rng(0), 0)])
    expected = encode_condition(task.codec, read_map(scene_records[3]["segmentation_map"]), 64, 64)
    assert torch.equal(batch["condition"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", ["rgb_edges", "bits"])
@pytest.mark.parametrize("coding", [None, "shades"])
def test_a_richer_condition_travels_with_the_pipeline(miniature_dir, scene_records, tmp_path, conditioning, coding):
    labels = labels_of(scene_records)
    codec = PanopticCodec(labels, coding) if coding else None
    _, config = build("mask2img", miniature_dir, tmp_path / "run", scene_records, conditioning=conditioning)
    task = Mask2ImgTask.from_config(config, scene_records, labels, codec)
    train(task, config)
    pipeline = Mask2ImgPipeline.from_pretrained(tmp_path / "run")
    channels = {"rgb_edges": 4, "bits": 5}[conditioning]  # 15 labels and void: four digits
    assert pipeline.conditioning == conditioning and pipeline.controlnet.config.conditioning_channels == channels
    seen = []
    pipeline.controlnet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["controlnet_cond"]), with_kwargs=True
    )
    drawn = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 32, "width": 32}
    if coding:
        record = scene_records[0]
        ids, segments = read_panoptic(record["panoptic_map"]), record["segments_info"]
        pipeline("a house", ids, segments_info=segments, **drawn)
        expected = encode_condition(codec, codec.index(ids, segments), 32, 32, conditioning)
    else:
        ids = read_map(scene_records[0]["segmentation_map"])
        pipeline("a house", ids, **drawn)
        expected = encode_condition(task.codec, ids, 32, 32, conditioning)
    assert torch.equal(seen[0], expected)
    assert generator_digest(pipeline) == generator_digest(task.to_pipeline())
    with pytest.raises(ValueError, match=f"conditions of {channels} channels .*--conditioning makes 3"):
        build("mask2img", miniature_dir, tmp_path, scene_records, controlnet_model=str(tmp_path / "run/controlnet"))


@pytest.mark.slow
def test_bf16_keeps_the_bases_precision_in_the_artefact(miniature_dir, scene_records, tmp_path):
    task, config = build("mask2img", miniature_dir, tmp_path, scene_records, mixed_precision="bf16", max_train_steps=2)
    run = train(task, config)
    assert task.base.unet.dtype == torch.bfloat16 and task.controlnet.dtype == torch.float32
    assert np.isfinite(run.history[0]["loss"])
    original, saved = weights(miniature_dir), weights(tmp_path)
    assert all(torch.equal(original[name], saved[name]) for name in original | saved)


@pytest.mark.slow
def test_a_trained_controlnet_can_be_trained_on(miniature_dir, scene_records, tmp_path):
    train(*build("mask2img", miniature_dir, tmp_path / "first", scene_records, max_train_steps=1))
    more, _ = build(
        "mask2img",
        miniature_dir,
        tmp_path / "more",
        scene_records,
        controlnet_model=str(tmp_path / "first" / "controlnet"),
    )
    trained = weights(tmp_path / "first", "controlnet")
    assert all(torch.equal(p, trained[name]) for name, p in more.controlnet.named_parameters())


@pytest.mark.slow
def test_a_controlnet_of_another_reduction_or_base_is_refused(miniature_dir, scene_records, tmp_path):
    task, _ = build("mask2img", miniature_dir, tmp_path, scene_records)
    wrong = ControlNetModel.from_unet(task.base.unet)  # stock channels: 8-fold
    wrong.save_pretrained(tmp_path / "wrong")
    with pytest.raises(ValueError, match="8-fold .*autoencoder 4-fold: it must have 3 channels"):
        build("mask2img", miniature_dir, tmp_path, scene_records, controlnet_model=str(tmp_path / "wrong"))
    with pytest.raises(ValueError, match="--controlnet_model .*nowhere cannot be loaded"):
        build("mask2img", miniature_dir, tmp_path, scene_records, controlnet_model=str(tmp_path / "nowhere"))


def test_the_conditions_reduction_is_the_autoencoders():
    assert [len(embedding_channels(factor)) for factor in (2, 4, 8)] == [2, 3, 4]
    with pytest.raises(ValueError, match="factor 16"):
        embedding_channels(16)


@pytest.mark.slow
def test_a_lora_of_a_controlnet_loads_and_equals_the_fused_artefact(miniature_dir, scene_records, tmp_path):
    """In diffusers' way and in peft's own, to 1e-5 of the ControlNet's outputs."""
    first, config = build("mask2img", miniature_dir, tmp_path / "first", scene_records)
    train(first, config)
    start = tmp_path / "first" / "controlnet"
    lora = {"controlnet_model": str(start), "lora_rank": 2, "lora_alpha": 4, "learning_rate": 0.02}
    task, config = build("mask2img", miniature_dir, tmp_path / "second", scene_records, **lora)
    assert all("lora" in name for name, p in task.controlnet.named_parameters() if p.requires_grad)
    train(task, config)

    def residuals(controlnet):
        width = controlnet.config
        pooled = width.projection_class_embeddings_input_dim - 6 * width.addition_time_embed_dim
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return controlnet.eval()(
                torch.randn(1, 4, 8, 8, generator=draw),
                torch.tensor([400]),
                encoder_hidden_states=torch.randn(1, 5, width.cross_attention_dim, generator=draw),
                controlnet_cond=torch.rand(1, 3, *(8 * task.base.vae_scale_factor,) * 2, generator=draw),
                added_cond_kwargs={"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, 6)},
            )

    def difference(controlnet, other):
        pairs = [(controlnet.mid_block_res_sample, other.mid_block_res_sample)]
        pairs += zip(controlnet.down_block_res_samples, other.down_block_res_samples, strict=True)
        return max((a - b).abs().max().item() for a, b in pairs)

    folder = tmp_path / "second" / "lora"
    fused = residuals(Mask2ImgPipeline.from_pretrained(tmp_path / "second").controlnet)
    assert difference(residuals(ControlNetModel.from_pretrained(start)), fused) > 1e-4
    loaded = ControlNetModel.from_pretrained(start)
    loaded.load_lora_adapter(folder, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    assert difference(residuals(loaded), fused) < 1e-5
    file = folder / "pytorch_lora_weights.safetensors"
    with safe_open(file, framework="pt") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert (settings["r"], settings["lora_alpha"]) == (2, 4)
    theirs = inject_adapter_in_model(LoraConfig(**settings), ControlNetModel.from_pretrained(start))
    assert not set_peft_model_state_dict(theirs, load_file(file)).unexpected_keys
    assert difference(residuals(theirs), fused) < 1e-5


def test_a_lora_leaves_the_base_as_it_is():
    with pytest.raises(ValueError, match="--lora_rank is 2.*without --train_base"):
        Mask2ImgConfig(lora_rank=2, train_base=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_lora_of_a_new_controlnet_trains_its_zero_layers_whole(miniature_dir, scene_records, tmp_path, precision):
    settings = {"lora_rank": 2, "learning_rate": 0.02, "mixed_precision": precision}
    task, config = build("mask2img", miniature_dir, tmp_path, scene_records, **settings)
    trained = {name for name, parameter in task.controlnet.named_parameters() if parameter.requires_grad}
    whole = ("controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block.")
    assert all(name.startswith(whole) or "lora" in name for name in trained)
    assert any("lora_B" in name for name in trained) and any(name.startswith(whole) for name in trained)
    train(task, config)
    assert not (tmp_path / "lora").exists()  # an adapter alone would fit no ControlNet that anybody has
    begun = {name: value for name, value in task._begin_controlnet(task.base.unet.float()).named_parameters()}
    saved = dict(ControlNetModel.from_pretrained(tmp_path / "controlnet").named_parameters())
    assert saved.keys() == begun.keys()
    changed = {name for name in saved if not torch.equal(saved[name], begun[name])}
    assert any(name.endswith("to_q.weight") for name in changed)  # the LoRA, through the zero layers
    assert any(name.startswith("controlnet_down_blocks.") for name in changed)
    kept = [name for name in saved if ".norm" in name]
    if precision == "no":
        assert kept and not changed & set(kept)
