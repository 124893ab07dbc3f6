"""An AutoencoderKL encoder in closed form: the principal components of 4 x 4 pixel patches.

Training a convolutional autoencoder on a CPU takes hours before small things and sharp color maps survive it. The
best linear code of a patch is known in closed form and costs seconds: its principal components. This module writes
that code into the weights of a stock `AutoencoderKL` encoder, so that only the decoder has to be trained:

- residual branches end in zero weights, so the path from pixels to latents is a chain of linear layers;
- SiLU passes a linear signal when it gets it twice with opposite signs: silu(x) - silu(-x) = x;
- group normalization passes it when each group holds one large constant channel M: the pairs cancel in the mean, and
  M fixes the variance up to a relative error of about (mean of x^2) / (0.1 M^2).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

PATCH = 4


@dataclass
class PatchCode:
    """latents = (patches - mean) @ basis: (48,) and (48, K), for pixels in [-1, 1] in the order (row, column, RGB)."""

    mean: np.ndarray
    basis: np.ndarray
    _tensors: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_channels(self) -> int:
        return self.basis.shape[1]

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W)` in [-1, 1] -> latents `(B, K, H / 4, W / 4)`; the written encoder's to about 1e-2."""
        batch, _, height, width = images.shape
        patches = images.reshape(batch, 3, height // PATCH, PATCH, width // PATCH, PATCH)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3)  # (B, h, w, 48)
        mean, basis = self._like(images)
        return ((patches - mean) @ basis).permute(0, 3, 1, 2).contiguous()

    def _like(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`mean` and `basis` where and as `images` are; kept, since a copy to a device waits for it."""
        key = images.device, images.dtype
        if key not in self._tensors:
            self._tensors[key] = tuple(torch.from_numpy(a).to(images) for a in (self.mean, self.basis))
        return self._tensors[key]


def fit_patch_code(images: Iterable[np.ndarray], num_channels: int) -> PatchCode:
    """Principal components of the 4 x 4 patches of `images` (uint8, (H, W, 3); sides divisible by 4).

    Channels have unit variance, so that noise removes all of them alike.
    """
    count, total, outer = 0, np.zeros(48), np.zeros((48, 48))
    for image in images:
        height, width, _ = image.shape
        patches = image.reshape(height // PATCH, PATCH, width // PATCH, PATCH, 3).transpose(0, 2, 1, 3, 4)
        patches = patches.reshape(-1, 48).astype(np.float64) / 127.5 - 1
        count += len(patches)
        total += patches.sum(0)
        outer += patches.T @ patches
    mean = total / count
    variances, vectors = np.linalg.eigh(outer / count - np.outer(mean, mean))
    variances, vectors = variances[::-1][:num_channels], vectors[:, ::-1][:, :num_channels]
    vectors = vectors * np.sign(vectors.sum(0) + 1e-12)  # eigenvectors have no sign of their own: fix one
    return PatchCode(mean=mean.astype(np.float32), basis=(vectors / np.sqrt(variances)).astype(np.float32))


def _norm_constant(per_group: int) -> float:
    """The constant near 1000 whose mean and deviation in a group of `per_group` channels fp16 holds best."""
    multiples = np.arange(1, 2000 // per_group)
    deviations = multiples * np.sqrt(per_group - 1)
    error = np.abs(deviations.astype(np.float16).astype(np.float64) / deviations - 1) * multiples
    error[multiples * per_group < 600] = np.inf
    return float(multiples[error.argmin()] * per_group)


@torch.no_grad()
def write_patch_encoder(vae: AutoencoderKL, code: PatchCode) -> None:
    """Overwrite the encoder of `vae` in place so that its latent mean is `code`, and freeze nothing.

    Needs three levels of growing width (f = 4), 12 channels or more on the first, K on the second, and in each norm
    group of the third room for a constant and pairs: groups * ((channels / groups - 1) // 2) >= K. Its weights are
    rounded to fp16, so that storing them so changes no latent.
    """
    encoder: Any = vae.encoder  # torch's types end at the blocks
    quant_conv: Any = vae.quant_conv
    channels, groups = vae.config["block_out_channels"], vae.config["norm_num_groups"]
    k, per_group = code.num_channels, channels[-1] // groups
    pairs_per_group = (per_group - 1) // 2
    fits = len(channels) == 3 and 12 <= channels[0] < channels[1] < channels[2]
    fits = fits and channels[1] >= k and groups * pairs_per_group >= k
    if not fits or k != vae.config["latent_channels"] or vae.config["mid_block_add_attention"]:
        raise ValueError(
            f"A patch code of {k} channels does not fit an AutoencoderKL with channels {channels}, {groups} norm "
            f"groups and {vae.config['latent_channels']} latent channels."
        )
    for name, parameter in encoder.named_parameters():
        is_residual_end = ".conv2." in name
        if "norm" not in name and ("conv_shortcut" in name or "downsamplers" in name or is_residual_end):
            parameter.zero_()
    for layer in (encoder.conv_in, encoder.conv_out, quant_conv):
        layer.weight.zero_()
        layer.bias.zero_()

    # Pixels -> 2 x 2 patches (12 channels) -> K components. Stride-2 layers pad right and below: taps 0 and 1 are the
    # patch.
    for c in range(3):
        encoder.conv_in.weight[c, c, 1, 1] = 1
    first = encoder.down_blocks[0].downsamplers[0].conv
    for row in range(2):
        for column in range(2):
            for c in range(3):
                first.weight[(row * 2 + column) * 3 + c, c, row, column] = 1
    shortcut = encoder.down_blocks[1].resnets[0].conv_shortcut
    for c in range(12):
        shortcut.weight[c, c, 0, 0] = 1
    second = encoder.down_blocks[1].downsamplers[0].conv
    basis = torch.from_numpy(code.basis).reshape(PATCH, PATCH, 3, k)
    for row in range(PATCH):
        for column in range(PATCH):
            inner = ((row % 2) * 2 + column % 2) * 3
            second.weight[:k, inner : inner + 3, row // 2, column // 2] = basis[row, column].T
    second.bias[:k] = -torch.from_numpy(code.mean @ code.basis)

    # K components -> pairs of opposite sign, and one constant in each norm group.
    pairs = encoder.down_blocks[2].resnets[0].conv_shortcut
    norm = encoder.conv_norm_out
    constant = _norm_constant(per_group)
    norm.weight.fill_(constant * (per_group - 1) ** 0.5 / per_group)
    norm.bias.fill_(constant / per_group)
    for i in range(k):
        group, place = divmod(i, pairs_per_group)
        positive = group * per_group + 2 * place
        pairs.weight[positive, i, 0, 0], pairs.weight[positive + 1, i, 0, 0] = 1, -1
        encoder.conv_out.weight[i, positive, 1, 1], encoder.conv_out.weight[i, positive + 1, 1, 1] = 1, -1
        quant_conv.weight[i, i, 0, 0] = 1
    for group in range(groups):
        pairs.bias[(group + 1) * per_group - 1] = constant
    quant_conv.bias[k:] = -20.0  # log-variance: the code is deterministic
    for parameter in (*encoder.parameters(), *quant_conv.parameters()):
        parameter.copy_(parameter.half().float())
