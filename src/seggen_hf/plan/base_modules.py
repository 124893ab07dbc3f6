"""The modules of a base on the meta device, from its configurations alone: SDXL's here, FLUX.2's beside it."""

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
from ..networks.pipeline_index import read_index
from ..trainers.encoding import ENCODE_CAPTIONS
from ..trainers.families.choice import family_of
from ..trainers.families.flux2 import Flux2
from ..trainers.flux2_config import FLUX2_BASE_ID, FLUX2_CONFIGS
from ..trainers.mask2img import check_controlnet, new_controlnet
from ..trainers.objective import DenoisingObjective
from ..trainers.sdxl_config import SDXL_BASE_ID, SDXL_CONFIGS
from .counts import count
from .flux2_modules import MetaFlux2
from .simulate import empty


def read_base_configs(base_model: str, revision: str | None = None) -> dict[str, dict]:
    """Configurations of a base: those of its networks that weigh, and of its scheduler, by component.

    Those of SDXL-base 1.0 and FLUX.2-klein-base-4B are built in, a folder's are read, others come from the Hub or its
    cache. With `transformer` among them it is a FLUX.2, otherwise an SDXL.

    Raises: `ValueError` if one cannot be had.
    """
    known = {SDXL_BASE_ID: SDXL_CONFIGS, FLUX2_BASE_ID: FLUX2_CONFIGS}
    if base_model in known:
        return known[base_model]
    try:
        index = read_index(resolve_base(base_model), revision)
    except OSError:
        index = {}  # what is missing is told below
    try:
        family = family_of(index)
    except ValueError as error:
        raise ValueError(f"--base_model {base_model} cannot be planned: {error}.") from error
    found = {}
    for part in FLUX2_CONFIGS if family is Flux2 else SDXL_CONFIGS:
        name = f"{part}/scheduler_config.json" if part == "scheduler" else f"{part}/config.json"
        try:
            found[part] = _read_config(base_model, name, revision)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"--base_model {base_model} has no readable {name}: {reason}") from error
    return found


def _read_config(base_model: str, name: str, revision: str | None) -> dict:
    folder = Path(resolve_base(base_model))
    path = folder / name if folder.is_dir() else hf_hub_download(base_model, name, revision=revision)
    return json.loads(Path(path).read_text())


def meta_base(base_model: str, revision: str | None, size: tuple[int, int]) -> "MetaBase | MetaFlux2":
    """The base of this name for pictures of `size` (height and width), of its family."""
    configs = read_base_configs(base_model, revision)
    return (MetaFlux2 if "transformer" in configs else MetaBase)(base_model, configs, size)


def meta_base_of(config: GeneratorConfig) -> "MetaBase | MetaFlux2":
    """The base of a generator's training, in the precision in which that loads it."""
    base = meta_base(config.base_model, config.revision, (config.height, config.width))
    base.load_as(config)
    return base


class MetaBase:
    """The modules of an SDXL base on the meta device, and the shapes of what they read.

    Raises: `ValueError` for sizes that its latents cannot have, and for a base that is no SDXL.
    """

    part = "unet"
    captions_at_once = ENCODE_CAPTIONS
    notes: tuple[str, ...] = ()  # on what is planned of this family

    def __init__(self, base_model: str, configs: dict[str, dict], size: tuple[int, int]):
        self.base_model, self.configs, (self.height, self.width) = base_model, configs, size
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

    @property
    def network(self) -> UNet2DConditionModel:
        """What denoises."""
        return self.unet

    @property
    def embedding_values(self) -> int:
        """Numbers of a caption's embeddings."""
        return self.tokens * self.text_width + self.pooled_width

    def load_as(self, config: GeneratorConfig) -> None:
        """Everything is loaded in float32."""

    def lora_targets(self, config: GeneratorConfig) -> list[str]:
        """Layers that get a LoRA."""
        return config.lora_targets

    def predict(self, network: torch.nn.Module, noisy, steps, embeds, added) -> torch.Tensor:
        """What `network` says of `inputs`."""
        return network(noisy, steps, embeds, added_cond_kwargs=added).sample

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

    def encode_captions(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of as many captions, and pooled ones."""
        tokens = empty(batch, self.tokens, dtype=torch.long)
        first, second = (read(tokens, output_hidden_states=True) for read in (self.text_encoder, self.text_encoder_2))
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second.text_embeds

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
