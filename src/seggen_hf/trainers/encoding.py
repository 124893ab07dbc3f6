"""What encodes pixels and captions for a base's U-Net: once, into the cache of a training, or in every step."""

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline

from ..storage.content_digests import vocabulary_digest, weights_digest
from .latents import compress_map, pack_maps

logger = logging.getLogger(__name__)

# Pixels encoded together while the cache is made: SDXL's autoencoder needs some 5 GB for one 768 x 768 image in fp32.
ENCODE_PIXELS = 768 * 768
ENCODE_CAPTIONS = 32

Embeddings = tuple[torch.Tensor, torch.Tensor]  # `(batch, tokens, width)`, and pooled `(batch, width_2)`


def images_at_once(height: int, width: int) -> int:
    """How many images of this size are encoded together."""
    return max(1, ENCODE_PIXELS // (height * width))


def check_captions(captions: list[str], tokenizers) -> None:
    """Warn of captions that the text encoders do not read whole: characters they do not know, and more tokens than
    they have places for."""
    unknown, long = set(), set()
    for tokenizer in tokenizers:
        ids = tokenizer(captions, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        places = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        unknown |= {i for i, tokens in enumerate(ids) if tokenizer.unk_token_id in tokens}
        long |= {i for i, tokens in enumerate(ids) if len(tokens) > places}
    for found, what in ((unknown, "hold characters that the base's tokenizer does not know"),
                        (long, f"are longer than the {places} tokens that the base reads")):  # fmt: skip
        if found:
            logger.warning("%d of %d captions %s, first: %r", len(found), len(captions), what, captions[min(found)])


class Encoders:
    """The autoencoder and the text encoders of an SDXL base, frozen.

    They stay in float32 whatever the precision of the training: SDXL's autoencoder overflows in half precision.

    Args:
        base (`StableDiffusionXLPipeline`): on the CPU; its U-Net is left alone.
    """

    def __init__(self, base: StableDiffusionXLPipeline):
        self.base, self.device = base, torch.device("cpu")
        self.modules = {name: getattr(base, name) for name in ("vae", "text_encoder", "text_encoder_2")}
        for module in self.modules.values():
            module.requires_grad_(False).eval()

    def to(self, device: torch.device) -> None:
        self.device = torch.device(device)
        for module in self.modules.values():
            module.to(self.device)

    def digests(self) -> dict[str, str]:
        """Digests of the weights and of the vocabulary."""
        vocabulary = vocabulary_digest((self.base.tokenizer, self.base.tokenizer_2))
        return {"encoders": weights_digest(self.modules), "vocabulary": vocabulary}

    def scaling(self) -> list:
        """What latents are scaled by, as the autoencoder's configuration has it."""
        return [self.base.vae.config.get(name) for name in ("scaling_factor", "latents_mean", "latents_std")]

    # Pixels

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 `(batch, height, width, 3)` -> scaled latents `(batch, channels, h, w)`, float32."""
        factor, means, deviations = self.scaling()
        images = pixels.to(self.device).movedim(-1, 1).float() / 127.5 - 1
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            latents = self.base.vae.encode(images).latent_dist.mode()
        if means is not None and deviations is not None:
            mean = torch.tensor(means, device=latents.device).view(1, -1, 1, 1)
            std = torch.tensor(deviations, device=latents.device).view(1, -1, 1, 1)
            return (latents - mean) * factor / std
        return latents * factor

    @contextlib.contextmanager
    def decoding(self, device: torch.device) -> Iterator[None]:
        """Within the block the autoencoder is on `device`, and decodes in float32, one image at a time."""
        vae, decode = self.base.vae, self.base.vae.decode

        def decode_in_float32(latents, *args, **kwargs):
            with torch.autocast(device.type, enabled=False):
                return decode(latents.float(), *args, **kwargs)

        vae.to(device)
        vae.decode = decode_in_float32
        vae.enable_slicing()
        try:
            yield
        finally:
            del vae.decode
            vae.disable_slicing()
            vae.to(self.device)

    # Captions

    def encode_captions(self, captions: list[str]) -> Embeddings:
        """Embeddings exactly as the pipeline makes them."""
        with torch.no_grad():
            embeds, _, pooled, _ = self._encode_prompt(captions, self.device, False)
        return embeds, pooled

    def encode_null(self) -> Embeddings:
        """What the pipeline puts in an absent prompt's place under guidance (SDXL: zeros), `(1, ...)` each."""
        with torch.no_grad():
            _, embeds, _, pooled = self._encode_prompt("", self.device, True)
        return embeds, pooled

    def encode_kept(self, captions: list[str | None], null: tuple[np.ndarray, np.ndarray]) -> Embeddings:
        """Embeddings of captions; of those that were dropped (None) `null`, a row of what `encode_null` makes."""
        embeds, pooled = self.encode_captions([caption or "" for caption in captions])
        dropped = torch.tensor([caption is None for caption in captions], device=embeds.device)
        null_embeds, null_pooled = (torch.from_numpy(row).to(embeds) for row in null)
        return (
            torch.where(dropped[:, None, None], null_embeds, embeds),
            torch.where(dropped[:, None], null_pooled, pooled),
        )

    def encode_prompts(self, captions: list[str], device: torch.device) -> dict[str, torch.Tensor]:
        """The pipeline's arguments that stand for `captions` under guidance, on `device`; the text encoders are there
        for as long as it takes: it may have no room for what does not run."""
        encoders = (self.base.text_encoder, self.base.text_encoder_2)
        for encoder in encoders:
            encoder.to(device)
        with torch.no_grad():
            encoded = self._encode_prompt(captions, device, True)
        for encoder in encoders:
            encoder.to(self.device)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return dict(zip(names, encoded, strict=True))

    def _encode_prompt(self, captions: str | list[str], device: torch.device, guided: bool) -> tuple:
        encode: Any = self.base.encode_prompt  # its types know neither lists nor that it returns what was asked for
        return encode(captions, device=device, do_classifier_free_guidance=guided)

    # The cache

    def encode_chunk(
        self, views: Iterable[dict], captions: list[str], at_once: int, dtype: type, with_maps: bool
    ) -> dict[str, np.ndarray]:
        """The arrays of a chunk of the cache, a row a record.

        Args:
            views: see `RecordViews.view`; as many of each record, one after the other. Read as they are encoded: their
                pixels are let go at once, since a chunk may hold thousands of them.
            captions: of the records.
            at_once: views whose pixels are encoded together.
            dtype: of latents and embeddings.
            with_maps: store the maps too, compressed.
        """
        views = iter(views)
        latents, time_ids, maps = [], [], []
        while group := list(itertools.islice(views, at_once)):
            latents.append(self.encode_pixels(torch.from_numpy(np.stack([view["pixels"] for view in group]))).cpu())
            time_ids += [view["time_ids"] for view in group]
            maps += [compress_map(view["segmentation_map"]) for view in group] if with_maps else []
        latents = torch.cat(latents).numpy().astype(dtype)
        encoded = [
            self.encode_captions(captions[start : start + ENCODE_CAPTIONS])
            for start in range(0, len(captions), ENCODE_CAPTIONS)
        ]
        rows = (len(captions), len(time_ids) // len(captions))
        arrays = {
            "latents": latents.reshape(*rows, *latents.shape[1:]),
            "time_ids": np.stack(time_ids).reshape(*rows, 6),
            "prompt_embeds": torch.cat([embeds for embeds, _ in encoded]).cpu().numpy().astype(dtype),
            "pooled": torch.cat([pooled for _, pooled in encoded]).cpu().numpy().astype(dtype),
        }
        if with_maps:
            arrays["map_bytes"], places = pack_maps(maps)
            arrays["map_places"] = places.reshape(*rows, 2)
        return arrays
