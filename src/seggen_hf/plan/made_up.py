"""Models of a recipe's own sizes with random weights, and records to feed them: nothing is downloaded."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, Qwen3Config, Qwen3ForCausalLM

from seggen_hf.pipelines import ColormapCodec, Flux2Mask2ImgPipeline, Mask2ImgPipeline
from seggen_hf.pipelines.seggen_flux2 import PLACES

from ..config import GeneratorConfig, Recipe, SegmenterConfig
from ..data.captions import template_caption
from ..data.schema import attach_labels, encode_image, encode_map, encode_panoptic, record_features
from ..labels import LabelSet
from ..miniature.architecture import build_tokenizer
from ..miniature.flux2 import build_qwen_tokenizer
from ..networks.modules import from_config
from ..segmenter.build import build_segmenter, freeze_batch_norm
from ..segmenter.eomt import fixed_side
from ..trainers.families.family import Family
from ..trainers.families.flux2 import Flux2
from ..trainers.families.sdxl import SDXL
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


def random_family(config: GeneratorConfig, device: torch.device) -> Family:
    """The base that `config` names, of its configuration with random weights, on the CPU in the precision in which a
    training loads it.

    The tokenizers know letters alone: words do not matter here, and few ids lie within every vocabulary.
    """
    configs = read_base_configs(config.base_model, config.revision)
    is_flux2 = "transformer" in configs
    makers = _flux2_networks(configs) if is_flux2 else _sdxl_networks(configs)
    dtypes = Flux2.dtypes(config) if is_flux2 else {}
    networks: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for name, make in makers.items():  # one after the other: a card may not hold them all
            with device:  # a card draws billions of numbers in a second
                network = make()
            # A configuration may name half precision.
            cast_weights(network.to("cpu").eval(), dtypes.get(name, torch.float32))
            networks[name] = network
    if is_flux2:
        scheduler: Any = from_config(FlowMatchEulerDiscreteScheduler, configs["scheduler"])
        return Flux2(Flux2KleinPipeline(**networks, tokenizer=build_qwen_tokenizer((), PLACES), scheduler=scheduler))
    scheduler = from_config(EulerDiscreteScheduler, configs["scheduler"])
    tokenizer = build_tokenizer((), networks["text_encoder"].config.max_position_embeddings)
    networks |= {"tokenizer": tokenizer, "tokenizer_2": tokenizer}
    return SDXL(StableDiffusionXLPipeline(**networks, scheduler=scheduler, add_watermarker=False))


def _sdxl_networks(configs: dict[str, dict]) -> dict[str, Callable[[], Any]]:
    return {
        "unet": lambda: from_config(UNet2DConditionModel, configs["unet"]),
        "vae": lambda: from_config(AutoencoderKL, configs["vae"]),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"])),
        "text_encoder_2": lambda: CLIPTextModelWithProjection(CLIPTextConfig.from_dict(configs["text_encoder_2"])),
    }


def _flux2_networks(configs: dict[str, dict]) -> dict[str, Callable[[], Any]]:
    return {
        "transformer": lambda: from_config(Flux2Transformer2DModel, configs["transformer"]),
        "vae": lambda: from_config(AutoencoderKLFlux2, configs["vae"]),
        "text_encoder": lambda: Qwen3ForCausalLM(Qwen3Config.from_dict(configs["text_encoder"])),
    }


def random_generators(recipe: Recipe, labels: LabelSet, with_text2mask: bool, device: torch.device) -> dict:
    """Pipelines as synthesis takes them, under `mask2img` and, if it is wanted, `text2mask`; each has modules of its
    own, in the precision of the synthesis, on the CPU."""
    config, data = recipe.mask2img, recipe.data
    codec = build_panoptic_codec(data, labels) or ColormapCodec(labels)
    colormap = codec.to_dict() | {"height": data.height, "width": data.width}
    family = random_family(config, device)
    modules = [part for part in family.base.components.values() if isinstance(part, torch.nn.Module)]
    for module in modules:
        cast_weights(module, DTYPES[recipe.synthesis.mixed_precision])
    generators = {}
    if with_text2mask:
        parts = copy.deepcopy(family.parts())
        generators["text2mask"] = family.text2mask_class(**parts, colormap=colormap)
    if isinstance(family, Flux2):
        generators["mask2img"] = Flux2Mask2ImgPipeline(**family.parts(), colormap=colormap)
        return generators
    controlnet = new_controlnet(family.network, config.conditioning, labels.num_labels, family.size_factor)
    colormap |= {"conditioning": config.conditioning} if config.conditioning != "rgb" else {}
    cast_weights(controlnet, DTYPES[recipe.synthesis.mixed_precision])
    generators["mask2img"] = Mask2ImgPipeline(**family.parts(), controlnet=controlnet, colormap=colormap)
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
