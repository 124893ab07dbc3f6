"""Every training at unit size, by name."""

from pathlib import Path

import torch
from generators import build
from unit_segmenters import BACKBONES, unit_config

from seggen_hf.config import SegmenterConfig
from seggen_hf.trainers.segmenter import SegmenterTask
from seggen_hf.trainers.stream import SampleStream

GENERATORS = {
    "text2mask": ("text2mask", {"snr_gamma": 5.0}),
    "text2mask-lora": ("text2mask", {"lora_rank": 4}),
    "mask2img": ("mask2img", {"snr_gamma": 5.0}),
    "mask2img-lora": ("mask2img", {"lora_rank": 4}),
    "mask2img-base": ("mask2img", {"train_base": True}),
}
SEGMENTERS = {
    f"{task}-{backbone}": (task, backbone) for task in ("semantic", "panoptic", "instance") for backbone in BACKBONES
}
TRAININGS = (*GENERATORS, *SEGMENTERS)


def build_training(name: str, folder: Path, base: Path, models: Path, records, **changes):
    """A task and its settings; `models` gets the segmenters' configurations."""
    changes = {"learning_rate": 1e-4, "max_train_steps": 4, "logging_steps": 1, "checkpointing_steps": 0} | changes
    if name in GENERATORS:
        kind, settings = GENERATORS[name]
        return build(kind, base, folder, records, **settings | changes)
    task, backbone = SEGMENTERS[name]
    if not (models / backbone).is_dir():
        drops = {"drop_path_rate": 0.3} if backbone == "swin" else {}
        unit_config(backbone, **drops).save_pretrained(models / backbone)
    sizes = {"crop_height": 64, "crop_width": 64, "train_batch_size": 2}
    config = SegmenterConfig(model=str(models / backbone), output_dir=str(folder), **sizes | changes)
    return SegmenterTask.from_config(config, records, task=task), config


def first_loss(task, config) -> float:
    """The loss of a training's first batch, in float32 on the CPU."""
    task.to(torch.device("cpu"), torch.float32)
    stream = SampleStream(task, config.seed, config.train_batch_size)
    batch = task.collate([stream[position] for position in range(config.train_batch_size)])
    loss, _ = task.loss(task.trainable.train(), batch)
    return loss.item()
