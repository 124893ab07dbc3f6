"""What the trainings of Text2Mask and Mask2Img take."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..config import AdaptConfig, GeneratorConfig, Mask2ImgConfig, Text2MaskConfig
from ..trainers.encoding import images_at_once
from ..trainers.families.flux2 import Flux2
from ..trainers.families.sdxl import train_sdxl_text_encoders
from ..trainers.generator import VALIDATION_BATCH, cast_weights
from ..trainers.lora import add_lora, cast_frozen
from ..trainers.mask2img import denoise, set_trained
from .base_modules import MetaBase, build_controlnet, meta_base_of
from .counts import count, weight_bytes
from .flux2_modules import MetaFlux2
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
    return _plan_network("text2mask", config, num_records, processes, measure)


def plan_adapt(
    config: AdaptConfig, num_records: int | None = None, processes: int = 1, measure: bool = True
) -> StagePlan:
    """The base's training on images of its domain; see `plan_text2mask`."""
    if not config.train_text_encoders:
        return _plan_network("adapt", config, num_records, processes, measure)
    base = meta_base_of(config)
    if not isinstance(base, MetaBase):
        Flux2.check_config(config)
        raise AssertionError("what Flux2.check_config refuses")
    network, text_encoders = base.network.requires_grad_(True).train(), base.encoders[1:]
    train_sdxl_text_encoders(*text_encoders)

    def predict(noisy, steps, embeds, added):
        embeds, pooled = base.encode_captions(len(noisy))
        return base.predict(network, noisy, steps, embeds, added | {"text_embeds": pooled})

    parameters, modules = base.parameters(), [network, *text_encoders]
    return _plan("adapt", config, base, modules, predict, parameters, num_records, processes, measure)


def _plan_network(
    name: str,
    config: GeneratorConfig,
    num_records: int | None,
    processes: int,
    measure: bool,
    shows_maps: bool = False,
) -> StagePlan:
    """A training of the base's own network; with `shows_maps` the map's latents are tokens beside the noisy ones, and
    the autoencoder stays on the device to make them."""
    base: Any = meta_base_of(config)  # of either family: each predicts from inputs of its own
    parameters = base.parameters()
    network = base.network.requires_grad_(not config.lora_rank).train()
    if config.lora_rank:
        with torch.device("meta"):
            add_lora(network, config, base.lora_targets(config))
        parameters["lora"] = count(network, trained=True)

    def predict(*inputs):
        if not shows_maps:
            return base.predict(network, *inputs)
        with torch.no_grad():
            base.encode_images(len(inputs[0]))
        return base.predict(network, *inputs, torch.empty_like(inputs[0]))

    beside = [base.vae] if shows_maps else []
    return _plan(name, config, base, [network], predict, parameters, num_records, processes, measure, beside)


def plan_mask2img(
    config: Mask2ImgConfig,
    num_records: int | None = None,
    processes: int = 1,
    measure: bool = True,
    num_labels: int | None = None,
) -> StagePlan:
    """Mask2Img's training; see `plan_text2mask`. `num_labels` decides how many bit planes there are; those of 255 if
    it is not known."""
    base = meta_base_of(config)
    if isinstance(base, MetaFlux2):
        Flux2.check_config(config)
        plan = _plan_network("mask2img", config, num_records, processes, measure, shows_maps=True)
        plan.shapes["reference latents"] = plan.shapes["latents"]
        return plan
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
    base: MetaBase | MetaFlux2,
    modules: list[nn.Module],
    predict: Callable,
    parameters: dict[str, int],
    num_records: int | None,
    processes: int,
    measure: bool,
    beside: Sequence[nn.Module] = (),
) -> StagePlan:
    """`modules` train (text encoders among them, where they do) or are steered by what does; `beside` are encoders
    that every step runs."""
    text_encoders = [module for module in modules if module in base.encoders]
    module: Any  # of diffusers or transformers
    for module in modules:
        if module in text_encoders:
            if config.gradient_checkpointing:
                module.train().activation_checkpointing_enable()
            continue
        is_frozen = not count(module, trained=True)
        (cast_weights if is_frozen else cast_frozen)(module, DTYPES[config.mixed_precision])
        if config.gradient_checkpointing:
            module.train().enable_gradient_checkpointing()
    waits = [encoder for encoder in base.encoders if encoder not in text_encoders]
    trained = sum(count(module, trained=True) for module in modules)
    frozen = sum(map(count, modules)) - trained
    cache, notes = _cache(base, config, name == "mask2img", num_records, with_captions=not text_encoders)
    cost, phases = None, {}
    if measure:
        phases = _phases(config, base, modules, predict, trained)
        batch = base.inputs(config.train_batch_size)

        def loss():
            return (predict(*batch).float() - batch[0]).square().mean()

        cost = cost_of_training(
            [*modules, *beside], loss, config.mixed_precision, config.gradient_accumulation_steps > 1
        )
    memory = training_memory(config, trained, frozen, cost, processes)
    encoders = sum(map(weight_bytes, waits))
    waiting = "autoencoder" if text_encoders else "autoencoder and text encoders"
    waiting += " (4 bytes)" if encoders == 4 * sum(map(count, waits)) else ""
    if not config.cache_latents:
        memory[waiting] = encoders
    elif beside:
        memory["autoencoder, for the maps (4 bytes)"] = sum(map(weight_bytes, beside))
    samples_per_step = config.train_batch_size * config.gradient_accumulation_steps * processes
    # A LoRA is added to the weights; text encoders stay as they were loaded.
    artefact = 4 * (sum(parameters.values()) - parameters.get("lora", 0) - sum(map(count, waits))) + encoders
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
            "encodes the data": sum(weight_bytes(module) for module in modules if module not in text_encoders),
            "draws validation images": 0 if text_encoders else sum(map(weight_bytes, base.encoders[1:])),
        },
        host=checkpoint_host(config, trained) | ({waiting: encoders} if config.cache_latents else {}),
        disk=cache
        | checkpoint_disk(config, trained)
        | {("pipeline (float32)" if base.part == "unet" else "pipeline"): artefact},
        push=artefact,
        notes=[f"predicts {base.prediction_type}", *base.notes, *notes],
    )


def _phases(
    config: GeneratorConfig, base: MetaBase | MetaFlux2, modules: list, predict: Callable, trained: int
) -> dict[str, int]:
    """Bytes at the worst moment of what comes before the steps, and between them."""
    phases = {}
    if config.cache_latents:
        images = images_at_once(config.height, config.width)
        phases["encodes the data"] = max(
            cost_of_inference(base.encoders, lambda: base.encode_images(images)).peak,
            cost_of_inference(base.encoders, lambda: base.encode_captions(base.captions_at_once)).peak,
        )
    if config.num_validation_images:
        pictures = min(VALIDATION_BATCH, config.num_validation_images)
        rows = pictures * (2 if config.validation_guidance_scale > 1 else 1)
        drawing, reading = [*modules, base.vae], list(dict.fromkeys([*modules, *base.encoders[1:]]))
        peak = max(
            cost_of_inference(reading, lambda: base.encode_captions(rows)).peak,
            cost_of_inference(drawing, lambda: predict(*base.inputs(rows)), config.mixed_precision).peak,
            cost_of_inference(drawing, lambda: base.decode(1)).peak,
        )
        phases["draws validation images"] = peak + standing_bytes(config, trained)
    return phases


def _cache(
    base: MetaBase | MetaFlux2,
    config: GeneratorConfig,
    with_maps: bool,
    num_records: int | None,
    with_captions: bool = True,
) -> tuple[dict, list]:
    """The cache on disk, and notes. Raises: `ValueError` if it would be larger than the settings allow."""
    if not config.cache_latents:
        return {}, ["no cache: the autoencoder and the text encoders run in every step"]
    size = cache_bytes(base, config, with_maps, with_captions)
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


def cache_bytes(
    base: MetaBase | MetaFlux2, config: GeneratorConfig, with_maps: bool, with_captions: bool = True
) -> int:
    """Bytes of a record in the cache; its compressed maps as 2% of their pixels (measured on the scenes: 4%)."""
    item = DTYPES[config.mixed_precision].itemsize
    _, channels, height, width = base.shapes(1)["latents"]
    per_view = channels * height * width * item + 24
    per_view += (config.height * config.width // 50 + 16) if with_maps else 0
    return config.cache_variants * per_view + with_captions * base.embedding_values * item
