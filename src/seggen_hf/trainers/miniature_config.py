"""Settings of the miniature base's trainings, and what both share: words, pixels, random draws."""

from dataclasses import dataclass, field

import numpy as np
import torch

from ..config import TrainingConfig
from ..data.scenes.records import SCENE_WORDS
from ..labels import LabelSet
from ..miniature.drawings import DRAWING_CAPTION


@dataclass(kw_only=True)
class BaseConfig(TrainingConfig):
    """Settings of both trainings of the miniature base."""

    size: str = field(default="quickstart", metadata={"help": "Size of the miniature; `unit` is for tests."})
    num_decoder_scenes: int = field(default=12_000, metadata={"help": "Scenes that the decoder is trained on."})
    caption_dropout: float = field(default=0.1, metadata={"help": "Share of captions emptied."})
    snr_gamma: float = field(default=0.0, metadata={"help": "Min-SNR loss weighting (arXiv:2303.09556); 0: none."})
    latent_noise: float = field(
        default=0.25, metadata={"help": "Largest noise on the decoder's latents, in channel sd."}
    )


def base_words() -> list[str]:
    """The words that are whole tokens: the scenes', and those of the label sets that ship with the package."""
    names = [name for kind in ("ade20k", "coco") for name in LabelSet.builtin(kind).id2label.values()]
    return [*SCENE_WORDS, DRAWING_CAPTION, *names, "a photo of"]


def draw_generator(seed: int, number: int, device: torch.device) -> torch.Generator:
    """The random numbers of batch `number`: a resumed training draws the same."""
    state = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> 1))


def to_pixels(
    images: torch.Tensor, index: torch.Tensor | None = None, flipped: torch.Tensor | None = None
) -> torch.Tensor:
    """uint8 `(N, H, W, 3)` -> float `(B, 3, H, W)` in [-1, 1]: those of `index`, mirrored where `flipped` says so."""
    chosen = images if index is None else images[index]
    pixels = chosen.permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels if flipped is None else torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)


def psnr(decoded: torch.Tensor, pixels: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of `decoded`, cut to the range of `pixels`, which is [-1, 1]."""
    return float(-10 * torch.log10(((decoded.clamp(-1, 1) - pixels) / 2).square().mean()))


def to_uint8(pixels: torch.Tensor) -> list[np.ndarray]:
    """`(B, 3, H, W)` in [-1, 1] -> uint8 `(H, W, 3)` arrays."""
    return list(((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
