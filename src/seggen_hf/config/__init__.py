"""Settings: one dataclass a section, how they are read and checked, recipes and presets. No torch in it."""

from .training import (
    SECTIONS,
    CaptionConfig,
    DataConfig,
    EvaluationConfig,
    FilterConfig,
    GeneratorConfig,
    Mask2ImgConfig,
    SegmenterConfig,
    SynthesisConfig,
    Text2MaskConfig,
    TrainingConfig,
    parse_config,
    parse_or_exit,
    save_config,
)

__all__ = [
    "SECTIONS",
    "CaptionConfig",
    "DataConfig",
    "EvaluationConfig",
    "FilterConfig",
    "GeneratorConfig",
    "Mask2ImgConfig",
    "SegmenterConfig",
    "SynthesisConfig",
    "Text2MaskConfig",
    "TrainingConfig",
    "parse_config",
    "parse_or_exit",
    "save_config",
]
