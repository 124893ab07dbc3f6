"""SDXL: a U-Net with two CLIP text encoders, trained for noise or v on a variance-preserving schedule."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft.utils import get_peft_model_state_dict

from seggen_hf.pipelines import Text2MaskPipeline

from ...config import GeneratorConfig
from ..encoding import Embeddings, Encoders
from ..objective import DenoisingObjective
from .family import Family


class SDXLEncoders(Encoders):
    """The autoencoder and the text encoders of an SDXL base, in float32: in half precision the autoencoder overflows.

    A caption is `(tokens, width)` embeddings and pooled `(width_2)` ones.
    """

    text_parts = ("text_encoder", "text_encoder_2")
    arrays = ("prompt_embeds", "pooled")

    @property
    def tokenizers(self) -> tuple:
        return self.base.tokenizer, self.base.tokenizer_2

    def scaling(self) -> list:
        return [self.base.vae.config.get(name) for name in ("scaling_factor", "latents_mean", "latents_std")]

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        factor, means, deviations = self.scaling()
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            latents = self.base.vae.encode(images).latent_dist.mode()
        if means is not None and deviations is not None:
            mean = torch.tensor(means, device=latents.device).view(1, -1, 1, 1)
            std = torch.tensor(deviations, device=latents.device).view(1, -1, 1, 1)
            return (latents - mean) * factor / std
        return latents * factor

    def train_text_encoders(self) -> torch.nn.ModuleDict:
        text_encoders = [self.modules[name] for name in self.text_parts]
        train_sdxl_text_encoders(*text_encoders)
        return torch.nn.ModuleDict(dict(zip(self.text_parts, text_encoders, strict=True)))

    def encode_captions(self, captions: list[str]) -> Embeddings:
        embeds, _, pooled, _ = self._encode_prompt(captions, self.device, False)
        return embeds, pooled

    def encode_null(self) -> Embeddings:
        if self.base.config["force_zeros_for_empty_prompt"]:
            first, second = self.base.text_encoder.config, self.base.text_encoder_2.config
            shape = (1, self.base.tokenizer.model_max_length, first.hidden_size + second.hidden_size)
            return torch.zeros(shape, device=self.device), torch.zeros(1, second.projection_dim, device=self.device)
        with torch.no_grad():
            _, embeds, _, pooled = self._encode_prompt("", self.device, True)
        return embeds, pooled

    def encode_guided(self, captions: list[str], device: torch.device) -> dict[str, torch.Tensor]:
        encoded = self._encode_prompt(captions, device, True)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return dict(zip(names, encoded, strict=True))

    def _encode_prompt(self, captions: str | list[str], device: torch.device, guided: bool) -> tuple:
        encode: Any = self.base.encode_prompt  # its types know neither lists nor that it returns what was asked for
        with _unsaid():
            return encode(captions, device=device, do_classifier_free_guidance=guided)


@contextlib.contextmanager
def _unsaid():
    """Within the block the pipeline does not tell at every call that captions are cut: `check_captions` did, once."""
    said = logging.getLogger(StableDiffusionXLPipeline.__module__)
    was, said.disabled = said.disabled, True
    try:
        yield
    finally:
        said.disabled = was


def train_sdxl_text_encoders(first: Any, second: Any) -> None:
    """Let SDXL's two text encoders train, in place, but for the end of the first: captions are read before its last
    layer."""
    for encoder in (first, second):
        encoder.requires_grad_(True)
    for unread in (first.encoder.layers[-1], first.final_layer_norm):
        unread.requires_grad_(False)


class SDXL(Family):
    """A `StableDiffusionXLPipeline` in float32."""

    name, part, network_name = "sdxl", "unet", "U-Net"
    network_class = UNet2DConditionModel
    text2mask_class = Text2MaskPipeline

    @classmethod
    def load(cls, folder: str, config: GeneratorConfig) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline.from_pretrained(
            folder,
            revision=config.revision,
            use_safetensors=True,
            dtype=torch.float32,
            add_watermarker=False,
        )

    @property
    def size_factor(self) -> int:
        return self.base.vae_scale_factor

    def build_encoders(self) -> SDXLEncoders:
        return SDXLEncoders(self.base)

    def build_objective(self, config: GeneratorConfig) -> DenoisingObjective:
        return DenoisingObjective(self.base.scheduler.config, config.snr_gamma)

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        added = {"text_embeds": batch["pooled"], "time_ids": batch["time_ids"].to(noisy.dtype)}
        return module(noisy, batch["timestep"], batch["prompt_embeds"], added_cond_kwargs=added).sample

    def parts(self, network: torch.nn.Module | None = None) -> dict[str, Any]:
        components: dict[str, Any] = dict(self.base.components) | ({self.part: network} if network is not None else {})
        return components | {"force_zeros_for_empty_prompt": self.base.config["force_zeros_for_empty_prompt"]}

    def to_base(self, network: torch.nn.Module | None = None) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(**self.parts(network), add_watermarker=False)

    def save_lora(self, folder: Path) -> None:
        StableDiffusionXLPipeline.save_lora_weights(
            folder,
            unet_lora_layers=dict(get_peft_model_state_dict(self.network)),  # peft's names; diffusers reads them
            safe_serialization=True,
            unet_lora_adapter_metadata=self.network.peft_config["default"].to_dict(),
        )
