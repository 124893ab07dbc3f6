"""Any segmenter of transformers that images with masks and classes train, on any backbone of four stages."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForUniversalSegmentation,
    DetrConfig,
    Mask2FormerForUniversalSegmentation,
    OneFormerConfig,
    VideomtConfig,
)
from unit_segmenters import OTHER_BACKBONES, backbone_config, unit_config

from seggen_hf.config import SegmenterConfig
from seggen_hf.data.schema import labels_of
from seggen_hf.segmenter.architectures import find_backbone, segmenter_class, unused_parameters
from seggen_hf.segmenter.build import build_segmenter, find_config
from seggen_hf.segmenter.inference import predict_semantic
from seggen_hf.trainers.segmenter import SegmenterTask

UNUSED = {"maskformer-swin": "model.layernorm", "focalnet": "focalnet.layernorm", "bit": "bit.norm"}


@pytest.mark.parametrize("kind", OTHER_BACKBONES)
def test_a_mask2former_trains_on_any_backbone_of_four_stages(scene_records, tmp_path, kind):
    """Its own weights of the pretrained backbone, a gradient for all that trains, the same after it was saved."""
    pretrained = AutoModel.from_config(backbone_config(kind))
    pretrained.save_pretrained(tmp_path / "backbone")
    config = unit_config(kind)
    (tmp_path / "unit.json").write_text(json.dumps(config.to_dict()))
    settings = SegmenterConfig(
        model=str(tmp_path / "unit.json"),
        backbone_model=str(tmp_path / "backbone"),
        crop_height=64,
        crop_width=64,
    )
    task = SegmenterTask.from_config(settings, scene_records)
    model = task.trainable
    state = find_backbone(model).state_dict()
    values = [value for value in pretrained.state_dict().values() if value.dim() > 1]
    assert values and all(any(torch.equal(value, mine) for mine in state.values()) for value in values)
    rates = {g["lr"] for g in task.parameter_groups() if any(p is q for p in g["params"] for q in [_first(model)])}
    assert rates == {1e-5}
    model.train()
    batch = task.collate([task.sample(i, np.random.default_rng(i), 0) for i in range(2)])
    task.loss(model, batch)[0].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    task.save(tmp_path / "saved")
    labels = labels_of(scene_records)
    again, processor = build_segmenter(tmp_path / "saved", labels)
    picture = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    maps = [predict_semantic(found, processor, [picture], return_scores=True)[0] for found in (model, again)]
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-4, atol=1e-5)


def _first(model):
    return next(p for p in find_backbone(model).parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", OTHER_BACKBONES)
def test_what_no_output_depends_on_is_found_without_values(kind):
    model = Mask2FormerForUniversalSegmentation(unit_config(kind)).train()
    found = unused_parameters(model)
    backbone = "model.pixel_level_module.encoder."
    expected = [f"{backbone}{UNUSED[kind]}.{name}" for name in ("weight", "bias")] if kind in UNUSED else []
    assert found == expected and model.training
    out = find_backbone(model)(torch.randn(1, 3, 64, 64))
    sum(features.sum() for features in out.feature_maps).backward()
    lacking = [name for name, p in find_backbone(model).named_parameters() if p.grad is None]
    assert [backbone + name for name in lacking] == found


def test_the_name_mask2former_takes_the_architecture_of_its_backbone(scene_records, tmp_path):
    labels = labels_of(scene_records)
    AutoModel.from_config(backbone_config("dinov3_convnext")).save_pretrained(tmp_path)
    model, _ = build_segmenter("mask2former", labels, backbone_model=str(tmp_path), num_queries=7)
    encoder = find_backbone(model)
    assert encoder.config.model_type == "dinov3_convnext" and encoder.channels == [8, 16, 24, 32]
    assert model.config.num_queries == 7 and model.config.hidden_dim == 256
    with pytest.raises(ValueError, match="mask2former needs --backbone_model"):
        find_config("mask2former", None)
    with pytest.raises(ValueError, match="There is no backbone"):
        find_config("mask2former", None, str(tmp_path / "none"))
    unit_config("swin").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is a mask2former of 0 stages.*dinov3_convnext"):
        find_config("mask2former", None, str(tmp_path / "other"))


@pytest.mark.parametrize("config_class", [OneFormerConfig, DetrConfig, VideomtConfig])
def test_what_masks_and_classes_alone_do_not_train_is_refused_in_a_line(tmp_path, config_class):
    config = config_class()
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"is a {config.model_type}, which pixel_values, mask_labels and") as caught:
        find_config(tmp_path, None)
    assert "\n" not in str(caught.value)


def test_every_segmenter_of_transformers_is_known_to_train_or_not():
    """A new one asks for a look."""
    trained = set()
    for config_class in AutoModelForUniversalSegmentation._model_mapping:
        try:
            segmenter_class(config_class.__new__(config_class))
            trained.add(config_class.model_type)
        except ValueError:
            pass
    assert trained == {"mask2former", "maskformer", "eomt", "eomt_dinov3"}
