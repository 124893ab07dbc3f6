"""The plan of segmenters other than Mask2Formers on a Swin or ResNet."""

import dataclasses

import numpy as np
import pytest
from transformers import EomtConfig
from unit_segmenters import eomt_config, maskformer_config, unit_config

from seggen_hf.config import EvaluationConfig, SegmenterConfig
from seggen_hf.labels import LabelSet
from seggen_hf.plan.made_up import random_segmenter
from seggen_hf.plan.segmenter import plan_evaluation, plan_segmenter
from seggen_hf.segmenter.inference import predict_panoptic, predict_semantic

CONFIGS = {
    "eomt": lambda: eomt_config("eomt"),
    "eomt_dinov3": lambda: eomt_config("eomt_dinov3"),
    "maskformer": maskformer_config,
    "dinov3_convnext": lambda: unit_config("dinov3_convnext"),
}
LABELS = LabelSet.builtin("ade20k")


@pytest.fixture
def make_config(tmp_path):
    def make(name, **changes) -> SegmenterConfig:
        CONFIGS[name]().save_pretrained(tmp_path)
        sizes = {"crop_height": 64, "crop_width": 64, "train_batch_size": 2}
        return SegmenterConfig(model=str(tmp_path), **sizes | changes)

    return make


def test_eomt_l_has_its_published_size(tmp_path):
    """316 million parameters (arXiv:2503.19108, table 1), at 640 pixels."""
    EomtConfig().save_pretrained(tmp_path)
    config = SegmenterConfig(model=str(tmp_path), crop_height=640, crop_width=640)
    plan = plan_segmenter(config, LabelSet.builtin("coco"), task="panoptic", measure=False)
    assert sum(plan.parameters.values()) == plan.trained == pytest.approx(316e6, rel=0.01)
    assert list(plan.parameters) == ["ViT", "queries", "mask head", "class head"]
    assert plan.shapes["mask logits"] == (16, 200, 160, 160) and plan.shapes["class logits"] == (16, 200, 134)


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
@pytest.mark.parametrize("name", CONFIGS)
def test_training_and_scoring_are_planned_and_can_be_measured(make_config, tmp_path, name, task):
    config = make_config(name)
    training = plan_segmenter(config, LABELS, task=task)
    scoring = plan_evaluation(config, EvaluationConfig(eval_batch_size=2), LABELS, 10, task=task)
    model, processor = random_segmenter(config, LABELS, tmp_path, task)
    assert sum(training.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert training.flops > 2 * scoring.flops > 0 or name.startswith("eomt")
    assert (
        sum(training.memory.values()) > training.trained * 12 and sum(scoring.memory.values()) > 4 * training.trained
    )
    assert training.shapes["mask logits"][2:] == (16, 16)
    picture = np.zeros((64, 85, 3), np.uint8)
    maps = predict_semantic(model, processor, [picture])
    segments = predict_panoptic(model, processor, [picture], LABELS.things)
    assert maps[0].shape == segments[0][0].shape == (64, 85)


def test_what_a_training_recomputes_it_does_not_keep(make_config):
    config = make_config("eomt")
    kept, again = (
        sum(plan_segmenter(dataclasses.replace(config, gradient_checkpointing=on), LABELS).memory.values())
        for on in (False, True)
    )
    assert again < kept


def test_windows_cost_more_than_whole_images(make_config):
    config, settings = make_config("eomt"), EvaluationConfig(eval_batch_size=4)
    semantic, panoptic = (plan_evaluation(config, settings, LABELS, task=task) for task in ("semantic", "panoptic"))
    assert semantic.notes == ["images are seen through 2 windows of 64 pixels"] and panoptic.notes == []
    assert semantic.flops == pytest.approx(2 * panoptic.flops, rel=0.05)


def test_crops_that_it_cannot_see_are_refused(make_config):
    with pytest.raises(ValueError, match="an EoMT sees squares"):
        plan_segmenter(make_config("eomt", crop_width=96), LABELS, measure=False)


def test_a_teacher_costs_its_weights_and_a_forward_pass(make_config):
    config = make_config("dinov3_convnext")
    plain, taught = (plan_segmenter(dataclasses.replace(config, soft_labels=share), LABELS) for share in (0, 0.5))
    assert taught.memory["the teacher (4 bytes)"] == 4 * sum(taught.parameters.values())
    assert plain.trained == taught.trained and 1.2 < taught.flops / plain.flops < 1.6
    with pytest.raises(ValueError, match="soft_labels 0.5 is for task semantic, and this one is panoptic"):
        plan_segmenter(dataclasses.replace(config, soft_labels=0.5), LABELS, task="panoptic")
    assert "the teacher" in taught.notes[-1] and not any("teacher" in note for note in plain.notes)
