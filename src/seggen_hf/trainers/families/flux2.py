"""FLUX.2-klein: a transformer that reads captions through Qwen3 and pictures as tokens, trained by flow matching.

As diffusers has it (`pipelines/flux2/pipeline_flux2_klein.py` and its examples of LoRA training): latents are patches
of 2 x 2 that a batch norm's statistics make even, noisy latents lie on the straight line from them to the noise, and
the network says the velocity, noise - latents, at a sigma drawn evenly. Captions have 512 places, filled or not.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from peft.utils import get_peft_model_state_dict

from seggen_hf.pipelines import (
    Flux2Text2MaskPipeline,
    caption_places,
    check_reference_size,
    encode_flux2_guided,
)

from ...config import LORA_TARGETS, AdaptConfig, GeneratorConfig, Mask2ImgConfig
from ..encoding import Embeddings, Encoders
from ..objective import FlowObjective
from .family import Family


class Flux2Encoders(Encoders):
    """The autoencoder, in float32, and Qwen3, as it was loaded. A caption is `(places, width)` embeddings."""

    text_parts = ("text_encoder",)
    arrays = ("prompt_embeds",)
    captions_at_once = 4  # of a vocabulary of 151,936 the logits of one caption are 0.3 GB in float32

    @property
    def tokenizers(self) -> tuple:
        return (self.base.tokenizer,)

    def places(self, tokenizer: Any) -> int:
        empty = [{"role": "user", "content": ""}]
        chat = tokenizer.apply_chat_template(empty, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        return caption_places(tokenizer) - len(tokenizer(chat)["input_ids"])

    def scaling(self) -> list:
        return [self.base.vae.config.batch_norm_eps]  # the statistics are buffers, and in the digest of the weights

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.base._encode_vae_image(images, generator=None)

    def encode_captions(self, captions: list[str]) -> Embeddings:
        places = caption_places(self.base.tokenizer)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            embeds, _ = self.base.encode_prompt(captions, device=self.device, max_sequence_length=places)
        return (embeds.float(),)

    def encode_null(self) -> Embeddings:
        return self.encode_captions([""])

    def encode_guided(self, captions: list[str], device: torch.device) -> dict[str, torch.Tensor]:
        return encode_flux2_guided(self.base, captions, device)

    @staticmethod
    def pack(embeddings: torch.Tensor, dtype: type) -> np.ndarray:
        """In half precision the bits of bfloat16, as int16: Qwen3 is published so, beyond the range of float16."""
        if dtype is np.float32:
            return embeddings.cpu().numpy()
        return embeddings.bfloat16().cpu().view(torch.int16).numpy()

    @staticmethod
    def unpack(row: np.ndarray) -> np.ndarray:
        return torch.from_numpy(row).view(torch.bfloat16).float().numpy() if row.dtype == np.int16 else row


class Flux2(Family):
    """A `Flux2KleinPipeline`; where a LoRA of it trains in bf16, its frozen networks are loaded as published."""

    name, part, network_name = "flux2", "transformer", "transformer"
    network_class = Flux2Transformer2DModel
    text2mask_class = Flux2Text2MaskPipeline

    def __init__(self, base: Flux2KleinPipeline):
        super().__init__(base)
        self.objective = FlowObjective(base.scheduler.config)
        self._places: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def check_config(cls, config: GeneratorConfig) -> None:
        """Also refuses settings of a ControlNet, and a size that no reference has."""
        if config.snr_gamma:
            raise ValueError(f"--snr_gamma is {config.snr_gamma}; FLUX.2 is trained by flow matching: set it to 0.")
        if isinstance(config, AdaptConfig) and config.train_text_encoders:
            raise ValueError(
                f"--train_text_encoders is set; {config.base_model} is a FLUX.2, whose Qwen3 knows the words and is "
                "left as it is: leave it out."
            )
        if not isinstance(config, Mask2ImgConfig):
            return
        for name, default in (("controlnet_model", None), ("train_base", False), ("conditioning", "rgb")):
            if (given := getattr(config, name)) != default:
                raise ValueError(
                    f"--{name} is {given!r}; {config.base_model} is a FLUX.2, which is shown the color map as a "
                    f"picture and has no ControlNet: leave it out."
                )
        check_reference_size(config.height, config.width)

    @staticmethod
    def dtypes(config: GeneratorConfig) -> dict[str, torch.dtype]:
        """In what precision the networks are loaded."""
        half = torch.bfloat16 if config.mixed_precision == "bf16" else torch.float32
        network = half if config.lora_rank else torch.float32
        return {"text_encoder": half, "transformer": network, "default": torch.float32}

    @classmethod
    def load(cls, folder: str, config: GeneratorConfig) -> Flux2KleinPipeline:
        dtypes: Any = cls.dtypes(config)  # diffusers declares one for all
        return Flux2KleinPipeline.from_pretrained(folder, revision=config.revision, use_safetensors=True, dtype=dtypes)

    @property
    def size_factor(self) -> int:
        return 2 * self.base.vae_scale_factor

    def build_encoders(self) -> Flux2Encoders:
        return Flux2Encoders(self.base)

    def build_objective(self, config: GeneratorConfig) -> FlowObjective:
        return self.objective

    def lora_targets(self, config: GeneratorConfig) -> list[str]:
        """The settings' own, where they are not the default; else the attention of all blocks, as diffusers' example
        has it: most of FLUX.2's blocks have other layers than SDXL's."""
        if config.lora_targets != LORA_TARGETS:
            return config.lora_targets
        return lora_targets(self.network)

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        """As `Family.predict`; the latents of `batch["reference"]`, of the shape of `noisy`, are shown beside it."""
        reference = batch.get("reference")
        sigma = self.objective.sigma(batch["timestep"])
        return predict_velocity(module, noisy, sigma, batch["prompt_embeds"], reference, self._places)

    def parts(self, network: torch.nn.Module | None = None) -> dict[str, Any]:
        components: dict[str, Any] = dict(self.base.components) | ({self.part: network} if network is not None else {})
        return components | {"is_distilled": self.base.config["is_distilled"]}

    def to_base(self, network: torch.nn.Module | None = None) -> Flux2KleinPipeline:
        return Flux2KleinPipeline(**self.parts(network))

    def save_lora(self, folder: Path) -> None:
        Flux2KleinPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=dict(get_peft_model_state_dict(self.network)),
            safe_serialization=True,
            transformer_lora_adapter_metadata=self.network.peft_config["default"].to_dict(),
        )


def lora_targets(network: Flux2Transformer2DModel) -> list[str]:
    """The attention layers of FLUX.2's double and single blocks."""
    single = (f"single_transformer_blocks.{i}.attn.to_out" for i in range(len(network.single_transformer_blocks)))
    return [*LORA_TARGETS, "to_qkv_mlp_proj", *single]  # a bare to_out would also name the double blocks' lists


def predict_velocity(
    network: Any,
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    embeds: torch.Tensor,
    reference: torch.Tensor | None = None,
    places: dict | None = None,
) -> torch.Tensor:
    """What the transformer says of noisy latents `(batch, channels, h, w)`, in their shape.

    Args:
        sigma: `(batch,)`, share of noise in [0, 1].
        embeds: `(batch, tokens, width)` of the captions.
        reference: latents of a picture each, in the shape of `noisy`: tokens beside its own, one step away in time.
        places: keeps the tokens' places between calls, on the device.
    """
    key = (noisy.shape[-2:], embeds.shape[1], reference is None, noisy.device)
    places = {} if places is None else places
    if key not in places:
        stock, one = Flux2KleinPipeline, torch.empty(1, 1, *noisy.shape[-2:])
        image = [stock._prepare_latent_ids(one)] + ([] if reference is None else [stock._prepare_image_ids([one])])
        text = stock._prepare_text_ids(torch.empty(1, embeds.shape[1], 1))
        places[key] = (torch.cat(image, dim=1)[0].to(noisy.device), text[0].to(noisy.device))
    image_places, text_places = places[key]
    tokens = noisy.flatten(2).transpose(1, 2)  # (batch, h * w, channels)
    count = tokens.shape[1]
    if reference is not None:
        tokens = torch.cat([tokens, reference.flatten(2).transpose(1, 2).to(tokens.dtype)], dim=1)
    said = network(
        hidden_states=tokens,
        timestep=sigma,
        encoder_hidden_states=embeds,
        txt_ids=text_places,
        img_ids=image_places,
        return_dict=False,
    )[0]
    return said[:, :count].transpose(1, 2).reshape(noisy.shape)
