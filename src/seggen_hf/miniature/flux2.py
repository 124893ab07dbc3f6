"""FLUX.2-klein's architecture small enough for a CPU: the same classes and folder layout, random weights, for tests.

Its latents have f = 4 and patches of 2 x 2 instead of FLUX.2's f = 8, as the miniature of SDXL has.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers import models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

TEXT_LAYERS = 28  # the pipeline reads what layers 9, 18 and 27 of the text encoder make
_PAD, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_SPACE = "Ġ"  # what a byte-level tokenizer writes for it
# Qwen3's own of a single message, without tools.
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def build_qwen_tokenizer(words: Iterable[str], max_length: int = 96) -> Qwen2Tokenizer:
    """A byte-level tokenizer in which every one of `words` is one token after a space; others fall apart."""
    words = sorted({part for word in words for part in re.findall(r"[a-z]+", word.lower())})
    vocab = {token: i for i, token in enumerate([_PAD, _START, _END, *sorted(ByteLevel.alphabet())])}
    merges: list[tuple[str, str]] = []
    for word in ("user", "assistant", "think", *(_SPACE + word for word in words)):
        pieces = [token.value for token in models.BPE(vocab=vocab, merges=merges).tokenize(word)]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            vocab.setdefault(pieces[0], len(vocab))
    pairs: Any = merges  # the declared type has strings in their place
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=pairs,
        eos_token=_END,
        pad_token=_PAD,
        additional_special_tokens=[_START, _END],
        chat_template=_CHAT,
        model_max_length=max_length,
    )


def build_flux2_miniature(words: Sequence[str] = (), seed: int = 0) -> dict:
    """The components of a `Flux2KleinPipeline` with random weights.

    Args:
        words (`Sequence[str]`): what the tokenizer knows as whole words.
        seed (`int`): seed of the weights; the caller's random state is left as it was.

    Returns: `dict` of vae, text_encoder, tokenizer, transformer and scheduler; fp32, eval mode.
    """
    tokenizer = build_qwen_tokenizer(words)
    width, latent_channels = 16, 4
    ends: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLFlux2(
            block_out_channels=(12, 16, 24),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=latent_channels,
            norm_num_groups=4,
            layers_per_block=1,
            mid_block_add_attention=False,
            sample_size=64,
        )
        statistics: Any = vae.bn  # of latents: whoever forgot them would see it
        statistics.running_mean.normal_(std=0.2)
        statistics.running_var.uniform_(0.5, 2.0)
        text_encoder = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=TEXT_LAYERS,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=width // 2,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                bos_token_id=None,
                **ends,
            )
        )
        transformer = Flux2Transformer2DModel(
            in_channels=4 * latent_channels,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * width,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
    for module in (vae, text_encoder, transformer):
        module.eval()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)  # as FLUX.2-klein has it
    return dict(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler)


def save_flux2_miniature(folder: str | Path, words: Sequence[str] = (), seed: int = 0) -> Path:
    """Save a randomly initialised miniature in the layout of FLUX.2-klein and return the folder."""
    Flux2KleinPipeline(**build_flux2_miniature(words, seed)).save_pretrained(folder)
    return Path(folder)
