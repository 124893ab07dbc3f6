"""The miniature segmenter with weights: what it knows, what others take over from it, and how it is made."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForUniversalSegmentation
from unit_segmenters import eomt_config, maskformer_config, unit_config

from seggen_hf.config import SegmenterConfig, load_recipe
from seggen_hf.data.scenes.records import scene_labels, scene_records
from seggen_hf.labels import LabelSet
from seggen_hf.plan.segmenter import plan_segmenter
from seggen_hf.runs.preflight import check_run
from seggen_hf.segmenter.architectures import count_queries, prepare_config, resize_queries
from seggen_hf.segmenter.build import build_segmenter, load_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.segmenter.sizes import resolve_segmenter
from seggen_hf.trainers.segmenter_weights import freeze_unused

NAME = "miniature-scenes"
NUCLEI = LabelSet.from_dict(
    {"categories": [{"id": 0, "name": "background"}, {"id": 1, "name": "nucleus", "isthing": 1}]}
)


def test_it_knows_the_scenes():
    model, processor = load_segmenter(resolve_segmenter(NAME), scene_labels())
    scores = evaluate_segmenter(model, processor, scene_records("test", num_records=16), task="panoptic")
    assert scores["PQ"] > 0.8


def test_another_data_set_takes_over_all_but_the_class_head():
    own, _ = load_segmenter(resolve_segmenter(NAME), scene_labels())
    model, _ = build_segmenter(NAME, NUCLEI)
    shipped, made = own.state_dict(), model.state_dict()
    differing = {name for name in made if made[name].shape != shipped[name].shape}
    assert differing == {"class_predictor.weight", "class_predictor.bias", "criterion.empty_weight"}
    assert all(torch.equal(made[name], shipped[name]) for name in made if name not in differing)
    assert model.dtype == torch.float32 and model.config.id2label == NUCLEI.id2label
    freeze_unused(model)
    planned = plan_segmenter(SegmenterConfig(model=NAME, crop_height=64, crop_width=64), NUCLEI)
    assert planned.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


MAKERS = (lambda: unit_config("swin"), maskformer_config, lambda: eomt_config("eomt"))


@pytest.mark.parametrize("number", [6, 10, 15])
@pytest.mark.parametrize("make", MAKERS, ids=["mask2former", "maskformer", "eomt"])
def test_a_segmenter_with_other_queries_keeps_its_first(make, number):
    config = make()
    prepare_config(config)
    model = AutoModelForUniversalSegmentation.from_config(config).eval()
    before = {name: w for name, w in model.state_dict().items() if "quer" in name and w.ndim == 2 and len(w) == 10}
    resize_queries(model, number)
    kept = min(number, 10)
    for name, weights in before.items():
        after = model.state_dict()[name]
        assert len(after) == number and torch.equal(after[:kept], weights[:kept])
    assert before and count_queries(model.config) == number
    with torch.no_grad():
        output = model(pixel_values=torch.zeros(1, 3, 64, 64))
    assert output.class_queries_logits.shape[1] == number


def test_saved_with_other_queries_it_is_read_again(tmp_path):
    model, processor = build_segmenter(NAME, NUCLEI, num_queries=30)
    first = load_file(os.path.join(resolve_segmenter(NAME), "model.safetensors"))
    name = "model.transformer_module.queries_features.weight"
    assert torch.equal(model.state_dict()[name][:24], first[name].float())
    again, _ = build_segmenter(NAME, NUCLEI, num_queries=30)
    assert torch.equal(model.state_dict()[name], again.state_dict()[name])  # the others follow from the seed
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    NUCLEI.save(tmp_path)
    assert count_queries(load_segmenter(tmp_path, NUCLEI)[0].config) == 30


def test_it_is_refused_for_the_scenes_themselves(tiny_recipe, tmp_path):
    with pytest.raises(ValueError, match="more maps than a recipe may see"):
        check_run(load_recipe(tiny_recipe, [f"segmenter.model={NAME}"]), tmp_path / "run")


@pytest.mark.slow
def test_the_script_trains_and_ships_it(load_script, tmp_path):
    script = load_script(Path(__file__).parents[2] / "training" / "train_miniature_segmenter.py")
    script.NUM_RECORDS = 4
    script.main(["--output_dir", str(tmp_path / "run"), "--target", str(tmp_path / "out"), "--max_train_steps", "2"])
    model, _ = load_segmenter(tmp_path / "out", scene_labels())
    assert model.config.num_queries == script.QUERIES
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} <= {torch.float16, torch.int64}
    shipped = load_file(os.path.join(resolve_segmenter(NAME), "model.safetensors"))
    assert {name: w.shape for name, w in weights.items()} == {name: w.shape for name, w in shipped.items()}
    text = (tmp_path / "out" / "README.md").read_text()
    assert "2 steps of 16 crops from 4 scenes" in text and str(tmp_path) not in text
    assert np.isfinite(float(text.split(": PQ ")[1].split(",")[0]))
