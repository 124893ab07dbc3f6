"""Mask2Formers of unit size on both kinds of backbone."""

from transformers import Mask2FormerConfig, ResNetConfig

from seggen_hf.segmenter.sizes import STAGES, named_config

BACKBONES = ("swin", "resnet")


def unit_config(backbone: str, **changes) -> Mask2FormerConfig:
    config = named_config("unit")
    if backbone == "resnet":
        config.backbone_config = ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 2, 1, 1],
            layer_type="basic",
            out_features=STAGES,
        )
    else:
        config.backbone_config.depths = [1, 2, 1, 1]  # one layer with a shifted window
        config.backbone_config.drop_path_rate = changes.pop("drop_path_rate", 0.0)
    config.use_auxiliary_loss = True
    for name, value in changes.items():
        setattr(config, name, value)
    return config
