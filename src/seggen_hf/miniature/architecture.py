"""SDXL's architecture small enough for a CPU: the same classes and the same folder layout as SDXL-base.

Two sizes: `unit` for tests (random weights, milliseconds a step) and `quickstart` for the base that ships with the
package. The base's latents have f = 4 instead of SDXL's f = 8: at 64 px an 8-fold reduction blurs away things of a
few pixels.
"""

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from tokenizers import models
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")
_WORD_END = "</w>"
_ALPHABET = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.'-:()/&")

_SIZES = {
    "unit": dict(
        sample_size=8,
        latent_channels=4,
        vae_channels=(12, 16, 24),
        vae_groups=4,
        unet_channels=(16, 32),
        unet_down=("DownBlock2D", "CrossAttnDownBlock2D"),
        unet_up=("CrossAttnUpBlock2D", "UpBlock2D"),
        unet_groups=8,
        heads=2,
        text_width=16,
        text_layers=2,
        time_ids_width=8,
    ),
    "quickstart": dict(
        sample_size=16,
        latent_channels=12,
        vae_channels=(24, 48, 96),
        vae_groups=8,
        unet_channels=(64, 128, 160),
        unet_down=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        unet_up=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        unet_groups=16,
        heads=4,
        text_width=96,
        text_layers=3,
        time_ids_width=16,
    ),
}


def build_tokenizer(words: Iterable[str], max_length: int = 32) -> CLIPTokenizer:
    """A CLIP tokenizer in which every one of `words` is one token; other words fall apart into letters.

    Each word in turn is split by the merges so far and gets merges that join its pieces. They rank below the earlier
    ones, so no earlier word is split otherwise. Deterministic in the set of words.
    """
    words = sorted({part for word in words for part in re.findall(r"[a-z]+|[^a-z\s]", word.lower())})
    tokens = [*SPECIAL_TOKENS, *_ALPHABET, *(letter + _WORD_END for letter in _ALPHABET)]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    for word in words:
        bpe = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=_WORD_END)
        pieces = [token.value for token in bpe.tokenize(word)]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            vocab.setdefault(pieces[0], len(vocab))
    pairs: Any = merges  # the declared type has strings in their place
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=max_length)


def build_miniature(size: str = "unit", words: Sequence[str] = (), seed: int = 0) -> dict:
    """The components of a `StableDiffusionXLPipeline` with random weights.

    Args:
        size (`str`): `unit` or `quickstart`.
        words (`Sequence[str]`): what the tokenizer knows as whole words.
        seed (`int`): seed of the weights; the caller's random state is left as it was.

    Returns: `dict` of vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet and scheduler; fp32, eval mode.
    """
    if size not in _SIZES:
        raise ValueError(f"There is no miniature of size {size!r}; choose one of {sorted(_SIZES)}.")
    s: dict[str, Any] = _SIZES[size]
    tokenizer = build_tokenizer(words)
    text: dict[str, Any] = dict(
        vocab_size=len(tokenizer),
        hidden_size=s["text_width"],
        intermediate_size=4 * s["text_width"],
        projection_dim=s["text_width"],
        num_hidden_layers=s["text_layers"],
        num_attention_heads=s["heads"],
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    levels = len(s["vae_channels"])
    down_blocks: Any = ("DownEncoderBlock2D",) * levels  # diffusers declares tuples of one
    up_blocks: Any = ("UpDecoderBlock2D",) * levels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        components = dict(
            vae=AutoencoderKL(
                block_out_channels=s["vae_channels"],
                down_block_types=down_blocks,
                up_block_types=up_blocks,
                latent_channels=s["latent_channels"],
                norm_num_groups=s["vae_groups"],
                layers_per_block=1,
                mid_block_add_attention=False,
                sample_size=s["sample_size"] * 2 ** (levels - 1),
                scaling_factor=1.0,
                force_upcast=False,
            ),
            text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
            text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text)),
            unet=UNet2DConditionModel(
                sample_size=s["sample_size"],
                in_channels=s["latent_channels"],
                out_channels=s["latent_channels"],
                block_out_channels=s["unet_channels"],
                down_block_types=s["unet_down"],
                up_block_types=s["unet_up"],
                layers_per_block=1,
                norm_num_groups=s["unet_groups"],
                attention_head_dim=s["heads"],  # the number of heads, whatever its name says
                cross_attention_dim=2 * s["text_width"],
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=s["time_ids_width"],
                projection_class_embeddings_input_dim=6 * s["time_ids_width"] + s["text_width"],
            ),
        )
    for module in components.values():
        module.eval()
    # v-prediction passes on what little noise leaves; the cosine schedule spends as many steps above a signal-to-noise
    # ratio of 1 as below it, where small pictures, which repeat little, are decided. With trailing spacing and zero
    # terminal SNR sampling starts where training ended.
    scheduler = EulerDiscreteScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    return components | dict(tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=scheduler)


def save_miniature(folder: str | Path, size: str = "unit", words: Sequence[str] = (), seed: int = 0) -> Path:
    """Save a randomly initialised miniature in the layout of SDXL-base and return the folder."""
    pipeline = StableDiffusionXLPipeline(**build_miniature(size, words, seed), add_watermarker=False)
    pipeline.save_pretrained(folder)
    return Path(folder)


def shipped_base() -> Path:
    """Folder of the trained miniature base that ships with the package.

    Raises:
        FileNotFoundError: this installation lacks it.
    """
    folder = Path(str(resources.files("seggen_hf"))) / "assets" / "miniature-base"
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            "This installation of seggen_hf does not hold the miniature base. Train it with "
            "`python training/train_base.py`, or name another --base_model."
        )
    return folder


def resolve_base(base_model: str) -> str:
    """`miniature` -> the shipped base's folder; every other id or path as it is."""
    return str(shipped_base()) if base_model == "miniature" else base_model
