"""Layers of `transformers`' Mask2Former as they are trained: the same weights and results, less waiting and memory.

What differs:
- Nothing in a forward pass makes the CPU wait for the device: no check for infinite values in each encoder layer
  (`segmentation_loss.match` makes one), no small tensors copied over.
- Under autocast, positions and the deformable attention's sampling are float32: bfloat16 holds no more than 256 places
  of a feature map. Mask2Former's authors do the same (`pixel_decoder/msdeformattn.py`).
- Masked attention has one mask for all heads, and keeps no attention weights.
- Activations of every deep part can be recomputed.
"""

import contextlib
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerMaskPredictor,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    Mask2FormerPixelDecoderOutput,
)
from transformers.models.resnet.modeling_resnet import ResNetStage

from . import eomt

recompute = functools.partial(checkpoint, use_reentrant=False)


def adapt_layers(model: nn.Module) -> None:
    """Give a Mask2Former the layers of this file, and an EoMT the forward pass of eomt.py, in place; parameters and
    state dict stay as they are."""
    for module in model.modules():
        if type(module) in ADAPTED:
            module.__class__ = ADAPTED[type(module)]
        if isinstance(module, Mask2FormerMaskedAttentionDecoderLayer):
            module.cross_attn.__class__ = MaskedAttention


def enable_checkpointing(model: Any) -> None:
    """Keep of backbone, pixel decoder and transformer decoder the layers' inputs alone, and compute the rest again.

    Args:
        model: after `adapt_layers`.
    Raises: `ValueError` for a backbone that is neither a transformer of `transformers` nor a ResNet.
    """
    if eomt.fixed_side(model.config) is not None:
        for layer in model.layers:
            layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, recompute
        return
    mask2former = model.model
    backbone = mask2former.pixel_level_module.encoder
    stages = [module for module in backbone.modules() if isinstance(module, ResNetStage)]
    for stage in stages:
        stage.__class__ = RecomputedResNetStage
    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not stages and not layers:
        raise ValueError(f"A {backbone.config.model_type} backbone has no --gradient_checkpointing.")
    # The innermost alone: Swin's stages would be run once more for their layers' sake.
    outer = {id(a) for a in layers for b in a.modules() if b is not a and isinstance(b, GradientCheckpointingLayer)}
    for layer in [*(a for a in layers if id(a) not in outer), *mask2former.transformer_module.decoder.layers]:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, recompute
    mask2former.pixel_level_module.decoder.gradient_checkpointing = True


class RecomputedResNetStage(ResNetStage):
    """Keeps the input of each block alone."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        for block in self.layers:
            input = recompute(block, input, context_fn=functools.partial(_forward_and_again, block))
        return input


def _forward_and_again(block: nn.Module):
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module):
    """A batch counts once in the running statistics, although its activations are computed twice."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, settings in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = settings


class DeformableAttention(Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):
    """Multi-scale deformable attention (arXiv:2010.04159), sampled in float32."""

    def forward(self, hidden_states, positions, reference_points, sizes, shapes) -> torch.Tensor:
        """
        Args:
            hidden_states (`(batch, places, channels)`), positions (`(1, places, channels)`), reference_points
            (`(1, places, 2)`, (x, y) in [0, 1]), sizes (`(levels, 2)`, (width, height)), all float32; shapes: (height,
            width) of each level.
        """
        batch, places, channels = hidden_states.shape
        split = (batch, places, self.n_heads, self.n_levels, self.n_points)
        value = self.value_proj(hidden_states)
        with _without_autocast(hidden_states.device.type):
            queries = hidden_states + positions
            offsets = self.sampling_offsets(queries).view(*split, 2)
            weights = self.attention_weights(queries).view(*split[:3], -1).softmax(-1).view(split)
            locations = reference_points[:, :, None, None, None] + offsets / sizes[:, None]
            grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, places, levels, points, 2)
            weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * heads, 1, places, levels, points)
            value = value.float().transpose(1, 2).reshape(batch * self.n_heads, -1, places)
            parts = value.split([height * width for height, width in shapes], 2)
            output: Any = 0  # a tensor after the first level
            for level, shape in enumerate(shapes):
                sampled = F.grid_sample(parts[level].unflatten(2, shape), grids[:, :, level], align_corners=False)
                output = output + (sampled * weights[..., level, :]).sum(-1)  # (B * heads, channels / heads, places)
        return self.output_proj(output.view(batch, channels, places).transpose(1, 2))


class EncoderLayer(Mask2FormerPixelDecoderEncoderLayer):
    def forward(self, hidden_states, positions, reference_points, sizes, shapes) -> torch.Tensor:
        """`(batch, places, channels)`; arguments as of `DeformableAttention`."""
        attended = self.self_attn(hidden_states, positions, reference_points, sizes, shapes)
        attended = F.dropout(attended, p=self.dropout, training=self.training)
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        inner = self.activation_fn(self.fc1(hidden_states))
        inner = self.fc2(F.dropout(inner, p=self.activation_dropout, training=self.training))
        inner = F.dropout(inner, p=self.dropout, training=self.training)
        return self.final_layer_norm(hidden_states + inner)


class PixelDecoder(Mask2FormerPixelDecoder):
    """Images have no padding here, so that every place of a feature map is valid."""

    gradient_checkpointing = False

    def forward(self, features, **kwargs) -> Mask2FormerPixelDecoderOutput:
        """`features` of the backbone, from high to low resolution; `kwargs` ask for what nobody here reads."""
        low = features[::-1][: self.num_feature_levels]
        device, shapes = low[0].device, [tuple(x.shape[-2:]) for x in low]
        projected = [project(x).flatten(2) for project, x in zip(self.input_projections, low, strict=True)]
        hidden_states = torch.cat(projected, 2).transpose(1, 2).float()
        positions = [
            self.position_embedding((1, *x.shape[1:]), device, torch.float32).flatten(2).transpose(1, 2) + embed
            for x, embed in zip(low, self.level_embed, strict=True)
        ]
        context = torch.cat(positions, 1), *_reference_points(shapes, device), shapes
        run = recompute if self.gradient_checkpointing and self.training else lambda layer, *inputs: layer(*inputs)
        for layer in self.encoder.layers:
            hidden_states = run(layer, hidden_states, *context)

        parts = hidden_states.split([height * width for height, width in shapes], 1)
        outputs = [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]
        high = features[: self.num_fpn_levels][::-1]
        for lateral, convolve, x in zip(self.lateral_convolutions, self.output_convolutions, high, strict=True):
            x = lateral(x)
            coarse = F.interpolate(outputs[-1], size=x.shape[-2:], mode="bilinear", align_corners=False)
            outputs.append(convolve(x + coarse))
        scales: Any = tuple(outputs[: self.num_feature_levels])  # the declared type is a tuple of one tensor
        return Mask2FormerPixelDecoderOutput(
            mask_features=self.mask_projection(outputs[-1]),
            multi_scale_features=scales,
        )


def _without_autocast(device_type: str):
    """Meta tensors, on which memory is planned, have no autocast to leave."""
    known = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if known else contextlib.nullcontext()


def _reference_points(shapes, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Centers `(1, places, 2)` of all levels' cells, (x, y) in [0, 1], and (width, height) `(levels, 2)`."""
    points = []
    for shape in shapes:
        y, x = ((torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size for size in shape)
        points.append(torch.stack([x[None].expand(shape), y[:, None].expand(shape)], -1).flatten(0, 1))
    # Filled on the device: a tensor from numbers would be copied to it, and the CPU would wait.
    # Not float(size): an exported graph would have the number of its sample for all sizes.
    whole = [torch.full((1,), size, device=device) for height, width in shapes for size in (width, height)]
    return torch.cat(points)[None], torch.cat(whole).float().view(-1, 2)


class MaskPredictor(Mask2FormerMaskPredictor):
    def forward(self, outputs, pixel_embeddings, attention_mask_target_size):
        """Mask logits (batch, queries, h, w), and where each query does not look, bool (batch, queries, places)."""
        masks = torch.einsum("bqc, bchw -> bqhw", self.mask_embedder(outputs.transpose(0, 1)), pixel_embeddings)
        with torch.no_grad():
            seen = F.interpolate(masks, size=attention_mask_target_size, mode="bilinear", align_corners=False)
            return masks, seen.sigmoid().flatten(2) < 0.5


class MaskedAttention(nn.MultiheadAttention):
    def forward(self, query, key, value, attn_mask, key_padding_mask=None):
        """`query` (queries, batch, channels), `key` and `value` (places, batch, channels); `attn_mask` (batch,
        queries, places), True where a query does not look. Returns: (queries, batch, channels), and no weights."""
        inputs = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        # (B, heads, places, channels / heads)
        projected = [F.linear(*part).unflatten(2, (self.num_heads, -1)).permute(1, 2, 0, 3) for part in inputs]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(*projected, attn_mask=~attn_mask[:, None], dropout_p=dropout)
        return self.out_proj(attended.permute(2, 0, 1, 3).flatten(2)), None


ADAPTED = {
    Mask2FormerPixelDecoder: PixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer: EncoderLayer,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention: DeformableAttention,
    Mask2FormerMaskPredictor: MaskPredictor,
    **eomt.ADAPTED,
}
