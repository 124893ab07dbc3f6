"""Which family a base is of."""

from diffusers import DiffusionPipeline

from ...config import GeneratorConfig
from ...miniature.architecture import resolve_base
from ...networks.weights import check_pipeline
from .family import Family
from .sdxl import SDXL


def read_family(config: GeneratorConfig) -> type[Family]:
    """The family of the base that `config` names."""
    return SDXL


def load_family(config: GeneratorConfig) -> Family:
    """The base that a training starts from, of its family, on the CPU, safetensors only.

    Raises:
        ValueError: there is no such base, or it cannot be read.
    """
    try:
        folder, family = resolve_base(config.base_model), read_family(config)
        base: DiffusionPipeline = family.load(folder, config)
        check_pipeline(folder, base)
        return family(base)
    except (OSError, ValueError) as error:
        raise ValueError(f"--base_model {config.base_model} cannot be loaded: {error}") from error
