"""The modules of a FLUX.2-klein base on the meta device, from its configurations alone; see `base_modules`."""

from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3ForCausalLM

from seggen_hf.pipelines.seggen_flux2 import PLACES

from ..config import LORA_TARGETS, GeneratorConfig
from ..networks.modules import from_config
from ..trainers.families.flux2 import Flux2Encoders, lora_targets, predict_velocity
from ..trainers.generator import cast_weights
from ..trainers.objective import FlowObjective
from .counts import count
from .simulate import empty


class MetaFlux2:
    """What `MetaBase` is of SDXL.

    Args:
        configs: of transformer, vae, text_encoder and scheduler.
    Raises: `ValueError` for sizes that its latents cannot have, and networks that do not fit each other.
    """

    part = "transformer"
    captions_at_once = Flux2Encoders.captions_at_once
    tokens = PLACES
    notes = ("hours by the share of a card's rate that SDXL reached: FLUX.2 was measured on none",)

    def __init__(self, base_model: str, configs: dict[str, dict], size: tuple[int, int]):
        self.base_model, self.configs, (self.height, self.width) = base_model, configs, size
        with torch.device("meta"):
            self.network = from_config(Flux2Transformer2DModel, configs["transformer"])
            self.vae = from_config(AutoencoderKLFlux2, configs["vae"])
            self.text_encoder = Qwen3ForCausalLM(Qwen3Config.from_dict(configs["text_encoder"]))
        for module in self.modules:
            module.requires_grad_(False).eval()
        self.factor = 2 ** len(self.vae.config["block_out_channels"])  # a token is a patch of 2 x 2 latents
        self.text_width = 3 * self.text_encoder.config.hidden_size  # of three of its layers
        self.prediction_type = FlowObjective(configs["scheduler"]).prediction_type
        self._check()

    def _check(self) -> None:
        if self.height % self.factor or self.width % self.factor:
            raise ValueError(
                f"--height and --width are {self.height} and {self.width}; they must be multiples of {self.factor}."
            )
        if self.network.config["joint_attention_dim"] != self.text_width:
            raise ValueError(
                f"{self.base_model}: the transformer reads captions of width "
                f"{self.network.config['joint_attention_dim']}, three layers of the text encoder write "
                f"{self.text_width}. It is no FLUX.2-klein."
            )

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [self.network, *self.encoders]

    @property
    def encoders(self) -> list[torch.nn.Module]:
        return [self.vae, self.text_encoder]

    @property
    def embedding_values(self) -> int:
        return self.tokens * self.text_width

    def parameters(self) -> dict[str, int]:
        return {"transformer": count(self.network), "vae": count(self.vae), "text_encoder": count(self.text_encoder)}

    def load_as(self, config: GeneratorConfig) -> None:
        """Give the text encoder the precision in which a training of `config` loads it."""
        if config.mixed_precision == "bf16":
            cast_weights(self.text_encoder, torch.bfloat16)

    def lora_targets(self, config: GeneratorConfig) -> list[str]:
        return config.lora_targets if config.lora_targets != LORA_TARGETS else lora_targets(self.network)

    def shapes(self, batch: int) -> dict[str, tuple]:
        latents = (batch, self.network.config["in_channels"], self.height // self.factor, self.width // self.factor)
        return {"latents": latents, "caption embeddings": (batch, self.tokens, self.text_width)}

    def inputs(self, batch: int, dtype: torch.dtype = torch.float32) -> tuple:
        """noisy latents, shares of noise, caption embeddings of one batch, on meta."""
        latents, embeds = (empty(*shape, dtype=dtype) for shape in self.shapes(batch).values())
        return latents, empty(batch), embeds

    def predict(self, network: torch.nn.Module, *inputs: Any) -> torch.Tensor:
        return predict_velocity(network, *inputs)

    def encode_images(self, batch: int) -> None:
        """Latents of images `(batch, 3, height, width)`."""
        self.vae.encode(empty(batch, 3, self.height, self.width, dtype=self.vae.dtype))

    def encode_captions(self, batch: int) -> None:
        """Embeddings of as many captions."""
        tokens = empty(batch, self.tokens, dtype=torch.long)
        self.text_encoder(tokens, output_hidden_states=True, use_cache=False)

    def decode(self, batch: int) -> torch.Tensor:
        """Images of `batch` latents."""
        _, channels, height, width = self.shapes(batch)["latents"]
        vae: Any = self.vae
        return vae.decode(empty(batch, channels // 4, 2 * height, 2 * width, dtype=vae.dtype)).sample
