"""What the pipelines of FLUX.2-klein share: sizes, and captions that are read once."""

from typing import Any

import torch

from .seggen_pipeline import ColormapPipelineMixin

PLACES = 512  # tokens of a caption, padded to so many, that FLUX.2-klein was trained with


def caption_places(tokenizer: Any) -> int:
    """Tokens of a caption and of the chat's words around it; captions are padded to as many."""
    return min(PLACES, tokenizer.model_max_length)


def encode_flux2_guided(pipeline: Any, captions: list[str], device: torch.device) -> dict[str, torch.Tensor]:
    """The arguments of a `Flux2KleinPipeline`'s call that stand for `captions` under guidance, a row each."""
    places = caption_places(pipeline.tokenizer)
    embeds, _ = pipeline.encode_prompt(captions, device=device, max_sequence_length=places)
    null, _ = pipeline.encode_prompt("", device=device, max_sequence_length=places)
    return {"prompt_embeds": embeds, "negative_prompt_embeds": null.expand(len(embeds), -1, -1)}


class Flux2Mixin(ColormapPipelineMixin):
    """A `Flux2KleinPipeline` with a codec in its config."""

    # Of the diffusers pipeline that this is mixed into.
    tokenizer: Any
    default_sample_size: int

    @property
    def stock_size(self) -> int:
        return self.default_sample_size * self.vae_scale_factor

    @property
    def size_factor(self) -> int:
        return 2 * self.vae_scale_factor  # a token is a patch of 2 x 2 latents

    @torch.no_grad()
    def encode_guided(self, captions: list[str]) -> dict[str, torch.Tensor]:
        return encode_flux2_guided(self, captions, self._execution_device)

    def complete_prompt(self, arguments: dict) -> dict:
        """`arguments` of a call with what the stock loop gets wrong without being told: the length of captions, and
        an empty caption for each of `prompt_embeds`, of which it would make one."""
        added: dict[str, Any] = {"max_sequence_length": caption_places(self.tokenizer)}
        embeds = arguments.get("prompt_embeds")
        if embeds is not None and arguments.get("negative_prompt_embeds") is None:
            with torch.no_grad():
                null, _ = self.encode_prompt("", device=self._execution_device, **added)
            added["negative_prompt_embeds"] = null.expand(len(embeds), -1, -1)
        return added | {name: value for name, value in arguments.items() if value is not None}
