"""The whole loop on FLUX.2-klein at unit size: trained, drawn with, reported, and staged to be pushed."""

import json
import re

import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from seggen_hf.config import load_recipe
from seggen_hf.hub.publish import stage
from seggen_hf.hub.push_plan import plan_push
from seggen_hf.pipelines import Flux2Mask2ImgPipeline, Flux2Text2MaskPipeline
from seggen_hf.runs.preflight import check_run
from seggen_hf.runs.runner import run_stages
from seggen_hf.synthesis import load_synthetic

GENERATOR = "lora_rank: 2, max_train_steps: 2, train_batch_size: 2, num_validation_images: 1"
RECIPE = """name: flux
data: {{max_train_records: 4, max_test_records: 2, test_splits: [test], height: 64, width: 64}}
text2mask: {{base_model: {base}, {generator}, validation_inference_steps: 1}}
mask2img: {{base_model: {base}, {generator}, validation_inference_steps: 1{more}}}
synthesis: {{text2mask_steps: 1, mask2img_steps: 1, max_color_distance: 500, max_ignored_share: 1.0, batch_size: 2,
  masksyn_variants: 1, imgsyn_variants: 1{scale}}}
segmenter: {{model: unit, max_train_steps: 2, train_batch_size: 2, crop_height: 64, crop_width: 64}}
evaluation: {{arms: [real, synthetic]}}
"""


def write_recipe(folder, base, more="", scale=""):
    path = folder / "flux.yaml"
    path.write_text(RECIPE.format(base=base, generator=GENERATOR, more=more, scale=scale))
    return path


@pytest.fixture(scope="module")
def flux2_run(made_once, flux2_dir, tmp_path_factory):
    recipe = load_recipe(write_recipe(tmp_path_factory.mktemp("recipe"), flux2_dir))
    return made_once("flux2-run", lambda place: run_stages(recipe, place, command="seggen run flux.yaml"))


@pytest.mark.slow
def test_a_run_trains_draws_and_reports(flux2_run):
    made = load_synthetic(flux2_run / "synthetic")
    assert {"masksyn", "imgsyn"} == set(made["kind"][:])
    assert made[0]["image"].size == (64, 64) and made[0]["segmentation_map"].size == (64, 64)
    for name, kind in (("text2mask", Flux2Text2MaskPipeline), ("mask2img", Flux2Mask2ImgPipeline)):
        pipeline = kind.from_pretrained(flux2_run / name, use_safetensors=True)
        assert pipeline.trained_size == (64, 64) and pipeline.codec.num_labels > 1
        card = (flux2_run / name / "README.md").read_text()
        assert f"from seggen_hf import {kind.__name__}" in card and "ControlNet" not in card
    assert (flux2_run / "report.md").is_file()


@pytest.mark.slow
def test_what_is_pushed_holds_the_adapters_and_snippets_that_run(flux2_run, flux2_dir, tmp_path, monkeypatch):
    plan = plan_push(flux2_run, "someone", only=["text2mask", "mask2img", "adapters"])
    staged = {artifact.folder.name.removeprefix("flux-"): artifact.folder for artifact in stage(plan)}
    assert set(staged) == {"text2mask", "mask2img", "text2mask-lora", "mask2img-lora"}
    index = json.loads((staged["mask2img"] / "model_index.json").read_text())
    assert index["_class_name"][1] == "Flux2Mask2ImgPipeline"
    monkeypatch.chdir(tmp_path)
    for name, written in (("text2mask-lora", "map.png"), ("mask2img-lora", "image.png")):
        card = (staged[name] / "README.md").read_text()
        snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace("FOLDER_OF_THE_BASE", str(flux2_dir))
        snippet = re.sub(r'hf_hub_download\("[^"]*", ', f'os.path.join("{staged[name]}", ', snippet)
        exec("import os\n" + snippet.replace(f"someone/flux-{name}", str(staged[name])), {})
        assert Image.open(written).size == (64, 64)
    pipeline = Flux2KleinPipeline.from_pretrained(flux2_dir, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(staged["mask2img-lora"])
    shown = Image.open(staged["mask2img-lora"] / "color_map.png").convert("RGB")
    size = {"height": 64, "width": 64, "num_inference_steps": 1, "max_sequence_length": 96, "output_type": "pt"}
    stock = pipeline(shown, "a road", generator=torch.Generator().manual_seed(0), **size).images
    ours = Flux2Mask2ImgPipeline.from_pretrained(staged["mask2img"], use_safetensors=True)
    ours.set_progress_bar_config(disable=True)
    size.pop("max_sequence_length")
    drawn = ours("a road", shown, generator=torch.Generator().manual_seed(0), **size).images
    assert torch.allclose(stock, drawn, atol=1e-5)


def test_settings_that_flux2_has_no_use_for_are_refused_before_the_first_stage(flux2_dir, tmp_path):
    for changes, told in (
        ({"more": ", conditioning: bits"}, "conditioning is 'bits'"),
        ({"scale": ", conditioning_scale: 0.5"}, "conditioning_scale is 0.5.*set it to 1"),
    ):
        recipe = load_recipe(write_recipe(tmp_path, flux2_dir, **changes))
        with pytest.raises(ValueError, match=told):
            check_run(recipe, tmp_path / "run")
