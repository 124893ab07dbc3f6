"""How a segmenter's weights train: which do at what rate, and which layers a sample skips."""

from typing import Any

import torch
from torch import nn

from ..config import SegmenterConfig
from ..segmenter.architectures import unused_parameters
from ..segmenter.eomt import block_of, block_rate, fixed_side

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
NO_DECAY_PARAMETERS = ("relative_position_bias_table", "absolute_pos_embed")


class SampleDropPath(nn.Module):
    """Stochastic depth whose draws follow from each sample's seed, so that they do not depend on the process."""

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob, self.draws = drop_prob, None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training or self.draws is None:
            return hidden_states
        keep = (self.draws >= self.drop_prob).to(hidden_states)
        return hidden_states * (keep / (1 - self.drop_prob)).view(-1, *[1] * (hidden_states.ndim - 1))


def seed_drop_path(model: nn.Module) -> list[SampleDropPath]:
    """Replace the stochastic depth layers of `model` by `SampleDropPath`, in place, and return those."""
    ours = []
    for module in list(model.modules()):
        child: Any
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("DropPath") and not isinstance(child, SampleDropPath):
                setattr(module, name, SampleDropPath(child.drop_prob))
                ours.append(getattr(module, name))
    return ours


def freeze_unused(model: nn.Module) -> None:
    """Freeze what the loss never reaches, such as the last norm of a Swin backbone: data parallel training waits for
    it."""
    for name in unused_parameters(model):
        model.get_parameter(name).requires_grad_(False)


def parameter_groups(model: nn.Module, config: SegmenterConfig) -> list[dict]:
    """Mask2Former's groups (its train_net.py): backbone at a smaller rate, no decay of norms and embeddings.

    The blocks of an EoMT's ViT each have a rate of their own (`block_rate`).
    """
    model_config: Any = model.config
    is_vit, depth = fixed_side(model_config) is not None, getattr(model_config, "num_hidden_layers", 0)
    rates: dict[Any, float] = {True: config.backbone_lr_multiplier}
    if is_vit:
        rates = {block: block_rate(block, depth, config.backbone_lr_multiplier) for block in range(depth)}
    groups: dict[tuple[Any, bool], list] = {}
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            part = block_of(module_name) if is_vit else "pixel_level_module.encoder" in module_name
            decays = not isinstance(module, (*NORMS, nn.Embedding)) and name not in NO_DECAY_PARAMETERS
            groups.setdefault((part, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.learning_rate * rates.get(part, 1.0),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in groups.items()
    ]
