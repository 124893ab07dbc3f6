"""An EoMT around a pretrained ViT of DINOv2 or DINOv3: its configuration, and the ViT's weights."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, EomtConfig, EomtDinov3Config

from .eomt import resize_positions

PATCH = 16  # of the published EoMTs, also where DINOv2's are 14
BLOCKS = {12: 3, 24: 4, 40: 5}  # with queries, of a ViT's depth, as published
SHARED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps", "drop_path_rate")
OWN = {
    "dinov2": ("mlp_ratio", "use_swiglu_ffn"),
    "dinov3_vit": (
        "intermediate_size",
        "use_gated_mlp",
        "query_bias",
        "key_bias",
        "value_bias",
        "proj_bias",
        "mlp_bias",
    )
    + ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"),
}
OWN["dinov2_with_registers"] = OWN["dinov2"]
RENAMED = {
    "encoder.layer.": "layers.",
    "model.layer.": "layers.",
    "norm.": "layernorm.",
}


def config_around(vit, name: str) -> EomtConfig | EomtDinov3Config:
    """The EoMT on a ViT of the configuration `vit`, of the published form: patches of 16 pixels, masks of a quarter of
    the image's size, 200 queries.

    Raises: `ValueError` if that is none of DINOv2 or DINOv3.
    """
    if vit.model_type not in OWN:
        raise ValueError(f"--backbone_model {name} is a {vit.model_type}; an EoMT needs a {', a '.join(sorted(OWN))}.")
    settings = {key: getattr(vit, key) for key in (*SHARED, *OWN[vit.model_type])}
    depth = vit.num_hidden_layers
    settings |= {
        "patch_size": PATCH,
        "num_register_tokens": getattr(vit, "num_register_tokens", 0),
        "num_blocks": next((blocks for most, blocks in BLOCKS.items() if depth <= most), max(BLOCKS.values())),
    }
    if vit.model_type == "dinov3_vit":
        theta: Any = {"rope_type": "default", "rope_theta": vit.rope_theta}
        return EomtDinov3Config(**settings, rope_parameters=theta)
    return EomtConfig(**settings)


def load_vit(model: nn.Module, name_or_path: str) -> None:
    """Give an EoMT the weights of a pretrained ViT, in place; positions and patches are resized to its own.

    Raises: `ValueError` if there is none, or it has another architecture.
    """
    eomt: Any = model
    try:
        vit: Any = AutoModel.from_pretrained(name_or_path, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"There is no backbone {name_or_path!r}: {str(error).splitlines()[0]}") from error
    state = {_rename(name, eomt.config.model_type): value for name, value in vit.state_dict().items()}
    own = dict(model.named_parameters())
    if (positions := state.pop("embeddings.position_embeddings", None)) is not None:
        state["embeddings.cls_token"] = state["embeddings.cls_token"] + positions[:, :1]
        rows = math.isqrt(positions.shape[1] - 1)
        state["embeddings.position_embeddings.weight"] = resize_positions(
            positions[0, 1:], (rows, rows), eomt.grid_size
        )
        state.setdefault("embeddings.register_tokens", own["embeddings.register_tokens"][:, :0])
    for name in ("embeddings.patch_embeddings.weight", "embeddings.patch_embeddings.projection.weight"):
        if name in state:
            state[name] = resize_patches(state[name], eomt.config.patch_size)
    wanted = [name for name in own if name.startswith(("embeddings.", "layers.", "layernorm."))]
    lacking = [name for name in wanted if name not in state or state[name].shape != own[name].shape]
    if lacking:
        raise ValueError(
            f"The weights of {name_or_path} do not fit the segmenter's ViT: {len(lacking)} are missing or of another "
            f"size, first {lacking[0]}. Name it with --model eomt, which takes its architecture."
        )
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(state[name])


def _rename(name: str, kind: str) -> str:
    for start, ours in RENAMED.items():
        if name.startswith(start):
            name = ours + name.removeprefix(start)
    return name.replace(".o_proj.", ".out_proj.") if kind == "eomt" else name


def resize_patches(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """`(channels, 3, rows, columns)` for patches of another size, by the pseudo-inverse of their resize
    (FlexiViT, arXiv:2212.08013): a patch that is enlarged says what it said before."""
    rows = kernel.shape[-1]
    if rows == size:
        return kernel
    basis = torch.eye(rows * rows).view(rows * rows, 1, rows, rows)
    resized = F.interpolate(basis, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    inverse = torch.linalg.pinv(resized.flatten(1))  # (size * size, rows * rows): basis @ inverse is the identity
    return torch.einsum("no,cdo->cdn", inverse, kernel.flatten(2)).unflatten(2, (size, size))
