import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    ResNetConfig,
    ResNetForImageClassification,
    pipeline,
)

from seggen_hf.labels import LabelSet
from seggen_hf.segmenter.build import build_segmenter, load_segmenter
from seggen_hf.segmenter.inference import describe_inference, inference_size, normalize, predict_semantic
from seggen_hf.segmenter.sizes import MINIATURES, named_config

LABELS = LabelSet.from_id2label({0: "sky", 1: "road", 2: "car"})


@pytest.fixture(scope="module")
def segmenter():
    """A unit-size segmenter whose random masks and classes are scaled up, so that its maps have several labels."""
    model, processor = build_segmenter("unit", LABELS)
    with torch.no_grad():
        for parameter in model.model.transformer_module.decoder.mask_predictor.parameters():
            parameter.mul_(3)
    torch.nn.init.normal_(model.class_predictor.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return model.eval(), processor


@pytest.fixture(scope="module")
def folder(segmenter, tmp_path_factory):
    path = tmp_path_factory.mktemp("segmenter")
    segmenter[0].save_pretrained(path)
    segmenter[1].save_pretrained(path)
    return path


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def naive_prediction(model, processor, image):
    """One image, its own padding, no batch."""
    height, width = image.shape[:2]
    pixels = (torch.from_numpy(image).float() / 255 - torch.tensor(processor.image_mean)) / torch.tensor(
        processor.image_std
    )
    padded = torch.zeros(1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    padded[0, :, :height, :width] = pixels.permute(2, 0, 1)
    with torch.no_grad():
        out = model(pixel_values=padded)
    masks = torch.nn.functional.interpolate(out.masks_queries_logits, padded.shape[-2:], mode="bilinear").sigmoid()
    scores = sum(
        out.class_queries_logits[0, q].softmax(-1)[:-1, None, None] * masks[0, q, :height, :width]
        for q in range(masks.shape[1])
    )
    return scores


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_the_miniatures_are_real_mask2formers_that_need_no_seed(name):
    before = torch.random.get_rng_state()
    model, processor = build_segmenter(name, LABELS, seed=3)
    assert type(model) is Mask2FormerForUniversalSegmentation
    assert model.config.id2label == LABELS.id2label and model.class_predictor.out_features == 4
    assert torch.equal(before, torch.random.get_rng_state())
    again, _ = build_segmenter(name, LABELS, seed=3)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert processor.ignore_index == 255 and processor.do_reduce_labels is False


def test_batches_of_mixed_sizes_equal_single_images(segmenter):
    model, processor = segmenter
    images = [picture(64, 64), picture(50, 70, 1), picture(33, 40, 2), picture(64, 90, 3), picture(40, 64, 4)]
    scores = predict_semantic(model, processor, images, batch_size=3, return_scores=True)
    maps = predict_semantic(model, processor, [Image.fromarray(image) for image in images])
    for image, score, segmentation_map in zip(images, scores, maps, strict=True):
        assert score.shape == (3, *image.shape[:2])
        torch.testing.assert_close(
            torch.from_numpy(score), naive_prediction(model, processor, image), rtol=1e-4, atol=1e-5
        )
        assert segmentation_map.dtype == np.int32
        assert (segmentation_map == score.argmax(0)).mean() > 0.999  # ties between rounding errors aside
    assert len(np.unique(np.concatenate([m.ravel() for m in maps]))) > 1


def test_resized_inference_returns_the_original_size(segmenter):
    model, _ = segmenter
    _, processor = build_segmenter("unit", LABELS, short_side=64)
    assert inference_size(100, 200, processor) == (64, 128)
    assert inference_size(64, 1000, processor) == (16, 256)  # the long side is limited
    (prediction,) = predict_semantic(model, processor, [picture(100, 201)])
    assert prediction.shape == (100, 201)
    assert "short side of 64" in describe_inference(processor)
    assert "own size" in describe_inference(build_segmenter("unit", LABELS)[1])


def test_prediction_leaves_the_model_in_its_mode(segmenter):
    model, processor = segmenter
    model.train()
    predict_semantic(model, processor, [picture(32, 32)])
    assert model.training
    model.eval()


def test_normalize_is_what_the_processor_does(segmenter):
    image = picture(64, 64)
    expected = segmenter[1](Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(normalize(image, segmenter[1]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_saved_folder_loads_with_the_stock_classes(segmenter, folder):
    model = AutoModelForUniversalSegmentation.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    images = [picture(64, 64), picture(40, 70, 1)]
    for a, b in zip(predict_semantic(model, processor, images), predict_semantic(*segmenter, images), strict=True):
        np.testing.assert_array_equal(a, b)
    segments = pipeline("image-segmentation", model=str(folder), image_processor=processor, device="cpu")(
        Image.fromarray(images[1]), subtask="semantic"
    )
    assert {segment["label"] for segment in segments} <= {"sky", "road", "car"}
    assert all(segment["mask"].size == (70, 40) for segment in segments)


@pytest.mark.slow
def test_a_folder_keeps_its_weights_and_other_labels_get_a_new_head(segmenter, folder):
    same, _ = build_segmenter(folder, LABELS)
    state = segmenter[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in same.state_dict().items())
    other, processor = build_segmenter(folder, LabelSet.from_id2label({0: "a", 1: "b"}), short_side=32)
    assert other.config.id2label == {0: "a", 1: "b"} and other.class_predictor.out_features == 3
    assert other.criterion.empty_weight.shape == (3,)
    for name, value in other.state_dict().items():
        assert name.startswith(("class_predictor", "criterion")) or torch.equal(value, state[name]), name
    assert processor.do_resize and inference_size(64, 64, processor) == (32, 32)


def test_to_score_with_other_labels_is_refused(folder, tmp_path):
    assert load_segmenter(folder, LABELS)[0].config.id2label == LABELS.id2label
    others = LabelSet.from_id2label({0: "sky", 1: "sea", 2: "car", 3: "boat"})
    with pytest.raises(ValueError, match="other labels: 1: road / sea, 3: none / boat"):
        load_segmenter(folder, others)
    named_config("unit").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no weights"):
        load_segmenter(tmp_path, LABELS)


def test_half_precision_checkpoints_load_as_float32(segmenter, tmp_path):
    """transformers 5 would keep the checkpoint's own precision."""
    build_segmenter("unit", LABELS)[0].half().save_pretrained(tmp_path)
    assert next(AutoModelForUniversalSegmentation.from_pretrained(tmp_path).parameters()).dtype == torch.float16
    assert next(build_segmenter(tmp_path, LABELS)[0].parameters()).dtype == torch.float32


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_config_alone_gives_random_weights(tmp_path, as_folder):
    config = named_config("unit")
    config.use_auxiliary_loss = False  # transformers then fails on any forward pass
    config.save_pretrained(tmp_path)
    model, processor = build_segmenter(tmp_path if as_folder else tmp_path / "config.json", LABELS)
    assert model.config.num_labels == 3
    assert predict_semantic(model, processor, [picture(32, 32)])[0].shape == (32, 32)


def resnet_config(**changes):
    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", **changes
    )


def test_a_resnet_backbone_takes_its_weights_and_keeps_its_batch_norm(tmp_path):
    config = named_config("unit").to_dict()
    backbone = resnet_config(out_features=["stage1", "stage2", "stage3", "stage4"])
    config["backbone_config"] = backbone.to_dict()
    (tmp_path / "segmenter.json").write_text(json.dumps(config))
    classifier = ResNetForImageClassification(resnet_config()).eval()
    for norm in (m for m in classifier.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
    classifier.save_pretrained(tmp_path / "resnet")

    model, processor = build_segmenter(tmp_path / "segmenter.json", LABELS, backbone_model=str(tmp_path / "resnet"))
    encoder = model.model.pixel_level_module.encoder
    state = encoder.state_dict()
    for name, value in classifier.resnet.state_dict().items():
        assert torch.equal(state[name], value), name
    model.train()
    model(pixel_values=torch.randn(2, 3, 64, 64))
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in state.items())

    model.save_pretrained(tmp_path / "saved")
    assert build_segmenter(tmp_path / "saved", LABELS)[0].class_predictor.out_features == 4
    assert predict_semantic(model, processor, [picture(64, 64)])[0].shape == (64, 64)


def test_weights_of_another_backbone_are_refused(tmp_path):
    ResNetForImageClassification(resnet_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="do not fit the segmenter's swin backbone"):
        build_segmenter("unit", LABELS, backbone_model=str(tmp_path))


def test_unknown_and_foreign_names_are_named(tmp_path):
    with pytest.raises(ValueError, match="no segmenter.*--model.*miniature"):
        build_segmenter(str(tmp_path / "nothing"), LABELS)
    resnet_config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="resnet"):
        build_segmenter(tmp_path, LABELS)


def test_transformers_still_fails_without_the_auxiliary_loss():
    model = Mask2FormerForUniversalSegmentation(named_config("unit"))
    model.config.use_auxiliary_loss = False
    with pytest.raises(TypeError):
        model(pixel_values=torch.zeros(1, 3, 32, 32))


def test_transformers_still_builds_one_decoder_layer_fewer():
    model = Mask2FormerForUniversalSegmentation(named_config("unit"))
    assert len(model.model.transformer_module.decoder.layers) == Mask2FormerConfig().decoder_layers - 10 + 3
