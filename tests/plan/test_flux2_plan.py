"""What trainings and synthesis on FLUX.2-klein take, from its public configuration."""

import pytest
import torch

from seggen_hf.config import Mask2ImgConfig, Text2MaskConfig, load_recipe
from seggen_hf.data.schema import labels_of
from seggen_hf.labels import LabelSet
from seggen_hf.plan.generators import plan_mask2img, plan_text2mask
from seggen_hf.plan.made_up import random_family, random_generators
from seggen_hf.plan.run_plan import plan_recipe
from seggen_hf.plan.stage_plan import GIB
from seggen_hf.trainers.flux2_config import FLUX2_BASE_ID
from seggen_hf.trainers.text2mask import Text2MaskTask

SETTINGS = {
    "base_model": FLUX2_BASE_ID,
    "lora_rank": 16,
    "mixed_precision": "bf16",
    "height": 512,
    "width": 512,
    "train_batch_size": 1,
    "gradient_checkpointing": True,
}


@pytest.mark.slow
def test_flux2_klein_has_its_published_parameters_and_shapes():
    plan = plan_mask2img(Mask2ImgConfig(**SETTINGS), num_records=1000, measure=False)
    assert plan.parameters["transformer"] == 3_875_544_576  # 7.75 GB in bf16, as published
    assert plan.parameters["text_encoder"] == 4_022_468_096  # Qwen3-4B
    assert plan.parameters["vae"] == 84_046_115
    assert plan.trained == plan.parameters["lora"]
    assert plan.shapes == {
        "latents": (1, 128, 32, 32),
        "caption embeddings": (1, 512, 7680),
        "reference latents": (1, 128, 32, 32),
    }
    assert plan.memory["frozen weights (2 bytes each)"] == 2 * plan.parameters["transformer"]
    assert plan.memory["autoencoder, for the maps (4 bytes)"] == 4 * plan.parameters["vae"]
    assert any("cache of 1,000 records: 8." in note for note in plan.notes)  # 512 places of 7,680 numbers


@pytest.mark.slow
def test_the_recipe_s_trainings_fit_a_card_of_24_gb():
    recipe = load_recipe("flux2_klein")
    plan = plan_recipe(recipe, LabelSet.from_id2label({i: f"label {i}" for i in range(8)}), num_records=500)
    stages = {stage.name: stage for stage in plan.stages}
    assert {"text2mask", "mask2img", "synthesize masksyn", "synthesize imgsyn"} <= set(stages)
    for stage in plan.stages:
        worst = max(sum(stage.memory.values()), *stage.phases.values(), 0)
        assert 0 < worst < 0.9 * 24 * GIB, stage.name
    shown, plain = stages["mask2img"], stages["text2mask"]
    assert 1.3 * plain.flops < shown.flops < 2.2 * plain.flops  # the map's tokens beside the image's


def test_a_folder_s_own_figures_are_those_of_its_training(flux2_dir, scene_records, tmp_path):
    settings = SETTINGS | {"base_model": str(flux2_dir), "height": 64, "width": 64, "output_dir": str(tmp_path)}
    config = Text2MaskConfig(**settings)
    plan = plan_text2mask(config)
    task = Text2MaskTask.from_config(config, scene_records, labels_of(scene_records))
    assert plan.trained == sum(p.numel() for p in task.network.parameters() if p.requires_grad)
    assert plan.shapes["latents"] == (1, *task.latent_shape)
    assert plan.flops > 0 and plan.notes[0] == "predicts velocity"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"conditioning": "bits"}, "--conditioning is 'bits'"),
        ({"height": 520}, "must be multiples of 16"),
        ({"base_model": "/nowhere"}, "no readable unet/config.json"),
    ],
)
def test_what_the_training_would_refuse_the_plan_refuses(changes, told):
    with pytest.raises(ValueError, match=told):
        plan_mask2img(Mask2ImgConfig(**SETTINGS | changes), measure=False)


def test_random_weights_of_a_folder_s_sizes_draw(flux2_dir, tmp_path):
    config = Text2MaskConfig(**SETTINGS | {"base_model": str(flux2_dir)})
    family = random_family(config, torch.device("cpu"))
    assert family.base.text_encoder.dtype == family.network.dtype == torch.bfloat16
    assert family.base.text_encoder.get_input_embeddings().num_embeddings >= 256
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: random\ndata: {{height: 64, width: 64}}\nmask2img: {{base_model: {flux2_dir}}}\n")
    labels = LabelSet.from_id2label({0: "sky", 1: "road"})
    made = random_generators(load_recipe(path), labels, True, torch.device("cpu"))
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 1, "prompt": "a", "output_type": "np"}
    ids = made["text2mask"](**settings).segmentation_maps[0]
    ids[ids == 255] = 0
    assert made["mask2img"](segmentation_map=ids, **settings).images.shape == (1, 64, 64, 3)
