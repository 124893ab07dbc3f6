"""EoMT (arXiv:2503.19108), a plain ViT as segmenter, as it is trained: on DINOv2's or DINOv3's architecture.

What differs from `transformers`' two classes, whose parameters and results these have:
- A forward pass returns what each of the last blocks says (`auxiliary_logits`), for this project's own loss.
- Whether a query looks where its mask is, or everywhere, is no draw of the pass: `unmasked` comes with the batch, and
  so follows from each sample's seed. In evaluation a block is masked if its probability is above a half.
- Masked attention has one mask of booleans for all heads.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.eomt import modeling_eomt
from transformers.models.eomt_dinov3 import modeling_eomt_dinov3

POWER = 0.9  # of the annealing, as published
STRIDES = (1, 2, 4, 8)  # of its masks: windows over an image begin at multiples of 8 pixels


def mask_stride(config) -> int:
    """Pixels of the image, along a side, of one of a segmenter's masks'."""
    return 4 if fixed_side(config) is None else config.patch_size // 2**config.num_upscale_blocks


def settle_masking(model: nn.Module, masked: bool | None = None) -> None:
    """Let an EoMT's evaluation no longer read its probabilities, in place, but mask each block as they say now, or as
    `masked` does: an exported graph has no branches, and planned weights no values."""
    eomt: Any = model
    eomt.__class__ = ADAPTED.get(type(model), type(model))
    eomt.masked_blocks = (eomt.attn_mask_probs > 0.5).tolist() if masked is None else [masked] * eomt.config.num_blocks


def fixed_side(config) -> int | None:
    """Side in pixels of the squares that a segmenter sees; None for one that sees images of any size."""
    return config.image_size if getattr(config, "model_type", "").startswith("eomt") else None


def side_of_crops(config, crop_size: tuple[int, int]) -> int | None:
    """The side at which a segmenter of `config` is trained on crops of (height, width); None if any will do.

    Raises: `ValueError` for crops that it cannot see.
    """
    if fixed_side(config) is None:
        return None
    height, width = crop_size
    stride = config.patch_size / 2**config.num_upscale_blocks
    if height != width or height % config.patch_size:
        raise ValueError(
            f"--crop_height and --crop_width are {height} and {width}; an EoMT sees squares whose side is a multiple "
            f"of its patches' {config.patch_size} pixels."
        )
    if stride not in STRIDES:
        raise ValueError(
            f"The EoMT has patches of {config.patch_size} pixels and {config.num_upscale_blocks} upscaling blocks; a "
            f"pixel of its masks must have {', '.join(map(str, STRIDES))} of the image's."
        )
    return height


def check_seen_size(side: int, short_side: int, task: str) -> None:
    """Raise `ValueError` where whole images would have to be seen larger than the squares of an EoMT."""
    if task != "semantic" and short_side > side:
        raise ValueError(
            f"--inference_size is {short_side}; for {task} segmentation an EoMT sees whole images, of at most the "
            f"crop's {side} pixels."
        )


def at_side(model: nn.Module, side: int) -> nn.Module:
    """The same EoMT for squares of another side: learned positions are interpolated, as DINOv2 does."""
    before: Any = model
    if before.config.image_size == side:
        return model
    state, name = before.state_dict(), "embeddings.position_embeddings.weight"
    before.config.image_size = side
    after = type(before)(before.config).train(before.training)
    if name in state:  # DINOv3's rotate with the place
        state[name] = resize_positions(state[name], before.grid_size, after.grid_size)
    after.load_state_dict(state)
    return after


def resize_positions(positions: torch.Tensor, size: tuple[int, int], wanted: tuple[int, int]) -> torch.Tensor:
    """Learned positions `(rows * columns, channels)` of a grid of `size` for one of the `wanted` size."""
    if tuple(size) == tuple(wanted):
        return positions
    grid = positions.T.unflatten(1, size)[None]  # (1, channels, rows, columns)
    resized = F.interpolate(grid, size=wanted, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].flatten(1).T


def mask_probabilities(step: int, max_steps: int, num_blocks: int) -> list[float]:
    """Probability of masked attention in each of the last blocks, at `step` (0-based) of a training.

    As published, all are 1 at first and end at 0, one block after the other: of the training's `num_blocks + 2` equal
    parts block i anneals in part i + 1, by a polynomial.
    """
    part = step * (num_blocks + 2) / max_steps
    return [min(1.0, max(0.0, 2.0 + block - part)) ** POWER for block in range(num_blocks)]


def block_of(name: str) -> int | None:
    """The ViT's block, from 0, whose learning rate a parameter has: the embeddings have the first one's.

    None for the last norm and all that is not of the ViT.
    """
    first, _, rest = name.partition(".")
    return int(rest.split(".")[0]) if first == "layers" else 0 if first == "embeddings" else None


def block_rate(block: int, num_blocks: int, multiplier: float) -> float:
    """Learning rate factor of a ViT's block: from `multiplier` at the first to 1 at the last, the same decay from one
    to the next (published: 0.8, so 0.086 at the first of 12 and 0.006 at the first of 24)."""
    return multiplier ** ((num_blocks - 1 - block) / max(num_blocks - 1, 1))


@dataclass
class EomtOutput(modeling_eomt.EomtForUniversalSegmentationOutput):
    """auxiliary_logits: `masks_queries_logits` and `class_queries_logits` before each of the last blocks."""

    auxiliary_logits: list[dict[str, torch.Tensor]] | None = None


class _Trained:
    """The forward pass of both classes.

    masked_blocks: which of the last blocks have masked attention in evaluation; None asks the probabilities.
    """

    masked_blocks: list[bool] | None = None

    def forward(self: Any, pixel_values, output_auxiliary_logits: bool = False, unmasked=None) -> EomtOutput:
        """
        Args:
            pixel_values (`(batch, 3, side, side)`).
            unmasked (bool, `(batch, num_blocks, queries)`): queries that look everywhere, in each of the last blocks;
                none in training if not given.
        """
        hidden_states, context = self._embed(pixel_values)
        num_blocks, found = self.config.num_blocks, []
        masked = [True] * num_blocks if self.training else self.masked_blocks
        if masked is None:
            masked = (self.attn_mask_probs > 0.5).tolist()
        for block, layer in enumerate(self.layers, start=num_blocks - len(self.layers)):
            seen = None
            if block == 0:
                queries = self.query.weight[None].expand(hidden_states.shape[0], -1, -1)
                hidden_states = torch.cat((queries, hidden_states), dim=1)
            if block >= 0 and masked[block]:
                found.append(self.predict(self.layernorm(hidden_states)))
                everywhere = unmasked[:, block] if self.training and unmasked is not None else None
                seen = self._seen(found[-1][0], hidden_states.shape[1], everywhere)
            hidden_states = layer(hidden_states, attention_mask=seen, **context)
        found.append(self.predict(self.layernorm(hidden_states)))
        layers = [{"masks_queries_logits": masks, "class_queries_logits": classes} for masks, classes in found]
        return EomtOutput(**layers[-1], auxiliary_logits=layers[:-1] if output_auxiliary_logits else None)

    @torch.no_grad()
    def _seen(self: Any, masks: torch.Tensor, tokens: int, everywhere: torch.Tensor | None) -> torch.Tensor:
        """Where tokens look, bool `(batch, 1, tokens, tokens)`: queries at all but the patches outside their masks."""
        inside = F.interpolate(masks, size=self.grid_size, mode="bilinear").flatten(2) > 0  # (B, queries, patches)
        if everywhere is not None:
            inside = inside | everywhere[..., None]
        seen = torch.ones(masks.shape[0], 1, tokens, tokens, dtype=torch.bool, device=masks.device)
        seen[:, 0, : inside.shape[1], tokens - inside.shape[2] :] = inside
        return seen


# Named as the classes they stand in for: a saved model's config.json tells that name.
class EomtForUniversalSegmentation(_Trained, modeling_eomt.EomtForUniversalSegmentation):
    def _embed(self, pixel_values) -> tuple[torch.Tensor, dict]:
        return self.embeddings(pixel_values), {}


class EomtDinov3ForUniversalSegmentation(_Trained, modeling_eomt_dinov3.EomtDinov3ForUniversalSegmentation):
    def _embed(self, pixel_values) -> tuple[torch.Tensor, dict]:
        hidden_states = self.dropout(self.embeddings(pixel_values))
        return hidden_states, {"position_embeddings": self.rope_embeddings(pixel_values.to(hidden_states.dtype))}


ADAPTED = {
    modeling_eomt.EomtForUniversalSegmentation: EomtForUniversalSegmentation,
    modeling_eomt_dinov3.EomtDinov3ForUniversalSegmentation: EomtDinov3ForUniversalSegmentation,
}
