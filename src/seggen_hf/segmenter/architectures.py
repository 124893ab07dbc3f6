"""Which models of `transformers` can be a segmenter, and what their parts are."""

import inspect
from typing import Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING

from .eomt import fixed_side

TITLES: dict[str, str] = {
    "mask2former": "Mask2Former",
    "maskformer": "MaskFormer",
    "eomt": "EoMT",
    "eomt_dinov3": "EoMT",
}
INPUT, TARGETS = "pixel_values", {"mask_labels", "class_labels"}


def segmenter_class(config, source="The segmenter") -> Any:
    """The class of `AutoModelForUniversalSegmentation` for `config`.

    Raises: `ValueError` for one that images with masks and classes alone do not train: `source` says where it is from.
    """
    kind = config.model_type
    if type(config) not in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
        raise ValueError(f"{source} is a {kind}, no segmenter; name a mask2former, maskformer, eomt or eomt_dinov3.")
    found: Any = MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING[type(config)]
    inputs = inspect.signature(found.forward).parameters
    more = [name for name, p in inputs.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    lacking = sorted({INPUT, *TARGETS} - set(inputs)) or sorted(set(more) - {"self", INPUT})
    # An input of videos has a default, and so has that of images beside it.
    if lacking or found.main_input_name != INPUT:
        raise ValueError(
            f"{source} is a {kind}, which {INPUT}, mask_labels and class_labels alone do not train; name a "
            f"mask2former, maskformer, eomt or eomt_dinov3."
        )
    return found


def find_backbone(model: nn.Module) -> nn.Module:
    """The part of a Mask2Former or MaskFormer that has its own weights on the Hub."""
    segmenter: Any = model
    return segmenter.model.pixel_level_module.encoder


def prepare_config(config) -> None:
    """Let the model of `config`, in place, tell what each decoder layer says, and be of float32 in all its parts."""
    for part in (config, getattr(config, "backbone_config", None)):
        if part is not None:  # of weights saved in fp16: a backbone built from it alone would be of fp16
            part.dtype = None
    # Without the auxiliary loss transformers 5.23's Mask2Former fails on a forward pass that does not ask for hidden
    # states; its MaskFormer does with it.
    if hasattr(config, "use_auxiliary_loss"):
        config.use_auxiliary_loss = True
    if config.model_type == "maskformer":
        config.output_hidden_states = True


def count_queries(config) -> int:
    return _holder_of_queries(config).num_queries


def set_num_queries(config, number: int | None) -> None:
    """Give a segmenter's `config`, in place, another number of queries, if there is a `number`."""
    holder = _holder_of_queries(config)
    holder.num_queries = number or holder.num_queries


def resize_queries(model: nn.Module, number: int | None) -> None:
    """Give a segmenter with weights, in place, another number of queries, if there is a `number`: the first of its
    own, which have learnt what to look for, and random ones beyond them."""
    config: Any = model.config
    before = count_queries(config)
    if number in (None, before):
        return
    for parent in list(model.modules()):
        for name, queries in list(parent.named_children()):
            if isinstance(queries, nn.Embedding) and "quer" in name and queries.num_embeddings == before:
                resized = nn.Embedding(number, queries.embedding_dim)
                kept = min(number, before)
                with torch.no_grad():
                    resized.weight[:kept] = queries.weight[:kept]
                setattr(parent, name, resized)
    set_num_queries(config, number)


def _holder_of_queries(config) -> Any:
    return config if hasattr(config, "num_queries") else config.decoder_config  # MaskFormer's decoder is a DETR's


def title_of(config: Any) -> str:
    """What a segmenter is called in texts."""
    kind: str = config.model_type
    return TITLES.get(kind, kind)


def parts_of(model: Any) -> dict[str, list[nn.Module]]:
    """The modules of each part, which together hold all parameters."""
    if fixed_side(model.config) is not None:
        return {
            "ViT": [model.embeddings, model.layers, model.layernorm],
            "queries": [model.query],
            "mask head": [model.mask_head, model.upscale_block],
            "class head": [model.class_predictor],
        }
    parts = {
        "backbone": [find_backbone(model)],
        "pixel decoder": [model.model.pixel_level_module.decoder],
        "transformer": [model.model.transformer_module],
        "class head": [model.class_predictor],
    }
    return parts | ({"mask head": [model.mask_embedder]} if hasattr(model, "mask_embedder") else {})


def unused_parameters(model: Any) -> list[str]:
    """Names of the parameters that no output depends on, such as the last norm of a Swin backbone.

    Asked of a pass without values, so that a backbone that nobody here has heard of needs no list of its own.
    """
    if fixed_side(model.config) is not None:
        return []
    backbone: Any = find_backbone(model)
    size = getattr(backbone.config, "image_size", None) or 64
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    hollow = {name: torch.empty_like(p, device="meta", requires_grad=True) for name, p in backbone.named_parameters()}
    buffers = {name: torch.empty_like(buffer, device="meta") for name, buffer in backbone.named_buffers()}
    pixels = torch.empty(1, backbone.config.num_channels, height, width, device="meta")
    was_training = backbone.training
    backbone.eval()  # a training's layers may compute themselves again in the backward pass, with their true weights
    outputs: Any = torch.func.functional_call(backbone, (hollow, buffers), (pixels,))
    backbone.train(was_training)
    total: Any = sum(features.sum() for features in outputs.feature_maps)
    found = torch.autograd.grad(total, list(hollow.values()), allow_unused=True)
    unused = {id(p) for p, gradient in zip(backbone.parameters(), found, strict=True) if gradient is None}
    return [name for name, parameter in model.named_parameters() if id(parameter) in unused]
