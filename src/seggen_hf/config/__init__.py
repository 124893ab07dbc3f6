"""Settings: one dataclass a section, how they are read and checked, recipes and presets. No torch in it."""

from .command_line import parse_config, parse_or_exit
from .data import SCENES, CaptionConfig, DataConfig
from .evaluation import EvaluationConfig
from .recipe import (
    DEFAULTS,
    HOW_ONLY,
    SECTIONS,
    Recipe,
    list_overridden,
    load_recipe,
    preset_of,
    read_sections,
    save_recipe,
    share_size,
)
from .synthesis import MIXED_PRECISION, OFFLOADS, VAE_PRECISIONS, FilterConfig, SynthesisConfig
from .training import (
    LORA_TARGETS,
    LR_SCHEDULES,
    OPTIMIZERS,
    PREDICTION_TYPES,
    SCALE_REFERENCES,
    SYNTHETIC_MODES,
    AdaptConfig,
    GeneratorConfig,
    ImageGeneratorConfig,
    Mask2ImgConfig,
    SegmenterConfig,
    Text2MaskConfig,
    TrainingConfig,
)
from .values import save_config

__all__ = [
    "AdaptConfig",
    "DEFAULTS",
    "HOW_ONLY",
    "LORA_TARGETS",
    "LR_SCHEDULES",
    "MIXED_PRECISION",
    "OFFLOADS",
    "OPTIMIZERS",
    "PREDICTION_TYPES",
    "SCALE_REFERENCES",
    "SCENES",
    "SECTIONS",
    "SYNTHETIC_MODES",
    "VAE_PRECISIONS",
    "CaptionConfig",
    "DataConfig",
    "EvaluationConfig",
    "FilterConfig",
    "GeneratorConfig",
    "ImageGeneratorConfig",
    "Mask2ImgConfig",
    "Recipe",
    "SegmenterConfig",
    "SynthesisConfig",
    "Text2MaskConfig",
    "TrainingConfig",
    "list_overridden",
    "load_recipe",
    "parse_config",
    "parse_or_exit",
    "preset_of",
    "read_sections",
    "save_config",
    "save_recipe",
    "share_size",
]
