"""Settings that make a run of SDXL's size fit a card: a short list for each size of card.

What a preset sets takes the place of the recipe's own setting; `--set` comes after it. `train_batch_size` is the most
that the card holds: `gradient_accumulation_steps` follow, so that an optimizer step sees as many samples as the recipe
says, by `total_batch_size` where it has one. That is for one process; of several each would see as many.
"""

from collections.abc import Mapping
from typing import Any

# Memory of the card in GiB: every stage of ade20k_sdxl leaves a tenth of it free, by the plan (tests/plan).
MEMORY = {"12gb": 12, "16gb": 16, "24gb": 24, "48gb": 48, "80gb": 80}

_SAVE = {"gradient_checkpointing": True, "mixed_precision": "bf16", "cache_latents": True}
_LORA = _SAVE | {"lora_rank": 32, "learning_rate": 1e-4}  # few weights take larger steps
_OF_NEW_CONTROLNET = _LORA | {"train_base": False}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "12gb": {
        "adapt": _LORA | {"train_batch_size": 2},
        "text2mask": _LORA | {"train_batch_size": 2},
        "mask2img": _OF_NEW_CONTROLNET | {"train_batch_size": 2},
        "synthesis": {"mixed_precision": "bf16", "batch_size": 2, "offload": "model", "vae_slicing": True},
        "segmenter": {"gradient_checkpointing": True, "mixed_precision": "bf16", "train_batch_size": 2},
        "evaluation": {"eval_batch_size": 4},
    },
    "16gb": {
        "adapt": _LORA | {"train_batch_size": 4},
        "text2mask": _LORA | {"train_batch_size": 4},
        "mask2img": _OF_NEW_CONTROLNET | {"train_batch_size": 4},
        "synthesis": {"mixed_precision": "bf16", "batch_size": 4, "offload": "model", "vae_slicing": True},
        "segmenter": {"gradient_checkpointing": True, "mixed_precision": "bf16", "train_batch_size": 4},
        "evaluation": {"eval_batch_size": 8},
    },
    "24gb": {
        "adapt": _LORA | {"train_batch_size": 4},
        "text2mask": _LORA | {"train_batch_size": 4},
        "mask2img": _SAVE | {"train_batch_size": 4, "optimizer": "adamw_8bit"},
        "synthesis": {"mixed_precision": "bf16", "batch_size": 8, "offload": "model", "vae_slicing": True},
        "segmenter": {"gradient_checkpointing": True, "mixed_precision": "bf16", "train_batch_size": 8},
        "evaluation": {"eval_batch_size": 16},
    },
    "48gb": {
        "adapt": _SAVE | {"train_batch_size": 4, "optimizer": "adamw_8bit"},
        "text2mask": _SAVE | {"train_batch_size": 4, "optimizer": "adamw_8bit"},
        "mask2img": _SAVE | {"train_batch_size": 4},
        "synthesis": {"mixed_precision": "bf16", "batch_size": 16, "vae_slicing": True},
        "segmenter": {"mixed_precision": "bf16", "train_batch_size": 16},
        "evaluation": {"eval_batch_size": 16},
    },
    "80gb": {
        "adapt": _SAVE | {"train_batch_size": 4},
        "text2mask": _SAVE | {"train_batch_size": 4},
        "mask2img": _SAVE | {"train_batch_size": 8},
        "synthesis": {"mixed_precision": "bf16", "batch_size": 16, "vae_slicing": True},
        "segmenter": {"mixed_precision": "bf16", "train_batch_size": 16},
        "evaluation": {"eval_batch_size": 32},
    },
}


def apply_preset(name: str, sections: dict[str, dict], classes: Mapping[str, type]) -> None:
    """Lay the settings of preset `name` over `sections`, in place.

    Args:
        sections: `{section: {setting: value}}` as a recipe has them; absent settings have their class's default.
        classes: `{section: dataclass}`.
    Raises: `ValueError` for a preset that there is not.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    for section, settings in PRESETS[name].items():
        own = sections[section]
        for setting, value in settings.items():
            if setting == "train_batch_size":
                _share_batch(own, value, classes[section])
            else:
                own[setting] = value


def _share_batch(section: dict, most: int, cls: type) -> None:
    """At most `most` samples at once, and as many in a step as the section says."""
    batch, accumulation, total = (
        section.get(name, getattr(cls, name, None))
        for name in ("train_batch_size", "gradient_accumulation_steps", "total_batch_size")
    )
    if not (isinstance(batch, int) and batch > 0 and isinstance(accumulation, int) and accumulation > 0):
        return  # refused where all settings are checked
    total = total if isinstance(total, int) and total > 0 else batch * accumulation
    size = max(size for size in range(1, most + 1) if total % size == 0)
    section |= {"train_batch_size": size, "gradient_accumulation_steps": total // size}


def preset_lines(name: str) -> list[str]:
    """`section: setting value, ...` of a preset, a line a section."""
    return [
        f"{section}: " + ", ".join(f"{setting} {value}" for setting, value in settings.items())
        for section, settings in PRESETS[name].items()
    ]
