"""Segmenters of unit size: Mask2Formers on backbones of many kinds, EoMTs, and a MaskFormer."""

from transformers import CONFIG_MAPPING, EomtDinov3Config, Mask2FormerConfig, MaskFormerConfig

from seggen_hf.segmenter.sizes import STAGES, named_config

BACKBONES = ("swin", "resnet")
_CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
_WINDOWS = {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
OTHER_BACKBONES = {
    "dinov3_convnext": _CONVNEXT,
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "swinv2": _WINDOWS,
    "maskformer-swin": _WINDOWS,
    "focalnet": {"image_size": 64, "embed_dim": 8, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]},
    "pvt_v2": _CONVNEXT | {"image_size": 64, "num_attention_heads": [1, 2, 4, 8]},
    "bit": {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "num_groups": 4},
}
EOMT_SETTINGS = (
    *("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_blocks"),
    *("num_upscale_blocks", "num_register_tokens", "num_queries", "train_num_points"),
)


def backbone_config(kind: str, **changes):
    """Of one of `OTHER_BACKBONES`."""
    return CONFIG_MAPPING[kind](**OTHER_BACKBONES[kind] | changes)


def unit_config(backbone: str, **changes) -> Mask2FormerConfig:
    config = named_config("unit")
    if backbone == "resnet":
        config.backbone_config = CONFIG_MAPPING["resnet"](
            embedding_size=8,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 2, 1, 1],
            layer_type="basic",
            out_features=STAGES,
        )
    elif backbone in OTHER_BACKBONES:
        config.backbone_config = backbone_config(backbone, out_features=STAGES)
    else:
        config.backbone_config.depths = [1, 2, 1, 1]  # one layer with a shifted window
        config.backbone_config.drop_path_rate = changes.pop("drop_path_rate", 0.0)
    config.use_auxiliary_loss = True
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def eomt_config(kind: str, **changes):
    """Of an EoMT on DINOv2's (`eomt`) or DINOv3's ViT, whose random draw of scales in training is left out."""
    config = named_config("eomt-unit")
    if kind == "eomt_dinov3":
        settings = {name: getattr(config, name) for name in EOMT_SETTINGS}
        config = EomtDinov3Config(**settings, intermediate_size=32, pos_embed_rescale=None)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def maskformer_config() -> MaskFormerConfig:
    return MaskFormerConfig(
        backbone_config=unit_config("swin").backbone_config,
        decoder_config=CONFIG_MAPPING["detr"](
            d_model=32,
            decoder_layers=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            num_queries=10,
            dropout=0.0,
        ),
        fpn_feature_size=32,
        mask_feature_size=32,
    )
