"""Tiny Text2Mask and Mask2Img trainings on the unit-size miniature, 32 x 32 pixels."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from seggen_hf.config import AdaptConfig, Mask2ImgConfig, Text2MaskConfig
from seggen_hf.data.schema import labels_of
from seggen_hf.miniature.architecture import build_miniature
from seggen_hf.trainers.adapt import AdaptTask
from seggen_hf.trainers.lora import add_lora, cast_frozen
from seggen_hf.trainers.mask2img import Mask2ImgTask
from seggen_hf.trainers.text2mask import Text2MaskTask

TASKS = {
    "adapt": (AdaptTask, AdaptConfig),
    "text2mask": (Text2MaskTask, Text2MaskConfig),
    "mask2img": (Mask2ImgTask, Mask2ImgConfig),
}


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


def lora_unet(dtype: torch.dtype) -> torch.nn.Module:
    """The unit-size U-Net with a LoRA, its frozen weights in `dtype`."""
    unet = build_miniature("unit", ["a"], seed=0)["unet"].requires_grad_(False)
    add_lora(unet, Text2MaskConfig(lora_rank=4))
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:  # zeros at first: nothing of the adapter would be in the output
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    cast_frozen(unet, dtype)
    return unet.train()


def train_step(unet: torch.nn.Module) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of a forward and a backward pass under bf16 autocast."""
    config, generator = unet.config, torch.Generator().manual_seed(0)
    noisy = torch.randn(2, config.in_channels, 16, 16, generator=generator)
    embeds = torch.randn(2, 7, config.cross_attention_dim, generator=generator)
    width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    added = {"text_embeds": torch.randn(2, width, generator=generator), "time_ids": torch.full((2, 6), 64.0)}
    with torch.autocast("cpu", torch.bfloat16):
        drawn = unet(noisy, torch.tensor([3, 500]), embeds, added_cond_kwargs=added).sample
        loss = drawn.float().square().mean()
    loss.backward()
    return loss.item(), [p.grad for p in unet.parameters() if p.requires_grad]
