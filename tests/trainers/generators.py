"""Tiny Text2Mask and Mask2Img trainings on the unit-size miniature, 32 x 32 pixels."""

from pathlib import Path

from safetensors.torch import load_file

from seggen_hf.config import Mask2ImgConfig, Text2MaskConfig
from seggen_hf.data.schema import labels_of
from seggen_hf.trainers.mask2img import Mask2ImgTask
from seggen_hf.trainers.text2mask import Text2MaskTask

TASKS = {"text2mask": (Text2MaskTask, Text2MaskConfig), "mask2img": (Mask2ImgTask, Mask2ImgConfig)}


def build(kind: str, base, out, records, **changes):
    """A task and its settings."""
    task_class, config_class = TASKS[kind]
    defaults = {
        "base_model": str(base),
        "output_dir": str(out),
        "height": 32,
        "width": 32,
        "learning_rate": 2e-3,
        "train_batch_size": 2,
        "max_train_steps": 4,
        "logging_steps": 1,
        "checkpointing_steps": 2,
        "num_validation_images": 1,
        "validation_inference_steps": 2,
    }
    config = config_class(**(defaults | changes))
    return task_class.from_config(config, records, labels_of(records)), config


def weights(folder, part: str = "unet") -> dict:
    return load_file(next(Path(folder, part).glob("*.safetensors")))
