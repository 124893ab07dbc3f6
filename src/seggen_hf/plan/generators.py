"""What the trainings of Text2Mask and Mask2Img take."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..config import AdaptConfig, GeneratorConfig, Mask2ImgConfig, Text2MaskConfig
from ..trainers.encoding import ENCODE_CAPTIONS, images_at_once
from ..trainers.generator import VALIDATION_BATCH, cast_weights
from ..trainers.lora import add_lora, cast_frozen
from ..trainers.mask2img import denoise, set_trained
from .base_modules import MetaBase, build_controlnet, count, weight_bytes
from .simulate import DTYPES, cost_of_inference, cost_of_training, empty
from .stage_plan import StagePlan
from .training_memory import checkpoint_disk, checkpoint_host, standing_bytes, training_memory


def plan_text2mask(
    config: Text2MaskConfig, num_records: int | None = None, processes: int = 1, measure: bool = True
) -> StagePlan:
    """Text2Mask's training.

    Args:
        num_records (`int`): what the cache's size on disk is told and checked for.
        processes (`int`): of the training, each with its own batch.
        measure (`bool`): count activations and operations, by a step on the meta device: seconds for SDXL.

    Raises: `ValueError` for what the training would refuse.
    """
    return _plan_unet("text2mask", config, num_records, processes, measure)


def plan_adapt(
    config: AdaptConfig, num_records: int | None = None, processes: int = 1, measure: bool = True
) -> StagePlan:
    """The base's training on images of its domain; see `plan_text2mask`."""
    return _plan_unet("adapt", config, num_records, processes, measure)


def _plan_unet(name: str, config: GeneratorConfig, num_records: int | None, processes: int, measure: bool):
    base = MetaBase.of(config)
    parameters = base.parameters()
    unet = base.unet.requires_grad_(not config.lora_rank).train()
    if config.lora_rank:
        with torch.device("meta"):
            add_lora(unet, config)
        parameters["lora"] = count(unet, trained=True)

    def predict(noisy, steps, embeds, added):
        return unet(noisy, steps, embeds, added_cond_kwargs=added).sample

    return _plan(name, config, base, [unet], predict, parameters, num_records, processes, measure)


def plan_mask2img(
    config: Mask2ImgConfig,
    num_records: int | None = None,
    processes: int = 1,
    measure: bool = True,
    num_labels: int | None = None,
) -> StagePlan:
    """Mask2Img's training; see `plan_text2mask`. `num_labels` decides how many bit planes there are; those of 255 if
    it is not known."""
    base = MetaBase.of(config)
    controlnet, unet = build_controlnet(base, config, num_labels).train(), base.unet
    parameters = base.parameters() | {"controlnet": count(controlnet)}
    with torch.device("meta"):
        set_trained(controlnet, unet, config)
    if config.lora_rank:
        parameters["lora"] = count(controlnet) - parameters["controlnet"]
    channels = controlnet.config["conditioning_channels"]

    def predict(noisy, steps, embeds, added):
        condition = empty(len(noisy), channels, config.height, config.width)
        return denoise(controlnet, unet, noisy, steps, embeds, added, condition)

    modules = [controlnet, unet]
    plan = _plan("mask2img", config, base, modules, predict, parameters, num_records, processes, measure)
    plan.shapes["condition"] = (config.train_batch_size, channels, config.height, config.width)
    return plan


def _plan(
    name: str,
    config: GeneratorConfig,
    base: MetaBase,
    modules: list[nn.Module],
    predict: Callable,
    parameters: dict[str, int],
    num_records: int | None,
    processes: int,
    measure: bool,
) -> StagePlan:
    module: Any  # of diffusers
    for module in modules:
        is_frozen = not count(module, trained=True)
        (cast_weights if is_frozen else cast_frozen)(module, DTYPES[config.mixed_precision])
        if config.gradient_checkpointing:
            module.train().enable_gradient_checkpointing()
    trained = sum(count(module, trained=True) for module in modules)
    frozen = sum(map(count, modules)) - trained
    cache, notes = _cache(base, config, name == "mask2img", num_records)
    cost, phases = None, {}
    if measure:
        phases = _phases(config, base, modules, predict, trained)
        batch = base.inputs(config.train_batch_size)

        def loss():
            return (predict(*batch).float() - batch[0]).square().mean()

        cost = cost_of_training(modules, loss, config.mixed_precision, config.gradient_accumulation_steps > 1)
    memory = training_memory(config, trained, frozen, cost, processes)
    encoders = sum(map(weight_bytes, base.encoders))
    if not config.cache_latents:
        memory["autoencoder and text encoders (4 bytes)"] = encoders
    samples_per_step = config.train_batch_size * config.gradient_accumulation_steps * processes
    artefact = 4 * (sum(parameters.values()) - parameters.get("lora", 0))  # a LoRA is added to the weights
    return StagePlan(
        name=name,
        kind=name,
        parameters=parameters,
        precision=config.mixed_precision,
        trained=trained,
        shapes=base.shapes(config.train_batch_size),
        steps=config.max_train_steps,
        samples_per_step=samples_per_step,
        samples=config.max_train_steps * samples_per_step,
        flops=cost.flops / config.train_batch_size if cost else 0.0,
        step_flops=cost.flops * config.gradient_accumulation_steps if cost else 0.0,
        memory=memory,
        phases=phases,
        waiting={
            "works": encoders if config.cache_latents else 0,
            "encodes the data": sum(map(weight_bytes, modules)),
            "draws validation images": sum(map(weight_bytes, base.encoders[1:])),
        },
        host=checkpoint_host(config, trained)
        | ({"autoencoder and text encoders (4 bytes)": encoders} if config.cache_latents else {}),
        disk=cache | checkpoint_disk(config, trained) | {"pipeline (float32)": artefact},
        push=artefact,
        notes=[f"predicts {base.prediction_type}", *notes],
    )


def _phases(config: GeneratorConfig, base: MetaBase, modules: list, predict: Callable, trained: int) -> dict[str, int]:
    """Bytes at the worst moment of what comes before the steps, and between them."""
    phases = {}
    if config.cache_latents:
        images = images_at_once(config.height, config.width)
        phases["encodes the data"] = max(
            cost_of_inference(base.encoders, lambda: base.encode_images(images)).peak,
            cost_of_inference(base.encoders, lambda: base.encode_captions(ENCODE_CAPTIONS)).peak,
        )
    if config.num_validation_images:
        pictures = min(VALIDATION_BATCH, config.num_validation_images)
        rows = pictures * (2 if config.validation_guidance_scale > 1 else 1)
        drawing = [*modules, base.vae]
        peak = max(
            cost_of_inference([*modules, *base.encoders[1:]], lambda: base.encode_captions(rows)).peak,
            cost_of_inference(drawing, lambda: predict(*base.inputs(rows)), config.mixed_precision).peak,
            cost_of_inference(drawing, lambda: base.decode(1)).peak,
        )
        phases["draws validation images"] = peak + standing_bytes(config, trained)
    return phases


def _cache(base: MetaBase, config: GeneratorConfig, with_maps: bool, num_records: int | None) -> tuple[dict, list]:
    """The cache on disk, and notes. Raises: `ValueError` if it would be larger than the settings allow."""
    if not config.cache_latents:
        return {}, ["no cache: the autoencoder and the text encoders run in every step"]
    size = cache_bytes(base, config, with_maps)
    notes = [
        f"cache: {size / 1e6:.2f} MB a record in {config.cache_variants} views; --cache_max_gb "
        f"{config.cache_max_gb:g} holds {int(config.cache_max_gb * 1e9 / size):,} records"
    ]
    if num_records is None:
        return {}, notes
    total = size * num_records
    notes.append(f"cache of {num_records:,} records: {total / 1e9:.1f} GB")
    if total > config.cache_max_gb * 1e9:
        raise ValueError(
            f"{notes[-1]}; --cache_max_gb allows {config.cache_max_gb:g}. Raise it or lower --cache_variants."
        )
    return {"cache of latents and embeddings": total}, notes


def cache_bytes(base: MetaBase, config: GeneratorConfig, with_maps: bool) -> int:
    """Bytes of a record in the cache; its compressed maps as 2% of their pixels (measured on the scenes: 4%)."""
    item = DTYPES[config.mixed_precision].itemsize
    _, channels, height, width = base.shapes(1)["latents"]
    per_view = channels * height * width * item + 24
    per_view += (config.height * config.width // 50 + 16) if with_maps else 0
    return config.cache_variants * per_view + (base.tokens * base.text_width + base.pooled_width) * item
