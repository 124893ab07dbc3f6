"""A segmenter on images of any sizes: what its queries say, and maps, panoptic maps or instances from them."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from .eomt import fixed_side
from .postprocessing import (
    MAX_INSTANCES,
    OBJECT_THRESHOLD,
    OVERLAP_THRESHOLD,
    QueryOutput,
    instance_masks,
    panoptic_segments,
    semantic_scores,
)
from .sliding_window import Windows, merge_windows, window_size

SIZE_DIVISOR = 32  # coarsest feature level; inputs are padded to a multiple of it


def normalize(images: np.ndarray, processor) -> torch.Tensor:
    """uint8 RGB `(..., height, width, 3)` -> float32 `(..., 3, height, width)`, scaled as the processor says."""
    mean = torch.tensor(processor.image_mean, dtype=torch.float32)
    std = torch.tensor(processor.image_std, dtype=torch.float32)
    pixels = torch.from_numpy(np.array(images)).float() * processor.rescale_factor
    return ((pixels - mean) / std).movedim(-1, -3).contiguous()


def inference_size(height: int, width: int, processor) -> tuple[int, int]:
    """Height and width at which the model sees an image, before padding: as the processor says, aspect kept."""
    size = processor.size
    if not processor.do_resize or not _get(size, "shortest_edge"):
        return height, width
    scale = _get(size, "shortest_edge") / min(height, width)
    if _get(size, "longest_edge"):
        scale = min(scale, _get(size, "longest_edge") / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _get(size, name: str) -> Any:
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)


def tiles_of(processor) -> int:
    """Windows along an image's short side, of a segmenter that was trained on images cut into tiles; 1 for others."""
    return getattr(processor, "tiles", 1)


def without_windows(processor):
    """A copy of `processor` for images that are tiles already."""
    processor = copy.copy(processor)
    processor.tiles = 1
    return processor


def describe_inference(processor, side: int | None = None) -> str:
    """One sentence on the resolution at which images are predicted, for reports; `side`: of `fixed_side`."""
    if (tiles := tiles_of(processor)) > 1:
        return (
            f"Images are seen through overlapping windows, {tiles} along the short side without the overlaps, which "
            "enter the model as an image does; things that two windows see are one, and masks are resized to the "
            "original size (bilinear) and scored there. One scale, no flip."
        )
    if not processor.do_resize or not _get(processor.size, "shortest_edge"):
        seen = "Images enter the model at their own size"
    else:
        seen = (
            f"Images enter the model with a short side of {_get(processor.size, 'shortest_edge')} pixels "
            f"(long side at most {_get(processor.size, 'longest_edge')})"
        )
    padded = f"a multiple of {SIZE_DIVISOR}"
    if side:
        padded = f"squares of {side} pixels, or seen through overlapping ones where they do not fit"
    return (
        f"{seen}, padded to {padded}; mask logits are enlarged to the input size, cropped, "
        "resized to the original size (bilinear) and scored there. One scale, no flip."
    )


def predict_queries(
    model: Any, processor, images: list, batch_size: int = 8, things: Sequence[int] | None = None
) -> Iterator[tuple[int, QueryOutput]]:
    """What the model says of each image, as `(index in images, QueryOutput)`, images of one padded size together.

    An image's result does not depend on the others: only images of one padded size share a batch.

    A model that was trained on images cut into tiles (`tiles` of its processor) sees each image through overlapping
    windows of that size (`windows.merge_windows`), and so does one that sees squares of one size, an EoMT, where an
    image does not fit into them.

    Args:
        images: PIL images or uint8 RGB arrays `(height, width, 3)`; sizes may differ.
        batch_size (`int`): images, or windows of one image, per forward pass.
        things: label ids of things, which may reach from window to window; None if only semantic maps are wanted.
    """
    arrays = [np.asarray(i.convert("RGB")) if isinstance(i, Image.Image) else np.asarray(i) for i in images]
    side = fixed_side(model.config)
    inputs, groups = {}, {}
    for index, array in enumerate(arrays):
        height, width, window = _seen_size(array.shape[0], array.shape[1], processor, side)
        if (height, width) != array.shape[:2]:
            array = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))
        if window:
            yield index, _predict_windows(model, processor, array, arrays[index].shape[:2], window, batch_size, things)
            continue
        inputs[index] = array
        padded = (side, side) if side else (_round_up(height), _round_up(width))
        groups.setdefault(padded, []).append(index)

    for padded, members in groups.items():
        for start in range(0, len(members), batch_size):
            batch = members[start : start + batch_size]
            pixel_values = torch.zeros(len(batch), 3, *padded)
            for row, index in enumerate(batch):
                pixels = normalize(inputs[index], processor)
                pixel_values[row, :, : pixels.shape[1], : pixels.shape[2]] = pixels
            logits = _forward(model, pixel_values)
            for row, index in enumerate(batch):
                sizes = padded, inputs[index].shape[:2], arrays[index].shape[:2]
                yield index, QueryOutput(logits[0][row], logits[1][row], *sizes)


def _round_up(length: int, divisor: int = SIZE_DIVISOR) -> int:
    return -(-length // divisor) * divisor


def _forward(model: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and mask logits of all queries, float32; in evaluation mode, without gradients."""
    parameter, was_training = next(model.parameters()), model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(pixel_values=pixel_values.to(parameter.device, parameter.dtype))
    finally:
        model.train(was_training)
    return outputs.class_queries_logits.float(), outputs.masks_queries_logits.float()


def _seen_size(height: int, width: int, processor, side: int | None) -> tuple[int, int, int | None]:
    """Height and width at which an image is seen, and the side of the windows through which it is, if it is."""
    if (tiles := tiles_of(processor)) == 1:
        height, width = inference_size(height, width, processor)
        return height, width, side if side and max(height, width) > side else None
    seen, short_side = _get(processor.size, "shortest_edge") if processor.do_resize else None, min(height, width)
    scale = tiles * seen / short_side if seen else 1.0
    window = side or window_size(seen or -(-short_side // tiles), SIZE_DIVISOR)
    return max(round(height * scale), 1), max(round(width * scale), 1), window


def _predict_windows(
    model: Any,
    processor,
    array: np.ndarray,
    original: tuple[int, int],
    size: int,
    batch_size: int,
    things: Sequence[int] | None,
) -> QueryOutput:
    """What the model says of one image, resized to `array`, through windows."""
    height, width = array.shape[:2]
    divisor = model.config.patch_size if fixed_side(model.config) else SIZE_DIVISOR
    rows, columns = (max(_round_up(side, divisor), size) for side in (height, width))
    windows = Windows(rows, columns, size)
    pixels = torch.zeros(3, windows.height, windows.width)
    pixels[:, :height, :width] = normalize(array, processor)
    cut = [pixels[:, top : top + size, left : left + size] for top, left in windows.starts]
    logits = [_forward(model, torch.stack(cut[i : i + batch_size])) for i in range(0, len(cut), batch_size)]
    class_logits, mask_logits = (torch.cat(parts) for parts in zip(*logits, strict=True))
    return merge_windows(windows, class_logits, mask_logits, things, (height, width), original)


def predict_semantic(
    model: nn.Module, processor, images: list, batch_size: int = 8, return_scores: bool = False
) -> list[np.ndarray]:
    """Predict the label of each pixel of `images`, at their original sizes.

    Args:
        images, batch_size: of `predict_queries`.
        return_scores (`bool`): return the scores instead, float32 `(num_labels, height, width)`: probability-weighted
            masks, as Mask2Former's semantic inference (not normalized to 1).

    Returns: one int32 map `(height, width)` per image, without `ignore_index`: each pixel gets a label.
    """
    results: list = [None] * len(images)
    for index, output in predict_queries(model, processor, images, batch_size):
        results[index] = semantic_map(output, return_scores)
    return results


def semantic_map(output: QueryOutput, return_scores: bool = False) -> np.ndarray:
    """The map of one image, or its scores; see `predict_semantic`."""
    parts = [(s if return_scores else s.argmax(0).int()).cpu().numpy() for s in semantic_scores(output)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)


def predict_panoptic(
    model: nn.Module,
    processor,
    images: list,
    things: Sequence[int],
    batch_size: int = 8,
    object_threshold: float = OBJECT_THRESHOLD,
    overlap_threshold: float = OVERLAP_THRESHOLD,
) -> list[tuple[np.ndarray, list[dict]]]:
    """panoptic_map and segments_info of each image, at its original size; see `panoptic_segments`.

    Args:
        images, batch_size: of `predict_queries`.
        things: label ids of things; all others are stuff, of which an image has one segment a label.
        object_threshold, overlap_threshold: of `panoptic_segments`.
    """
    results: list = [None] * len(images)
    for index, output in predict_queries(model, processor, images, batch_size, things):
        results[index] = panoptic_segments(output, things, object_threshold, overlap_threshold)
    return results


def predict_instances(
    model: nn.Module,
    processor,
    images: list,
    things: Sequence[int],
    batch_size: int = 8,
    max_instances: int = MAX_INSTANCES,
) -> list[list[dict]]:
    """Instances of each image: category_id, score and mask (bool, the image's size); see `instance_masks`."""
    results: list = [None] * len(images)
    for index, output in predict_queries(model, processor, images, batch_size, things):
        results[index] = instance_masks(output, things, max_instances)
    return results
