"""What a training needs of a base, whichever family it is of."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from ...config import GeneratorConfig
from ..encoding import Encoders


class Family:
    """A base behind the interface that the one loop and the tasks use; subclasses say what their family does.

    Args:
        base (`DiffusionPipeline`): float32 or as published, on the CPU.

    Attributes:
        name: of the family.
        part: the component of the pipeline that denoises.
        network_name: what an error calls it.
        network_class: its class.
        text2mask_class: the pipeline that draws color maps with it.
    """

    name: str
    part: str
    network_name: str
    network_class: Any
    text2mask_class: Any

    def __init__(self, base: DiffusionPipeline):
        self.base: Any = base

    @classmethod
    def check_config(cls, config: GeneratorConfig) -> None:
        """Raise `ValueError` for settings that mean nothing to this family; nothing is loaded yet."""

    @classmethod
    def load(cls, folder: str, config: GeneratorConfig) -> DiffusionPipeline:
        """The base in `folder` (or of a Hub id), on the CPU, safetensors only."""
        raise NotImplementedError

    @classmethod
    def load_network(cls, folder: str, config: GeneratorConfig) -> torch.nn.Module:
        """The base's denoising network alone, float32 on the CPU."""
        return cls.network_class.from_pretrained(
            folder, subfolder=cls.part, revision=config.revision, use_safetensors=True, dtype=torch.float32
        )

    @property
    def network(self) -> Any:
        """The denoising network of the base."""
        return getattr(self.base, self.part)

    @property
    def size_factor(self) -> int:
        """Pixels a side of one position of the latents."""
        raise NotImplementedError

    @property
    def latent_channels(self) -> int:
        return self.network.config.in_channels

    def check_size(self, height: int, width: int) -> None:
        """Raise `ValueError` for a size that the base cannot draw."""
        factor = self.size_factor
        if height % factor or width % factor:
            raise ValueError(
                f"--height and --width are {(height, width)}; the base's latents need multiples of {factor}."
            )

    def build_encoders(self) -> Encoders:
        raise NotImplementedError

    def build_objective(self, config: GeneratorConfig) -> Any:
        """Noise in, target and loss out: see `trainers.objective`."""
        raise NotImplementedError

    def lora_targets(self, config: GeneratorConfig) -> list[str]:
        """Layers of the network that get a LoRA."""
        return config.lora_targets

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        """What `module`, the network as it trains, answers to noisy latents; see `GeneratorTask.predict`."""
        raise NotImplementedError

    def parts(self, network: torch.nn.Module | None = None) -> dict[str, Any]:
        """The arguments of a pipeline that is built of this base, with `network` in the place of its own."""
        raise NotImplementedError

    def to_base(self, network: torch.nn.Module | None = None) -> DiffusionPipeline:
        """The base as a pipeline, with `network` in the place of its own."""
        raise NotImplementedError

    def save_lora(self, folder: Path) -> None:
        """Write the LoRA of the network into `folder`, as diffusers reads it."""
        raise NotImplementedError
