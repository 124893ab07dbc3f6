"""Which family a base is of."""

from collections.abc import Mapping
from typing import Any

from diffusers import DiffusionPipeline

from ...config import GeneratorConfig
from ...miniature.architecture import resolve_base
from ...networks.pipeline_index import read_index
from ...networks.weights import check_pipeline
from .family import Family
from .flux2 import Flux2
from .sdxl import SDXL


def family_of(index: Mapping[str, Any]) -> type[Family]:
    """The family of a base, from its model_index.json: FLUX.2's networks, or else SDXL's.

    Raises: `ValueError` for a FLUX.2 with another text encoder than klein's.
    """
    networks = {name: value[-1] for name, value in index.items() if isinstance(value, (list, tuple)) and value}
    if networks.get("transformer") != "Flux2Transformer2DModel":
        return SDXL
    if networks.get("text_encoder") != "Qwen3ForCausalLM":
        raise ValueError(f"it is a FLUX.2 that reads captions by {networks.get('text_encoder')}; only klein is known")
    return Flux2


def read_family(config: GeneratorConfig) -> type[Family]:
    """The family of the base that `config` names.

    Raises: `ValueError` if there is no such base.
    """
    try:
        return family_of(read_index(resolve_base(config.base_model), config.revision))
    except (OSError, ValueError) as error:
        raise ValueError(f"--base_model {config.base_model} cannot be loaded: {error}") from error


def load_family(config: GeneratorConfig) -> Family:
    """The base that a training starts from, of its family, on the CPU, safetensors only.

    Raises:
        ValueError: there is no such base, or it cannot be read, or the settings do not fit its family.
    """
    family = read_family(config)
    family.check_config(config)
    try:
        folder = resolve_base(config.base_model)
        base: DiffusionPipeline = family.load(folder, config)
        check_pipeline(folder, base)
        return family(base)
    except (OSError, ValueError) as error:
        raise ValueError(f"--base_model {config.base_model} cannot be loaded: {error}") from error
