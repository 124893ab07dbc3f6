"""Mask2Former configurations by name: miniatures for a CPU, and the sizes that were published."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import AutoConfig, EomtConfig, Mask2FormerConfig, ResNetConfig, SwinConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

# Swin sizes for 64-pixel images on a CPU; the decoder's three layers look at each feature level once.
MINIATURES = {
    "miniature": {
        "embed_dim": 32,
        "depths": [1, 1, 2, 1],
        "width": 64,
        "feedforward": 256,
        "queries": 20,
        "points": 512,
    },
    "unit": {"embed_dim": 8, "depths": [1, 1, 1, 1], "width": 64, "feedforward": 32, "queries": 10, "points": 128},
}
# EoMTs for 64-pixel images on a CPU, with DINOv2's kind of ViT.
EOMT_MINIATURES = {
    "eomt-miniature": {"width": 64, "layers": 6, "blocks": 3, "heads": 4, "queries": 20, "points": 512},
    "eomt-unit": {"width": 16, "layers": 3, "blocks": 2, "heads": 2, "queries": 10, "points": 128},
}
# Swin sizes of Mask2Former's own configurations: width, depths, heads, window, resolution of the backbone's training.
SWIN_SIZES = {
    "swin-tiny": (96, [2, 2, 6, 2], [3, 6, 12, 24], 7, 224),
    "swin-small": (96, [2, 2, 18, 2], [3, 6, 12, 24], 7, 224),
    "swin-base": (128, [2, 2, 18, 2], [4, 8, 16, 32], 12, 384),
    "swin-large": (192, [2, 2, 18, 2], [6, 12, 24, 48], 12, 384),
}
# Those with weights that ship with the package: the miniature, having seen rendered scenes.
SHIPPED = {"miniature-scenes": "miniature-segmenter"}
SEGMENTER_NAMES = (*MINIATURES, *SHIPPED, *EOMT_MINIATURES, "resnet-50", *SWIN_SIZES, "mask2former", "eomt")
STAGES = ["stage1", "stage2", "stage3", "stage4"]
_STAGES: dict[str, Any] = {"out_features": STAGES}  # transformers takes it, and declares no such parameter


def named_config(name: str, backbone=None) -> Any:
    """The configuration of one of `SEGMENTER_NAMES` without weights; its labels are yet to be set.

    The published sizes are those of Mask2Former (arXiv:2112.01527, configs/ade20k/semantic-segmentation) on ResNet-50
    or a Swin transformer, with 100 queries; transformers' defaults are the same in everything but the backbone. With
    the name `mask2former` that is `backbone` (from `backbone_config`).
    """
    if name in EOMT_MINIATURES:
        return _eomt_miniature(name)
    if name in MINIATURES:
        return _miniature_config(name)
    if name == "mask2former":
        return Mask2FormerConfig(backbone_config=backbone)
    return Mask2FormerConfig(backbone_config=_resnet_50() if name == "resnet-50" else _swin(name))


def resolve_segmenter(name_or_path: str | os.PathLike) -> str:
    """A shipped segmenter's name -> its folder; every other name, id or path as it is."""
    name = os.fspath(name_or_path)
    return str(Path(str(resources.files("seggen_hf"))) / "assets" / SHIPPED[name]) if name in SHIPPED else name


def read_backbone(model: str, name_or_path: str | None) -> Any:
    """The configuration of the pretrained model that a segmenter named `model` is built around."""
    if name_or_path is None:
        raise ValueError(f"--model {model} needs --backbone_model: the Hub id or folder of a pretrained backbone.")
    try:
        return AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise ValueError(f"There is no backbone {name_or_path!r}: {str(error).splitlines()[0]}") from error


def backbone_config(name_or_path: str | None) -> Any:
    """That of a pretrained model, with the feature maps of its four stages.

    Raises: `ValueError` if there is none, or it has no four stages.
    """
    config = read_backbone("mask2former", name_or_path)
    names = getattr(config, "stage_names", ["stem"])[1:]
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING or len(names) != len(STAGES):
        raise ValueError(
            f"--backbone_model {name_or_path} is a {config.model_type} of {len(names)} stages; a Mask2Former needs "
            "one of AutoBackbone with four, such as swin, swinv2, resnet, convnext or dinov3_convnext."
        )
    config.out_features = names
    return config


def hub_config(model_id: str) -> Mask2FormerConfig | None:
    """What facebook/mask2former-swin-SIZE-DATA-TASK has on the Hub, known without a look at it; None for others."""
    owner, _, name = model_id.partition("/")
    size = "-".join(name.split("-")[1:3])
    if owner != "facebook" or not name.startswith("mask2former-") or size not in SWIN_SIZES:
        return None
    return Mask2FormerConfig(backbone_config=_swin(size), num_queries=200 if "large-coco" in name else 100)


def _resnet_50() -> ResNetConfig:
    return ResNetConfig(**_STAGES)


def _swin(name: str) -> SwinConfig:
    width, depths, heads, window, resolution = SWIN_SIZES[name]
    return SwinConfig(
        image_size=resolution,
        embed_dim=width,
        depths=depths,
        num_heads=heads,
        window_size=window,
        drop_path_rate=0.3,
        **_STAGES,
    )


def _eomt_miniature(name: str) -> EomtConfig:
    size = EOMT_MINIATURES[name]
    return EomtConfig(
        image_size=64,
        patch_size=8,
        hidden_size=size["width"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_blocks=size["blocks"],
        num_upscale_blocks=1,
        num_register_tokens=2,
        num_queries=size["queries"],
        train_num_points=size["points"],
    )


def _miniature_config(name: str) -> Mask2FormerConfig:
    """No dropout and no stochastic depth: it is small enough."""
    size = MINIATURES[name]
    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        window_size=4,
        embed_dim=size["embed_dim"],
        depths=size["depths"],
        num_heads=[1, 2, 4, 8],
        drop_path_rate=0.0,
        **_STAGES,
    )
    return Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=size["width"],
        mask_feature_size=size["width"],
        hidden_dim=size["width"],
        encoder_layers=1,
        decoder_layers=4,  # transformers builds one layer fewer: the first prediction needs none
        encoder_feedforward_dim=size["feedforward"],
        dim_feedforward=size["feedforward"],
        num_attention_heads=4,
        num_queries=size["queries"],
        train_num_points=size["points"],
    )
