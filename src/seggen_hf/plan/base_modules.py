"""The modules of an SDXL base on the meta device, from its configurations alone."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from huggingface_hub import hf_hub_download
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from seggen_hf.pipelines import condition_channels

from ..config import GeneratorConfig, Mask2ImgConfig
from ..miniature.architecture import resolve_base
from ..networks.modules import from_config
from ..trainers.mask2img import check_controlnet, new_controlnet
from ..trainers.objective import DenoisingObjective
from ..trainers.sdxl_config import SDXL_BASE_ID, SDXL_CONFIGS
from .simulate import empty


def count(module: torch.nn.Module, trained: bool = False) -> int:
    """Parameters of a module, or those of them that train."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def weight_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(p.nbytes for p in module.parameters())


def read_base_configs(base_model: str, revision: str | None = None) -> dict[str, dict]:
    """Configurations of an SDXL base: unet, vae, text_encoder, text_encoder_2, scheduler.

    SDXL-base 1.0's are built in, a folder's are read, others come from the Hub or its cache.

    Raises: `ValueError` if one cannot be had.
    """
    if base_model == SDXL_BASE_ID:
        return SDXL_CONFIGS
    found = {}
    for part in SDXL_CONFIGS:
        name = f"{part}/scheduler_config.json" if part == "scheduler" else f"{part}/config.json"
        try:
            folder = Path(resolve_base(base_model))
            path = folder / name if folder.is_dir() else hf_hub_download(base_model, name, revision=revision)
            found[part] = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"--base_model {base_model} has no readable {name}: {reason}") from error
    return found


class MetaBase:
    """The modules of an SDXL base on the meta device, and the shapes of what they read.

    Raises: `ValueError` for sizes that its latents cannot have, and for a base that is no SDXL.
    """

    def __init__(self, base_model: str, revision: str | None, size: tuple[int, int]):
        self.base_model, self.height, self.width = base_model, *size
        self.configs = read_base_configs(base_model, revision)
        with torch.device("meta"):
            self.unet = from_config(UNet2DConditionModel, self.configs["unet"])
            self.vae = from_config(AutoencoderKL, self.configs["vae"])
            self.text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(self.configs["text_encoder"]))
            self.text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(self.configs["text_encoder_2"]))
        for module in self.modules:
            module.requires_grad_(False).eval()
        self.factor = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        self.tokens = self.text_encoder.config.max_position_embeddings
        self.text_width = self.text_encoder.config.hidden_size + self.text_encoder_2.config.hidden_size
        self.pooled_width = self.text_encoder_2.text_projection.out_features
        self.prediction_type = DenoisingObjective(self.configs["scheduler"]).prediction_type
        self._check()

    @classmethod
    def of(cls, config: GeneratorConfig) -> "MetaBase":
        """The base of a generator's training."""
        return cls(config.base_model, config.revision, (config.height, config.width))

    def _check(self) -> None:
        if self.height % self.factor or self.width % self.factor:
            raise ValueError(
                f"--height and --width are {self.height} and {self.width}; they must be multiples of {self.factor}."
            )
        if self.unet.config["cross_attention_dim"] != self.text_width:
            raise ValueError(
                f"{self.base_model}: the U-Net reads captions of width {self.unet.config['cross_attention_dim']}, the "
                f"two text encoders write {self.text_width}. It is no SDXL."
            )
        if self.unet.config["in_channels"] != self.vae.config["latent_channels"]:
            raise ValueError(
                f"{self.base_model}: the U-Net takes {self.unet.config['in_channels']} channels, the autoencoder "
                f"makes {self.vae.config['latent_channels']}."
            )

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [self.unet, *self.encoders]

    @property
    def encoders(self) -> list[torch.nn.Module]:
        """What a training with cached latents runs once, and sampling needs."""
        return [self.vae, self.text_encoder, self.text_encoder_2]

    def parameters(self) -> dict[str, int]:
        return {name: count(getattr(self, name)) for name in ("unet", "vae", "text_encoder", "text_encoder_2")}

    def shapes(self, batch: int) -> dict[str, tuple]:
        """Of what a denoising step reads for `batch` samples."""
        latents = (batch, self.unet.config["in_channels"], self.height // self.factor, self.width // self.factor)
        return {
            "latents": latents,
            "caption embeddings": (batch, self.tokens, self.text_width),
            "pooled embeddings": (batch, self.pooled_width),
            "time ids": (batch, 6),
        }

    def inputs(self, batch: int, dtype: torch.dtype = torch.float32) -> tuple:
        """noisy latents, timesteps, caption embeddings, added conditions of one batch, on meta."""
        latents, embeds, pooled, ids = (empty(*shape) for shape in self.shapes(batch).values())
        added = {"text_embeds": pooled.to(dtype), "time_ids": ids}
        return latents.to(dtype), empty(batch, dtype=torch.long), embeds.to(dtype), added

    def encode_images(self, batch: int) -> None:
        """Latents of images `(batch, 3, height, width)`."""
        self.vae.encode(empty(batch, 3, self.height, self.width, dtype=self.vae.dtype))

    def encode_captions(self, batch: int) -> None:
        """Embeddings of as many captions."""
        for encoder in (self.text_encoder, self.text_encoder_2):
            encoder(empty(batch, self.tokens, dtype=torch.long), output_hidden_states=True)

    def decode(self, batch: int) -> torch.Tensor:
        """Images of `batch` latents."""
        vae: Any = self.vae  # diffusers declares a tensor in the place of what it returns
        return vae.decode(empty(*self.shapes(batch)["latents"], dtype=vae.dtype)).sample


def build_controlnet(base: MetaBase, config: Mask2ImgConfig, num_labels: int | None) -> ControlNetModel:
    """The ControlNet that a training of `config` begins with, on meta.

    Raises: `ValueError` if the one that `config` names cannot be read or does not fit.
    """
    with torch.device("meta"):
        if not config.controlnet_model:
            return new_controlnet(base.unet, config.conditioning, num_labels or 255, base.factor, copies_weights=False)
        path = Path(config.controlnet_model)
        try:
            file = path / "config.json" if path.is_dir() else hf_hub_download(str(path), "config.json")
        except OSError as error:
            raise ValueError(f"--controlnet_model {path} cannot be read: {str(error).splitlines()[0]}") from error
        controlnet = from_config(ControlNetModel, json.loads(Path(file).read_text()))
    is_known = num_labels is not None or config.conditioning != "bits"
    num_channels = condition_channels(config.conditioning, num_labels or 255) if is_known else None
    check_controlnet(controlnet, base.unet, base.factor, num_channels)
    return controlnet
