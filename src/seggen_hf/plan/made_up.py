"""Models of a recipe's own sizes with random weights, and records to feed them: nothing is downloaded."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from seggen_hf.pipelines import ColormapCodec, Mask2ImgPipeline, Text2MaskPipeline

from ..config import Recipe, SegmenterConfig
from ..data.captions import template_caption
from ..data.schema import attach_labels, encode_image, encode_map, encode_panoptic, record_features
from ..labels import LabelSet
from ..miniature.architecture import build_tokenizer
from ..networks.modules import from_config
from ..segmenter.build import build_segmenter, freeze_batch_norm
from ..segmenter.eomt import fixed_side
from ..trainers.generator import build_panoptic_codec, cast_weights
from ..trainers.mask2img import new_controlnet
from .base_modules import read_base_configs
from .segmenter import read_config
from .simulate import DTYPES

SHOWN_LABELS = 12  # of a made-up picture; ADE20K's show 9 on average


def made_up_records(labels: LabelSet, count: int, height: int, width: int, task: str = "semantic") -> Dataset:
    """`count` records of noise: maps of stripes of up to twelve labels, each a segment of its own.

    The same for every call. Images are noise on a coarse grid, so that their PNGs are about as large as photographs'.
    """
    panoptic = task != "semantic"
    rows = []
    for index in range(count):
        rng = np.random.default_rng([7, index])
        shown = rng.choice(labels.num_labels, min(labels.num_labels, SHOWN_LABELS), replace=False)
        stripes = np.arange(width) * len(shown) // width
        segmentation_map = np.broadcast_to(shown[stripes], (height, width)).astype(np.int64)
        coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
        image = coarse.repeat(8, 0).repeat(8, 1)[:height, :width] + rng.integers(-8, 9, (height, width, 3))
        name = f"{index:06d}"
        row = {
            "image": encode_image(image.clip(0, 255).astype(np.uint8), name),
            "segmentation_map": encode_map(segmentation_map, labels.num_labels, name),
            "caption": template_caption(segmentation_map, labels),
            "image_id": name,
        }
        if panoptic:
            panoptic_map = np.broadcast_to(stripes + 1, (height, width)).astype(np.int32)
            row |= {"panoptic_map": encode_panoptic(panoptic_map, name), "segments_info": []}
            for number, label in enumerate(shown.tolist()):
                where = np.flatnonzero(stripes == number)
                row["segments_info"].append(
                    {
                        "id": number + 1,
                        "category_id": label,
                        "isthing": label in labels.things,
                        "iscrowd": False,
                        "area": len(where) * height,
                        "bbox": [int(where[0]), 0, len(where), height],
                    }
                )
        rows.append(row)
    return attach_labels(Dataset.from_list(rows, features=record_features(panoptic=panoptic)), labels)


def random_base(base_model: str, revision: str | None, device: torch.device) -> StableDiffusionXLPipeline:
    """A pipeline of the base's configuration with random weights, float32 on the CPU.

    The tokenizers know letters alone: words do not matter here, and few ids lie within every vocabulary.
    """
    configs = read_base_configs(base_model, revision)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        with device:  # a card draws billions of numbers in a second
            components: dict[str, Any] = {
                "unet": from_config(UNet2DConditionModel, configs["unet"]),
                "vae": from_config(AutoencoderKL, configs["vae"]),
                "text_encoder": CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"])),
                "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig.from_dict(configs["text_encoder_2"])),
            }
    for module in components.values():
        cast_weights(module.to("cpu").eval(), torch.float32)  # a configuration may name half precision
    places = components["text_encoder"].config.max_position_embeddings
    tokenizer = build_tokenizer((), places)
    scheduler: Any = from_config(EulerDiscreteScheduler, configs["scheduler"])
    return StableDiffusionXLPipeline(
        **components, tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=scheduler, add_watermarker=False
    )


def random_generators(recipe: Recipe, labels: LabelSet, with_text2mask: bool, device: torch.device) -> dict:
    """Pipelines as synthesis takes them, under `mask2img` and, if it is wanted, `text2mask`; each has modules of its
    own, in the precision of the synthesis, on the CPU."""
    config, data = recipe.mask2img, recipe.data
    codec = build_panoptic_codec(data, labels) or ColormapCodec(labels)
    colormap = codec.to_dict() | {"height": data.height, "width": data.width}
    base = random_base(config.base_model, config.revision, device)
    for module in (base.unet, base.vae, base.text_encoder, base.text_encoder_2):
        cast_weights(module, DTYPES[recipe.synthesis.mixed_precision])
    generators = {}
    if with_text2mask:
        generators["text2mask"] = Text2MaskPipeline(**copy.deepcopy(base.components), colormap=colormap)
    controlnet = new_controlnet(base.unet, config.conditioning, labels.num_labels, base.vae_scale_factor)
    colormap |= {"conditioning": config.conditioning} if config.conditioning != "rgb" else {}
    cast_weights(controlnet, DTYPES[recipe.synthesis.mixed_precision])
    generators["mask2img"] = Mask2ImgPipeline(**base.components, controlnet=controlnet, colormap=colormap)
    return generators


def random_segmenter(config: SegmenterConfig, labels: LabelSet, folder: Path, task: str):
    """The segmenter and its processor as `config` asks for them, without weights; `folder` gets a file."""
    settings, is_pretrained = read_config(config)
    path = folder / "segmenter.json"
    path.write_text(json.dumps(settings.to_dict()))
    model, processor = build_segmenter(
        path,
        labels,
        short_side=config.inference_size or min(config.crop_height, config.crop_width),
        seed=config.seed,
        num_queries=config.num_queries,
        crop_size=(config.crop_height, config.crop_width),
        task=task,
    )
    if is_pretrained:
        freeze_batch_norm(model)
    if fixed_side(model.config):
        torch.nn.init.zeros_(model.get_buffer("attn_mask_probs"))  # as a training leaves them
    return model, processor
