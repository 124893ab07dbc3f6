"""What encodes pixels and captions for a base's network: once, into the cache of a training, or in every step."""

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..storage.content_digests import vocabulary_digest, weights_digest
from .latents import compress_map, pack_maps

logger = logging.getLogger(__name__)

# Pixels encoded together while the cache is made: SDXL's autoencoder needs some 5 GB for one 768 x 768 image in fp32.
ENCODE_PIXELS = 768 * 768
ENCODE_CAPTIONS = 32

Embeddings = tuple[torch.Tensor, ...]  # `(batch, ...)`, as many as `Encoders.arrays`


def images_at_once(height: int, width: int) -> int:
    """How many images of this size are encoded together."""
    return max(1, ENCODE_PIXELS // (height * width))


def check_captions(captions: list[str], encoders: "Encoders") -> None:
    """Warn of captions that the text encoders do not read whole: characters they do not know, and more tokens than
    they have places for."""
    unknown, long, places = set(), set(), 0
    for tokenizer in encoders.tokenizers:
        ids = tokenizer(captions, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        places = encoders.places(tokenizer)
        if tokenizer.unk_token_id is not None:
            unknown |= {i for i, tokens in enumerate(ids) if tokenizer.unk_token_id in tokens}
        long |= {i for i, tokens in enumerate(ids) if len(tokens) > places}
    for found, what in ((unknown, "hold characters that the base's tokenizer does not know"),
                        (long, f"are longer than the {places} tokens that the base reads")):  # fmt: skip
        if found:
            logger.warning("%d of %d captions %s, first: %r", len(found), len(captions), what, captions[min(found)])


class Encoders:
    """The autoencoder and the text encoders of a base, frozen unless the latter are to train; of each family a
    subclass (`trainers.families`).

    Args:
        base (`DiffusionPipeline`): on the CPU; its denoising network is left alone.

    Attributes:
        text_parts: the components that read captions.
        arrays: what the parts of a caption's embeddings are called in a batch and in the cache.
        modules: everything that encodes.
        device: where it encodes.
        image_gamma: the power that pixels are raised to before they are encoded.
    """

    text_parts: tuple[str, ...]
    arrays: tuple[str, ...]
    captions_at_once = ENCODE_CAPTIONS  # that are encoded together

    def __init__(self, base: Any):
        self.base, self.device, self.image_gamma = base, torch.device("cpu"), 1.0
        self.modules = {name: getattr(base, name) for name in ("vae", *self.text_parts)}
        for module in self.modules.values():
            module.requires_grad_(False).eval()

    def to(self, device: torch.device) -> None:
        self.device = torch.device(device)
        for module in self.modules.values():
            module.to(self.device)

    def train_text_encoders(self) -> torch.nn.ModuleDict:
        """Let the text encoders train, in place, but for layers whose output nobody reads. Returns: they."""
        raise NotImplementedError

    def move_text_encoders(self, device: torch.device) -> None:
        """Have captions encoded on `device` from here on; the autoencoder stays where it is."""
        self.device = torch.device(device)
        for name in self.text_parts:
            self.modules[name].to(self.device)

    @property
    def tokenizers(self) -> tuple:
        raise NotImplementedError

    def places(self, tokenizer: Any) -> int:
        """How many tokens of a caption are read."""
        return tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()

    def digests(self) -> dict[str, str]:
        """Digests of the weights and of the vocabulary."""
        return {"encoders": weights_digest(self.modules), "vocabulary": vocabulary_digest(self.tokenizers)}

    def scaling(self) -> list:
        """What latents are scaled by, as the autoencoder's configuration has it."""
        raise NotImplementedError

    # Pixels

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 `(batch, height, width, 3)` -> scaled latents `(batch, channels, h, w)`, float32."""
        images = pixels.to(self.device).movedim(-1, 1).float() / 127.5 - 1
        if self.image_gamma != 1:
            images = (images / 2 + 0.5) ** self.image_gamma * 2 - 1
        return self.encode_images(images)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """The same of floats `(batch, 3, height, width)` in [-1, 1], where the autoencoder is."""
        raise NotImplementedError

    @contextlib.contextmanager
    def decoding(self, device: torch.device) -> Iterator[None]:
        """Within the block the autoencoder is on `device`, and decodes in float32, one image at a time."""
        vae, decode, place = self.base.vae, self.base.vae.decode, self.base.vae.device

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
            vae.to(place)

    # Captions

    def encode_captions(self, captions: list[str]) -> Embeddings:
        """Embeddings exactly as the pipeline makes them; with gradients, where the text encoders train."""
        raise NotImplementedError

    def encode_null(self) -> Embeddings:
        """What the pipeline puts in an absent prompt's place under guidance (SDXL: zeros), `(1, ...)` each."""
        raise NotImplementedError

    def encode_guided(self, captions: list[str], device: torch.device) -> dict[str, torch.Tensor]:
        """The pipeline's arguments that stand for `captions` under guidance; the text encoders are on `device`."""
        raise NotImplementedError

    def encode_kept(self, captions: list[str | None], null: Sequence[torch.Tensor]) -> Embeddings:
        """Embeddings of captions; of dropped ones (None) `null`: what `encode_null` makes, or a row of it."""
        encoded = self.encode_captions([caption or "" for caption in captions])
        dropped = torch.tensor([caption is None for caption in captions], device=encoded[0].device)
        return tuple(
            torch.where(dropped.view(-1, *[1] * (part.ndim - 1)), row.to(part), part)
            for part, row in zip(encoded, null, strict=True)
        )

    def encode_prompts(self, captions: list[str], device: torch.device) -> dict[str, torch.Tensor]:
        """`encode_guided` with the text encoders on `device` for as long as it takes: it may have no room for what
        does not run."""
        encoders = [self.modules[name] for name in self.text_parts]
        for encoder in encoders:
            encoder.to(device)
        with torch.no_grad():
            encoded = self.encode_guided(captions, device)
        for encoder in encoders:
            encoder.to(self.device)
        return encoded

    @staticmethod
    def pack(embeddings: torch.Tensor, dtype: type) -> np.ndarray:
        """Embeddings as the cache of this type holds them."""
        return embeddings.cpu().numpy().astype(dtype)

    @staticmethod
    def unpack(row: np.ndarray) -> np.ndarray:
        """Floats of what `pack` made."""
        return row

    # The cache

    @torch.no_grad()
    def encode_chunk(
        self,
        views: Iterable[dict],
        num_records: int,
        captions: list[str] | None,
        at_once: int,
        dtype: type,
        with_maps: bool,
    ) -> dict[str, np.ndarray]:
        """The arrays of a chunk of the cache, a row a record.

        Args:
            views: see `RecordViews.view`; as many of each record, one after the other. Read as they are encoded: their
                pixels are let go at once, since a chunk may hold thousands of them.
            captions: of the records; None to leave them out.
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
        rows = (num_records, len(time_ids) // num_records)
        arrays = {
            "latents": latents.reshape(*rows, *latents.shape[1:]),
            "time_ids": np.stack(time_ids).reshape(*rows, 6),
        }
        if captions is not None:
            encoded = [
                self.encode_captions(captions[start : start + self.captions_at_once])
                for start in range(0, num_records, self.captions_at_once)
            ]
            for name, parts in zip(self.arrays, zip(*encoded, strict=True), strict=True):
                arrays[name] = self.pack(torch.cat(parts), dtype)
        if with_maps:
            arrays["map_bytes"], places = pack_maps(maps)
            arrays["map_places"] = places.reshape(*rows, 2)
        return arrays
