"""What MaskSyn and ImgSyn take: networks in sampling, pictures, shards."""

import torch

from ..config import SynthesisConfig
from ..trainers.generator import cast_weights
from ..trainers.mask2img import denoise
from .base_modules import MetaBase, build_controlnet, meta_base
from .counts import count
from .flux2_modules import MetaFlux2
from .simulate import DTYPES, Cost, cost_of_inference, empty
from .stage_plan import StagePlan

# Bytes a pixel of a PNG at 768 x 768, of photographs and their maps scaled to it: 1.80 and 0.013 for two pictures of
# COCO, 0.93 and 0.013 for twelve of CamVid, which are smoother. A color map is as large as a map.
IMAGE_BYTES, MAP_BYTES = 1.8, 0.013


def plan_synthesis(recipe, num_labels: int | None, num_records: int | None, measure: bool = True) -> list[StagePlan]:
    """MaskSyn and ImgSyn of a recipe, each if it has variants, on generators like those that the recipe trains.

    Args:
        num_labels: decides how many channels Mask2Img's condition has, where it is made of bits.
        num_records: real ones, each of which has `variants` synthetic ones; None tells no numbers of pictures.
        measure: see `plan_text2mask`.
    """
    config, dtype = recipe.synthesis, DTYPES[recipe.synthesis.mixed_precision]
    base = meta_base(recipe.mask2img.base_model, recipe.mask2img.revision, (recipe.data.height, recipe.data.width))
    controlnet = None
    if isinstance(base, MetaBase):
        controlnet = build_controlnet(base, recipe.mask2img, num_labels).requires_grad_(False).eval()
    unets = 2 if config.masksyn_variants else 1  # Text2Mask's own beside Mask2Img's
    for module in base.modules if controlnet is None else (controlnet, *base.modules):
        cast_weights(module, dtype)
    costs = _costs(config, base, controlnet, dtype) if measure else {}
    pixels, plans = base.height * base.width, []
    for kind, variants in (("masksyn", config.masksyn_variants), ("imgsyn", config.imgsyn_variants)):
        if not variants:
            continue
        pictures = variants * (num_records or 0)
        shards = round(pictures * pixels * (IMAGE_BYTES + MAP_BYTES))
        plan = StagePlan(
            name=f"synthesize {kind}",
            kind="synthesize",
            parameters=base.parameters() | ({} if controlnet is None else {"controlnet": count(controlnet)}),
            precision=config.mixed_precision,
            shapes=base.shapes(config.batch_size),
            samples=pictures,
            # `datasets` reads Parquet from a copy of its own, in its cache.
            disk={name: shards for name in ("shards", "their copy in datasets' cache, once they are read")},
            push=round(pictures * pixels * (IMAGE_BYTES + 2 * MAP_BYTES)),
        )
        if measure:
            _add_costs(plan, kind, config, costs, unets, base)
        plans.append(plan)
    return plans


def _costs(config: SynthesisConfig, base: MetaBase | MetaFlux2, controlnet, dtype) -> dict[str, Cost]:
    """Of a denoising step of Text2Mask and of Mask2Img for a batch, and of decoding what is decoded together."""
    rows = config.batch_size * (2 if max(config.text2mask_guidance, config.mask2img_guidance) > 1 else 1)
    decoded = 1 if config.vae_slicing else config.batch_size

    def text2mask():
        return base.predict(base.network, *base.inputs(rows, dtype))

    def mask2img():
        if isinstance(base, MetaFlux2):
            inputs = base.inputs(rows, dtype)
            return base.predict(base.network, *inputs, torch.empty_like(inputs[0]))
        condition = empty(rows, controlnet.config["conditioning_channels"], base.height, base.width, dtype=dtype)
        noisy, steps, embeds, added = base.inputs(rows, dtype)
        return denoise(controlnet, base.unet, noisy, steps, embeds, added, condition)

    return {
        "text2mask": cost_of_inference([base.network], text2mask),
        "mask2img": cost_of_inference([base.network, *([] if controlnet is None else [controlnet])], mask2img),
        "decode": cost_of_inference([base.vae], lambda: base.decode(decoded)),
        "captions": cost_of_inference(base.encoders[1:], lambda: base.encode_captions(1)),
    }


def _add_costs(
    plan: StagePlan, kind: str, config: SynthesisConfig, costs: dict, unets: int, base: MetaBase | MetaFlux2
) -> None:
    size, item = config.batch_size, DTYPES[config.mixed_precision].itemsize
    decoded = 1 if config.vae_slicing else size
    image = config.mask2img_steps * costs["mask2img"].flops / size + costs["decode"].flops / decoded
    drawn = config.text2mask_steps * costs["text2mask"].flops / size + costs["decode"].flops / decoded
    plan.step_flops = costs["mask2img"].flops + costs["text2mask"].flops
    plan.flops = image + (drawn if kind == "masksyn" else 0)
    names = ["decode", "captions", "mask2img", *(["text2mask"] if kind == "masksyn" else [])]
    if config.offload == "none":  # both pipelines lie on the card, whichever of them draws
        encoders = unets * sum(map(count, base.encoders))
        networks = unets * plan.parameters[base.part] + plan.parameters.get("controlnet", 0)
        plan.memory[f"networks ({item} bytes each)"] = item * networks
        plan.memory[f"autoencoders and text encoders ({item} bytes each)"] = item * encoders
    elif config.offload == "model":  # one network at a time; the ControlNet runs beside the U-Net
        plan.memory["the largest network, others wait on the CPU"] = max(costs[name].weights for name in names)
    else:
        layers = (layer for module in base.modules for layer in module.modules())
        largest = max(sum(p.numel() for p in layer.parameters(recurse=False)) for layer in layers)
        plan.memory["one layer at a time, others wait on the CPU"] = item * largest
    activations = [costs[name].activations for name in names]
    plan.memory[f"activations of {size} pictures, {decoded} decoded together"] = max(activations)
    table = 2**24 if kind == "masksyn" else 0  # of the nearest label of every color, a byte each
    plan.host = {"table of the nearest colors": table} if table else {}
    # A CPU's allocator gives little back between the networks, which need pieces of other sizes.
    plan.waiting = {"works": sum(activations) - max(activations) + table}
