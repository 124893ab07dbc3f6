import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from seggen_hf.config import Mask2ImgConfig, SegmenterConfig, Text2MaskConfig, load_recipe
from seggen_hf.config.values import builtin_recipes
from seggen_hf.data.schema import labels_of
from seggen_hf.labels import LabelSet
from seggen_hf.plan.generators import plan_mask2img, plan_text2mask
from seggen_hf.plan.run_plan import plan_recipe
from seggen_hf.plan.segmenter import plan_segmenter
from seggen_hf.plan.stage_plan import GIB
from seggen_hf.trainers.mask2img import Mask2ImgTask
from seggen_hf.trainers.sdxl_config import SDXL_BASE_ID

FULL = {
    "base_model": SDXL_BASE_ID,
    "train_batch_size": 4,
    "mixed_precision": "bf16",
    "gradient_checkpointing": True,
}
SDXL = {"base_model": SDXL_BASE_ID, "train_batch_size": 2, "mixed_precision": "bf16"}


@pytest.mark.slow
def test_sdxl_has_its_published_parameters_and_shapes():
    plan = plan_mask2img(Mask2ImgConfig(**SDXL), measure=False)
    assert plan.parameters["unet"] == 2_567_463_684
    assert plan.parameters["vae"] == 83_653_863
    assert plan.parameters["text_encoder"] == 123_060_480
    assert plan.parameters["text_encoder_2"] == 694_659_840
    assert plan.parameters["controlnet"] == plan.trained == 1_251_014_160
    assert plan.shapes == {
        "latents": (2, 4, 96, 96),
        "caption embeddings": (2, 77, 2048),
        "pooled embeddings": (2, 1280),
        "time ids": (2, 6),
        "condition": (2, 3, 768, 768),
    }
    assert plan.memory["gradients (4 bytes)"] == 4 * plan.trained
    json.dumps(plan.to_dict())


@pytest.mark.slow
def test_a_richer_condition_has_its_channels():
    planned = {}
    for conditioning in ("rgb", "rgb_edges", "bits"):
        config = Mask2ImgConfig(**SDXL, conditioning=conditioning)
        planned[conditioning] = plan_mask2img(config, measure=False, num_labels=133)
    channels = {name: plan.shapes["condition"][1] for name, plan in planned.items()}
    assert channels == {"rgb": 3, "rgb_edges": 4, "bits": 9}
    first = 16 * 9  # weights of the embedding's first convolution for each channel
    assert planned["bits"].trained - planned["rgb"].trained == 6 * first


@pytest.mark.slow
def test_a_lora_of_sdxl_trains_its_own_weights_alone():
    plan = plan_text2mask(Text2MaskConfig(**SDXL, lora_rank=16), num_records=20_210, measure=False)
    assert plan.trained == plan.parameters["lora"] == 23_224_320
    assert any("cache of 20,210 records: 12.4 GB" in note for note in plan.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "trainings"),
    [("ade20k_sdxl", ["text2mask", "mask2img"]), ("coco_panoptic_sdxl", ["mask2img"])],
)
def test_the_full_size_recipes_hold_the_papers_settings_and_plan(name, trainings):
    recipe = load_recipe(name)
    for generator in (recipe.text2mask, recipe.mask2img):
        assert (generator.learning_rate, generator.max_train_steps) == (1e-5, 30_000)
        assert (generator.height, generator.width, generator.base_model) == (768, 768, SDXL_BASE_ID)
    assert (recipe.synthesis.text2mask_steps, recipe.synthesis.mask2img_steps) == (200, 40)
    plan = plan_recipe(recipe, LabelSet.builtin(name.split("_")[0]), processes=8, measure=False)
    stages = {stage.name: stage for stage in plan.stages}
    assert [stage for stage in stages if stage in ("text2mask", "mask2img")] == trainings
    assert stages["segmenter"].samples_per_step == 16
    assert stages["segmenter"].parameters["backbone"] == 23_508_032  # ResNet-50 without its classifier


@pytest.mark.parametrize(
    ("model", "backbone", "total"),
    [
        ("resnet-50", 23_508_032, 44.0e6),  # Mask2Former (arXiv:2112.01527) gives 44 and 216 million
        ("swin-large", 195_204_276, 215.5e6),
        ("facebook/mask2former-swin-large-ade-semantic", 195_204_276, 215.5e6),
    ],
)
def test_the_published_segmenters_have_their_published_sizes(model, backbone, total):
    plan = plan_segmenter(SegmenterConfig(model=model), LabelSet.builtin("ade20k"), measure=False)
    assert plan.parameters["backbone"] == backbone
    assert sum(plan.parameters.values()) == pytest.approx(total, rel=5e-3)
    assert plan.shapes["mask logits"] == (16, 100, 128, 128)


def test_ade20k_has_the_papers_volume():
    recipe = load_recipe("ade20k_sdxl")
    assert (recipe.synthesis.masksyn_variants, recipe.synthesis.imgsyn_variants) == (10, 50)
    assert (recipe.segmenter.p_aug, recipe.segmenter.synthetic_mode) == (0.6, "replace")
    assert recipe.segmenter.max_train_steps == 160_000


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_every_built_in_recipe_is_read(name):
    assert load_recipe(name).name


@pytest.mark.slow
def test_the_plan_of_a_local_base_is_that_of_its_training(miniature_dir, scene_records, tmp_path):
    config = Mask2ImgConfig(base_model=str(miniature_dir), height=32, width=32, train_batch_size=2)
    plan = plan_mask2img(config)
    task = Mask2ImgTask.from_config(
        dataclasses.replace(config, output_dir=str(tmp_path)), scene_records, labels_of(scene_records)
    )
    assert plan.trained == sum(p.numel() for p in task.trainable.parameters())
    task.to(torch.device("cpu"), torch.float32)
    batch = task.collate([task.sample(i, np.random.default_rng(i), 0) for i in range(2)])
    assert tuple(batch["latents"].shape) == plan.shapes["latents"]
    assert tuple(batch["prompt_embeds"].shape) == plan.shapes["caption embeddings"]
    assert tuple(batch["condition"].shape) == plan.shapes["condition"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Text2MaskConfig, Mask2ImgConfig])
def test_gradient_checkpointing_keeps_less(miniature_dir, kind):
    plan = plan_text2mask if kind is Text2MaskConfig else plan_mask2img
    sizes = [
        sum(plan(kind(base_model=str(miniature_dir), height=64, width=64, gradient_checkpointing=on)).memory.values())
        for on in (False, True)
    ]
    assert sizes[1] < sizes[0]


def test_what_a_training_would_refuse_is_refused_here(miniature_dir, tmp_path):
    with pytest.raises(ValueError, match="--height is 765; it must be a multiple of 8"):
        Text2MaskConfig(height=765)
    with pytest.raises(ValueError, match="'to_z', which names no layer"):
        plan_text2mask(Text2MaskConfig(base_model=str(miniature_dir), lora_rank=2, lora_targets=["to_z"]))
    with pytest.raises(ValueError, match="20.0 GB; --cache_max_gb allows 1"):
        plan_text2mask(Text2MaskConfig(**SDXL, cache_max_gb=1.0), num_records=32_626, measure=False)
    with pytest.raises(ValueError, match="has no readable"):
        plan_text2mask(Text2MaskConfig(base_model=str(tmp_path)))
    changed = tmp_path / "changed"
    shutil.copytree(miniature_dir, changed)
    unet = json.loads((changed / "unet" / "config.json").read_text())
    (changed / "unet" / "config.json").write_text(json.dumps(unet | {"cross_attention_dim": 64}))
    with pytest.raises(ValueError, match="captions of width 64.*write 32"):
        plan_text2mask(Text2MaskConfig(base_model=str(changed), height=32, width=32))


def test_crops_of_any_size_are_planned():
    config = SegmenterConfig(model="unit", crop_height=50, crop_width=70, train_batch_size=3)
    plan = plan_segmenter(config, LabelSet.from_id2label({0: "sky", 1: "sea"}))
    assert plan.shapes["mask logits"] == (3, 10, 13, 18) and plan.shapes["class logits"] == (3, 10, 3)


def test_a_wrong_controlnet_is_refused(miniature_dir, tmp_path):
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(miniature_dir, subfolder="unet")
    ControlNetModel.from_unet(unet).save_pretrained(tmp_path / "wrong")
    with pytest.raises(ValueError, match="8-fold"):
        plan_mask2img(
            Mask2ImgConfig(
                base_model=str(miniature_dir), height=32, width=32, controlnet_model=str(tmp_path / "wrong")
            )
        )


# What an H200 showed: SDXL's configuration with random weights, 768 pixels, batch 4, bf16, gradient checkpointing; the
# peaks of torch's allocator (torch 2.11, diffusers 0.42.1). The LoRA's was that of encoding the data, with the U-Net,
# which now comes later, on the card.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "config", "seen"),
    [
        (plan_text2mask, Text2MaskConfig(**FULL, ema_decay=0.9999), 49.0),
        (plan_text2mask, Text2MaskConfig(**FULL, ema_decay=0.9999, lora_rank=32), 10.2),
        (plan_mask2img, Mask2ImgConfig(**FULL), 24.9),
    ],
)
def test_the_planned_memory_of_sdxl_is_what_a_card_showed(plan, config, seen):
    planned = plan(config)
    peak = planned.peak
    if config.lora_rank:
        peak = planned.phases["encodes the data"] + planned.waiting["encodes the data"]
    assert peak / GIB == pytest.approx(seen, rel=0.1)
    assert planned.flops == pytest.approx(14e12 if not config.lora_rank else 10.4e12, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_activations_are_measured_in_every_precision(miniature_dir, precision):
    settings = {"base_model": str(miniature_dir), "height": 32, "width": 32, "mixed_precision": precision}
    for plan in (plan_text2mask(Text2MaskConfig(**settings)), plan_mask2img(Mask2ImgConfig(**settings))):
        assert next(size for name, size in plan.memory.items() if name.startswith("activations")) > 0
