"""What the segmenter's training and its scoring take."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..config import EvaluationConfig, Recipe, SegmenterConfig
from ..labels import LabelSet
from ..networks.modules import move
from ..segmenter import loss as segmentation_loss
from ..segmenter.architectures import count_queries, parts_of, prepare_config, segmenter_class, set_num_queries
from ..segmenter.build import find_config, freeze_batch_norm
from ..segmenter.eomt import fixed_side, mask_stride, settle_masking, side_of_crops
from ..segmenter.inference import SIZE_DIVISOR
from ..segmenter.layers import adapt_layers, enable_checkpointing
from ..segmenter.loss import LossSettings, PointTargets, count_points
from ..segmenter.sizes import hub_config
from ..segmenter.sliding_window import Windows
from ..trainers.segmenter_weights import freeze_unused, seed_drop_path
from .counts import count
from .simulate import cost_of_inference, cost_of_training, empty
from .stage_plan import StagePlan
from .training_memory import checkpoint_disk, checkpoint_host, training_memory

ASPECT = 4 / 3  # of a test image


def read_config(config: SegmenterConfig) -> tuple[Any, bool]:
    """What the segmenter of `config` is built from, and whether a training of it begins with weights."""
    known = hub_config(config.model)
    settings, has_weights = (
        (known, True) if known else find_config(config.model, config.model_revision, config.backbone_model)
    )
    return settings, has_weights or config.backbone_model is not None


def build(config: SegmenterConfig, labels: LabelSet) -> nn.Module:
    """The segmenter on the meta device."""
    settings, is_pretrained = read_config(config)
    settings.id2label, settings.label2id = labels.id2label, labels.label2id
    set_num_queries(settings, config.num_queries)
    prepare_config(settings)
    if side := side_of_crops(settings, (config.crop_height, config.crop_width)):
        settings.image_size = side
    with torch.device("meta"):
        model = move(segmenter_class(settings)(settings), "meta")
    if is_pretrained:
        freeze_batch_norm(model)
    adapt_layers(model)
    seed_drop_path(model)
    freeze_unused(model)
    return model.train()


def plan_segmenter(
    config: SegmenterConfig, labels: LabelSet, processes: int = 1, task: str = "semantic", measure: bool = True
) -> StagePlan:
    """The segmenter's training.

    Args:
        task (`str`): semantic: an image has a mask a label at most; otherwise one a query at most. Both are planned
            with as many as there can be.
        processes, measure: see `plan_text2mask`.

    Raises: `ValueError` for what the training would refuse.
    """
    model = build(config, labels)
    if config.gradient_checkpointing:
        enable_checkpointing(model)
    trained, batch = count(model, trained=True), config.train_batch_size
    buffers = sum(buffer.numel() for buffer in model.buffers())
    stride = mask_stride(model.config)
    queries = count_queries(model.config)
    masks = labels.num_labels if task == "semantic" else queries
    notes = [f"planned with {masks} masks an image, as many as there can be"]
    cost, settings = None, LossSettings.of(model.config)
    teacher = None
    if config.soft_labels and task != "semantic":
        raise ValueError(f"--soft_labels {config.soft_labels} is for task semantic, and this one is {task}.")
    if config.soft_labels:  # in a run the segmenter of real records, which is built like this one
        teacher = build(config, labels).eval().requires_grad_(False)
        notes.append("the teacher sees every sample, as where all are synthetic")
    if measure:

        def loss():
            images = empty(batch, 3, config.crop_height, config.crop_width)
            if teacher is not None:
                _soften(teacher, images)
            outputs = model(pixel_values=images, output_auxiliary_logits=True)
            targets = _targets(settings, batch, masks)
            return segmentation_loss.segmentation_loss(outputs, targets, settings)[0]

        with assumed_matching():
            modules = [model] if teacher is None else [model, teacher]
            cost = cost_of_training(modules, loss, config.mixed_precision, config.gradient_accumulation_steps > 1)
    if not fixed_side(model.config) and (config.crop_height % SIZE_DIVISOR or config.crop_width % SIZE_DIVISOR):
        notes.append(f"the crop is no multiple of {SIZE_DIVISOR}: inference pads to one, training does not")
    samples_per_step = batch * config.gradient_accumulation_steps * processes
    memory = training_memory(config, trained, count(model) - trained, cost, processes)
    if teacher is not None:
        memory["the teacher (4 bytes)"] = 4 * count(teacher)
    return StagePlan(
        name="segmenter",
        kind="segmenter",
        parameters={name: sum(map(count, modules)) for name, modules in parts_of(model).items()},
        precision=config.mixed_precision,
        trained=trained,
        shapes={
            "pixel values": (batch, 3, config.crop_height, config.crop_width),
            "class logits": (batch, queries, labels.num_labels + 1),
            "mask logits": (batch, queries, -(-config.crop_height // stride), -(-config.crop_width // stride)),
        },
        steps=config.max_train_steps,
        samples_per_step=samples_per_step,
        samples=config.max_train_steps * samples_per_step,
        flops=cost.flops / batch if cost else 0.0,
        step_flops=cost.flops * config.gradient_accumulation_steps if cost else 0.0,
        memory=memory,
        host=checkpoint_host(config, trained, buffers),
        disk=checkpoint_disk(config, trained, buffers) | {"segmenter (float32)": 4 * count(model)},
        push=4 * count(model),
        notes=notes,
    )


@torch.no_grad()
def _soften(teacher: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a teacher says of images: see `trainers.teacher.Teacher.soften`."""
    output = teacher(pixel_values=images)
    weights = output.class_queries_logits.float().softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", weights, output.masks_queries_logits.float().sigmoid())


def plan_evaluation(
    config: SegmenterConfig,
    evaluation: EvaluationConfig,
    labels: LabelSet,
    num_images: int = 0,
    measure: bool = True,
    task: str = "semantic",
) -> StagePlan:
    """Scoring one segmenter on `num_images` test images of aspect 4:3, their short side resized."""
    short = config.inference_size or min(config.crop_height, config.crop_width)
    size = (short, round(short * ASPECT))
    return _plan_inference("evaluate", config, labels, size, evaluation.eval_batch_size, num_images, measure, task)


def plan_filter(recipe: Recipe, labels: LabelSet, num_images: int, measure: bool = True) -> StagePlan:
    """What the segmenter of real records sees in `num_images` synthetic ones, at their own size."""
    size = (recipe.data.height, recipe.data.width)
    task, batch = recipe.data.task, recipe.filter.batch_size
    return _plan_inference("filter", recipe.segmenter, labels, size, batch, num_images, measure, task)


def _plan_inference(name, config, labels, size, batch, num_images, measure, task) -> StagePlan:
    model = build(config, labels).eval()
    height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in size)
    seen, windows, notes = (batch, 3, height, width), 1, []
    if side := fixed_side(model.config):
        settle_masking(model, masked=False)  # as a training leaves it
        seen = (batch, 3, side, side)
        if task == "semantic" and max(size) > side:
            windows = len(Windows(max(height, side), max(width, side), side).starts)
            seen = (min(batch, windows), 3, side, side)
            notes = [f"images are seen through {windows} windows of {side} pixels"]

    def run():
        outputs = model(pixel_values=empty(*seen))
        # One image at a time at its own size: the masks of all queries, and their sum over the labels.
        torch.nn.functional.interpolate(outputs.masks_queries_logits[:1], size=(height, width), mode="bilinear")
        empty(labels.num_labels, height, width)

    cost = cost_of_inference([model], run) if measure else None
    memory = {"weights (4 bytes each)": 4 * count(model)}
    return StagePlan(
        name=name,
        kind="evaluate",
        parameters={"segmenter": count(model)},
        shapes={"pixel values": (batch, 3, height, width)},
        samples=num_images,
        flops=cost.flops * windows / seen[0] if cost else 0.0,
        step_flops=cost.flops if cost else 0.0,
        notes=notes,
        memory=memory | ({f"activations of {batch} images": cost.activations} if cost else {}),
    )


def _targets(config: LossSettings, batch: int, masks: int) -> PointTargets:
    """What the loss reads of a batch whose images have `masks` masks each."""
    points = sum(count_points(config))
    return PointTargets(
        centers=empty(batch, points, 2),
        labels=empty(batch, masks, points, dtype=torch.bool),
        class_labels=empty(batch, masks, dtype=torch.int64),
        is_labelled=empty(batch, dtype=torch.bool),
        num_masks=[masks] * batch,
    )


@contextmanager
def assumed_matching() -> Iterator[None]:
    """Within the block the loss matches without looking at costs: as many masks as there are queries for."""
    match = segmentation_loss.match

    def assume(cost, num_masks):
        layers, _, queries, _ = cost.shape
        matches = sum(min(number, queries) for number in num_masks)
        return empty(matches, dtype=torch.int64), *(empty(layers, matches, dtype=torch.int64) for _ in range(2))

    segmentation_loss.match = assume
    try:
        yield
    finally:
        segmentation_loss.match = match
