"""An EoMT around a pretrained ViT sees what the ViT sees."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModel,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    EomtConfig,
    ViTConfig,
)

from seggen_hf.labels import LabelSet
from seggen_hf.segmenter.build import build_segmenter, find_config
from seggen_hf.segmenter.vits import resize_patches

LABELS = LabelSet.from_id2label({0: "sky", 1: "road", 2: "car"})
SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
VITS = {
    "dinov2": lambda **changes: Dinov2Config(**SIZES | changes),
    "dinov2_with_registers": lambda **changes: Dinov2WithRegistersConfig(**SIZES | changes),
    "dinov3_vit": lambda **changes: DINOv3ViTConfig(**SIZES, intermediate_size=32, num_register_tokens=2, **changes),
}


def save_vit(folder, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = AutoModel.from_config(config).eval()
        for parameter in vit.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    vit.save_pretrained(folder)
    return vit


@pytest.mark.parametrize("kind", VITS)
def test_its_tokens_are_the_vits(kind, tmp_path):
    """Class, register and patch tokens after all blocks, where no query is among them."""
    vit = save_vit(tmp_path, VITS[kind]())
    model, _ = build_segmenter("eomt", LABELS, backbone_model=str(tmp_path), crop_size=(64, 64), num_queries=9)
    assert model.config.num_blocks == 3 and model.config.num_queries == 9 and model.config.num_upscale_blocks == 2
    assert model.config.model_type == ("eomt_dinov3" if kind == "dinov3_vit" else "eomt")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    model.eval()
    with torch.no_grad():
        context = {"position_embeddings": model.rope_embeddings(pixels)} if kind == "dinov3_vit" else {}
        tokens = model.embeddings(pixels)
        for layer in model.layers:
            tokens = layer(tokens, **context)
        torch.testing.assert_close(model.layernorm(tokens), vit(pixels).last_hidden_state, rtol=1e-3, atol=1e-4)
        assert model(pixels).masks_queries_logits.shape == (2, 9, 16, 16)


def test_smaller_patches_and_other_images_are_resized(tmp_path):
    """DINOv2's own patches have 14 pixels."""
    vit = save_vit(tmp_path, VITS["dinov2_with_registers"](patch_size=14, image_size=70))
    model, _ = build_segmenter("eomt", LABELS, backbone_model=str(tmp_path), crop_size=(96, 96))
    assert model.embeddings.position_embeddings.weight.shape == (36, 16)
    kernel = vit.embeddings.patch_embeddings.projection.weight
    ours = model.embeddings.patch_embeddings.projection.weight
    assert ours.shape == (16, 3, 16, 16) and torch.equal(ours, resize_patches(kernel, 16))
    patches = torch.randn(5, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    enlarged = F.interpolate(patches, size=(16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(F.conv2d(enlarged, ours), F.conv2d(patches, kernel), rtol=1e-3, atol=1e-3)


def test_a_config_of_the_same_sizes_takes_the_weights_and_another_does_not(tmp_path):
    vit = save_vit(tmp_path / "vit", VITS["dinov2"]())
    config = {**SIZES, "num_blocks": 2, "num_register_tokens": 0, "num_queries": 5}
    EomtConfig(**config).save_pretrained(tmp_path / "fits")
    model, _ = build_segmenter(tmp_path / "fits", LABELS, backbone_model=str(tmp_path / "vit"))
    assert torch.equal(model.layers[1].mlp.fc1.weight, vit.encoder.layer[1].mlp.fc1.weight)
    EomtConfig(**config | {"hidden_size": 32}).save_pretrained(tmp_path / "wider")
    with pytest.raises(ValueError, match="do not fit the segmenter's ViT: [0-9]+ are missing or of another size"):
        build_segmenter(tmp_path / "wider", LABELS, backbone_model=str(tmp_path / "vit"))
    with pytest.raises(ValueError, match="There is no backbone"):
        build_segmenter(tmp_path / "fits", LABELS, backbone_model=str(tmp_path / "none"))


@pytest.mark.parametrize(("depth", "blocks"), [(12, 3), (24, 4), (40, 5)])
def test_a_vit_of_each_depth_has_its_published_blocks(tmp_path, depth, blocks):
    DINOv3ViTConfig(num_hidden_layers=depth, rope_theta=50.0).save_pretrained(tmp_path)
    config, has_weights = find_config("eomt", None, str(tmp_path))
    assert (config.num_blocks, config.num_hidden_layers, has_weights) == (blocks, depth, False)
    assert config.rope_parameters["rope_theta"] == 50.0 and config.num_register_tokens == 0


def test_a_vit_of_another_kind_is_refused_in_a_line(tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a vit; an EoMT needs a dinov2, a dinov2_with_registers, a dinov3_vit"):
        find_config("eomt", None, str(tmp_path))
    with pytest.raises(ValueError, match="--model eomt needs --backbone_model"):
        find_config("eomt", None)
