"""EoMT's forward pass, sizes and rates; its trainings are in tests/trainers."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForUniversalSegmentation
from unit_segmenters import eomt_config

from seggen_hf.labels import LabelSet
from seggen_hf.segmenter.architectures import segmenter_class
from seggen_hf.segmenter.build import build_segmenter, load_segmenter
from seggen_hf.segmenter.eomt import at_side, block_of, block_rate, mask_probabilities
from seggen_hf.segmenter.inference import (
    describe_inference,
    normalize,
    predict_instances,
    predict_panoptic,
    predict_queries,
    predict_semantic,
    without_windows,
)
from seggen_hf.segmenter.layers import adapt_layers

KINDS = ("eomt", "eomt_dinov3")
LABELS = LabelSet.from_id2label({0: "sky", 1: "road", 2: "car"})
THINGS = (2,)


def build(kind, seed=0, adapted=False, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = eomt_config(kind, **changes)
        model = segmenter_class(config)(config)
    if adapted:
        adapt_layers(model)
    return model


def pixels(number=2, side=64):
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_of_a_training_is_the_librarys(kind, monkeypatch):
    """Of each block, with the library's random queries, and their gradients; in evaluation too."""
    theirs, ours = build(kind).train(), build(kind, adapted=True).train()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    draws = torch.rand(2, 2, 10, generator=torch.Generator().manual_seed(2))  # (batch, blocks, queries)
    probabilities = torch.tensor([0.3, 0.8])
    theirs.attn_mask_probs.copy_(probabilities)
    left = [draws[:, 0], draws[:, 1]]
    monkeypatch.setattr(torch, "rand", lambda *_, device=None: left.pop(0))
    said, predict = [], theirs.predict
    monkeypatch.setattr(theirs, "predict", lambda tokens: said.append(predict(tokens)) or said[-1])
    theirs(pixels())
    unmasked = draws > probabilities[:, None]
    found = ours(pixel_values=pixels(), output_auxiliary_logits=True, unmasked=unmasked)
    layers = [*found.auxiliary_logits, found]
    assert len(layers) == len(said) == 3 and not left
    for mine, (masks, classes) in zip(layers, said, strict=True):
        torch.testing.assert_close(mine["masks_queries_logits"], masks, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine["class_queries_logits"], classes, rtol=1e-4, atol=1e-5)
    sum(x.square().sum() for pair in said for x in pair).backward()
    sum(x["masks_queries_logits"].square().sum() + x["class_queries_logits"].square().sum() for x in layers).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)

    monkeypatch.undo()
    for probabilities in ([1.0, 1.0], [0.0, 1.0], [0.0, 0.0]):
        for model in (theirs, ours):
            model.eval().attn_mask_probs.copy_(torch.tensor(probabilities))
        with torch.no_grad():
            results = [model(pixel_values=pixels()).masks_queries_logits for model in (ours, theirs)]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_half_annealed_evaluation_is_no_draw(kind):
    model = build(kind, adapted=True).eval()
    results = []
    for probabilities in ([0.4, 0.6], [0.0, 1.0], [0.4, 0.6]):
        model.attn_mask_probs.copy_(torch.tensor(probabilities))
        with torch.no_grad():
            results.append(model(pixel_values=pixels()).masks_queries_logits)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_says_the_same_alone_and_in_a_batch(kind):
    model = build(kind, adapted=True).train()
    unmasked = torch.rand(3, 2, 10, generator=torch.Generator().manual_seed(0)) > 0.5
    together = model(pixel_values=pixels(3), unmasked=unmasked).masks_queries_logits
    for i in range(3):
        alone = model(pixel_values=pixels(3)[i : i + 1], unmasked=unmasked[i : i + 1]).masks_queries_logits
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


class Copies(TorchDispatchMode):
    """Counts tensors that go from the CPU to the device."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = [x for x in args if torch.is_tensor(x)]
        self.number += (
            torch.is_tensor(out) and out.is_meta and bool(given) and all(x.device.type == "cpu" for x in given)
        )
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_pass_never_waits_for_the_device(kind):
    """On meta, whose tensors have no values: whoever asks for one fails."""
    model = build(kind, adapted=True).to("meta").train()
    unmasked = torch.empty(2, 2, 10, dtype=torch.bool, device="meta")
    model(pixel_values=pixels().to("meta"), unmasked=unmasked)  # DINOv3's places are kept from pass to pass
    with Copies() as copies:
        found = model(pixel_values=torch.empty(2, 3, 64, 64, device="meta"), unmasked=unmasked)
        found.masks_queries_logits.sum().backward()
    assert copies.number == 0


def test_masked_attention_is_annealed_as_published():
    """COCO's 12 epochs: steps 14782 to 29564 for the first of four blocks, to 73910 for the last, of 6 x 14782."""
    steps = 6 * 14782
    assert mask_probabilities(0, steps, 4) == mask_probabilities(14782, steps, 4) == [1.0] * 4
    assert mask_probabilities(29564, steps, 4) == [0.0, 1.0, 1.0, 1.0]
    assert mask_probabilities(59128, steps, 4) == [0.0, 0.0, 0.0, 1.0]
    assert mask_probabilities(73910, steps, 4) == mask_probabilities(steps - 1, steps, 4) == [0.0] * 4
    half = mask_probabilities(59128 + 7391, steps, 4)
    assert half == pytest.approx([0.0, 0.0, 0.0, 0.5**0.9])
    assert mask_probabilities(5, 6, 4) == [0.0] * 4


def test_the_blocks_rates_decay_towards_the_first():
    rates = [block_rate(i, 24, 0.8**23) for i in range(24)]
    assert rates == pytest.approx([0.8 ** (23 - i) for i in range(24)])
    assert [block_rate(i, 3, 1.0) for i in range(3)] == [1.0] * 3 and block_rate(0, 1, 0.1) == 1.0
    assert block_of("layers.11.attention.q_proj") == 11 and block_of("embeddings.patch_embeddings.projection") == 0
    assert block_of("embeddings") == 0
    assert {block_of(name) for name in ("layernorm", "query", "mask_head.fc1", "class_predictor", "")} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_fitted_to_crops_of_another_size(kind, tmp_path):
    """Its weights stay; learned positions are interpolated: those of a ramp are a ramp again."""
    model = build(kind, id2label=LABELS.id2label)
    if kind == "eomt":
        ramp = torch.linspace(0, 1, 8).repeat(8, 1)  # from left to right
        model.embeddings.position_embeddings.weight.data = ramp.flatten()[:, None].repeat(1, 16)
    model.save_pretrained(tmp_path)
    for side in (32, 64, 128):
        fitted, _ = build_segmenter(tmp_path, LABELS, crop_size=(side, side))
        assert fitted.config.image_size == side and not fitted.training
        assert predict_semantic(fitted, build_segmenter(tmp_path, LABELS)[1], [picture(side, side)])[0].max() < 3
        for name, value in fitted.state_dict().items():
            if "position_embeddings" not in name:
                assert torch.equal(value, model.state_dict()[name]), name
                continue
            places = value[:, 0].view(side // 8, side // 8)
            torch.testing.assert_close(places, places[:1].expand_as(places))
            middle = places[0, 1:-1].diff()
            torch.testing.assert_close(
                middle[1:-1], torch.full_like(middle[1:-1], 8 / 7 / (side // 8)), atol=0.01, rtol=0
            )
    assert at_side(model, 64) is model


def test_crops_that_it_cannot_see_are_refused_in_a_line(tmp_path):
    for size in ((64, 32), (60, 60)):
        with pytest.raises(ValueError, match=f"are {size[0]} and {size[1]}; an EoMT sees squares .* 8 pixels"):
            build_segmenter("eomt-unit", LABELS, crop_size=size)
    eomt_config("eomt", patch_size=12, image_size=48).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="patches of 12 pixels and 1 upscaling blocks"):
        build_segmenter(tmp_path, LABELS, crop_size=(48, 48))
    with pytest.raises(ValueError, match="--inference_size is 80; for panoptic segmentation"):
        build_segmenter("eomt-unit", LABELS, crop_size=(64, 64), short_side=80, task="panoptic")


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def loud(model):
    """Its classes and masks scaled up, so that maps have several labels."""
    with torch.no_grad():
        torch.nn.init.normal_(model.class_predictor.weight, generator=torch.Generator().manual_seed(0))
        model.mask_head.fc3.weight.mul_(20)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_panoptic_images_are_seen_whole_and_padded_as_its_own_processor_does(kind, tmp_path):
    eomt_config(kind).save_pretrained(tmp_path)
    model, processor = build_segmenter(tmp_path, LABELS, crop_size=(64, 64), short_side=64, task="panoptic")
    loud(model)
    images = [picture(64, 64), picture(96, 60, 1), picture(30, 100, 2)]
    for index, output in predict_queries(model, processor, images, things=THINGS):
        assert output.padded_size == (64, 64) and max(output.input_size) == 64
        assert output.original_size == images[index].shape[:2] and output.semantic is None
    expected = processor(Image.fromarray(images[0]), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normalize(images[0], processor), expected[0], rtol=1e-4, atol=1e-5)
    stock = processor(Image.fromarray(images[1]), return_tensors="pt")["pixel_values"]
    assert stock.shape == (1, 3, 64, 64)
    for panoptic_map, image in zip(
        (m for m, _ in predict_panoptic(model, processor, images, THINGS)), images, strict=True
    ):
        assert panoptic_map.shape == image.shape[:2]
    found = predict_instances(model, processor, images, THINGS)
    assert any(found) and all(
        i["mask"].shape == image.shape[:2] for f, image in zip(found, images, strict=True) for i in f
    )
    assert "long side at most 64), padded to squares of 64" in describe_inference(processor, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_semantic_images_are_seen_through_windows_where_they_are_no_squares(kind, tmp_path):
    eomt_config(kind).save_pretrained(tmp_path)
    model, processor = build_segmenter(tmp_path, LABELS, crop_size=(64, 64), short_side=64)
    loud(model)
    stripe = picture(64, 64)
    wide = np.concatenate([stripe, stripe[:, ::-1], stripe], axis=1)
    (_, square), (_, long) = sorted(predict_queries(model, processor, [stripe, wide]), key=lambda pair: pair[0])
    scores = torch.einsum("qc,qhw->chw", square.class_logits.softmax(-1)[:, :-1], square.mask_logits.sigmoid())
    shares = scores / scores.sum(0)
    # The first window sees the square; its own part ends in the middle of its overlap with the second.
    torch.testing.assert_close(long.mask_logits.sigmoid()[:, :, :13], shares[:, :, :13], rtol=1e-3, atol=2e-4)
    assert long.mask_logits.shape == (3, 16, 48) and long.original_size == (64, 192)
    stock = processor(Image.fromarray(wide), return_tensors="pt")["pixel_values"]
    assert stock.shape == (3, 3, 64, 64)
    small, tall = predict_semantic(model, processor, [picture(20, 20, 3), picture(90, 50, 4)])
    assert small.shape == (20, 20) and tall.shape == (90, 50)
    assert "short side of 64" in describe_inference(processor, 64) and "overlapping" in describe_inference(
        processor, 64
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_loads_with_the_stock_classes(kind, tmp_path):
    eomt_config(kind).save_pretrained(tmp_path / "config")
    model, processor = build_segmenter(tmp_path / "config", LABELS, crop_size=(48, 48), short_side=48, task="panoptic")
    adapt_layers(loud(model))
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, processor = load_segmenter(tmp_path / "saved", LABELS)
    assert again.config.image_size == 48 and processor.do_pad and processor.size["longest_edge"] == 48
    assert processor.ignore_index is None
    stock = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "saved")
    assert type(stock) is type(again) is segmenter_class(stock.config)
    images = [picture(48, 48), picture(30, 60, 1)]
    maps = [predict_semantic(found, processor, images) for found in (model, again, stock)]
    for i in range(2):
        np.testing.assert_array_equal(maps[0][i], maps[1][i])
        np.testing.assert_array_equal(maps[0][i], maps[2][i])


def test_images_that_were_cut_into_tiles_are_seen_through_windows_of_its_size(tmp_path):
    """For panoptic segmentation too, whose single images are seen whole."""
    model, processor = build_segmenter(
        "eomt-unit", LABELS, crop_size=(64, 64), short_side=64, tiles=2, task="panoptic"
    )
    ((_, output),) = predict_queries(loud(model), processor, [picture(100, 160)], things=THINGS)
    assert output.input_size == (128, 205) and output.semantic is not None
    ((_, single),) = predict_queries(model, without_windows(processor), [picture(100, 160)], things=THINGS)
    assert single.input_size == (40, 64) and single.semantic is None
