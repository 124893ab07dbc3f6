"""A segmenter on images of any sizes: what its queries say, and maps, panoptic maps or instances from them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from .segment_rules import (
    OBJECT_THRESHOLD,
    OVERLAP_THRESHOLD,
    QueryOutput,
    instance_masks,
    panoptic_segments,
    semantic_scores,
)

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


def _get(size, name: str):
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)


def describe_inference(processor) -> str:
    """One sentence on the resolution at which images are predicted, for reports."""
    if not processor.do_resize or not _get(processor.size, "shortest_edge"):
        seen = "Images enter the model at their own size"
    else:
        seen = (
            f"Images enter the model with a short side of {_get(processor.size, 'shortest_edge')} pixels "
            f"(long side at most {_get(processor.size, 'longest_edge')})"
        )
    return (
        f"{seen}, padded to a multiple of {SIZE_DIVISOR}; mask logits are enlarged to the input size, cropped, "
        "resized to the original size (bilinear) and scored there. One scale, no flip."
    )


def predict_queries(
    model: nn.Module, processor, images: list, batch_size: int = 8
) -> Iterator[tuple[int, QueryOutput]]:
    """What the model says of each image, as `(index in images, QueryOutput)`, images of one padded size together.

    An image's result does not depend on the others: only images of one padded size share a batch.

    Args:
        images: PIL images or uint8 RGB arrays `(height, width, 3)`; sizes may differ.
        batch_size (`int`): images per forward pass.
    """
    arrays = [np.asarray(i.convert("RGB")) if isinstance(i, Image.Image) else np.asarray(i) for i in images]
    inputs, groups = [], {}
    for index, array in enumerate(arrays):
        height, width = inference_size(*array.shape[:2], processor)
        if (height, width) != array.shape[:2]:
            array = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))
        inputs.append(array)
        padded = tuple(-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (height, width))
        groups.setdefault(padded, []).append(index)

    parameter = next(model.parameters())
    was_training = model.training
    model.eval()
    try:
        for padded, members in groups.items():
            for start in range(0, len(members), batch_size):
                batch = members[start : start + batch_size]
                pixel_values = torch.zeros(len(batch), 3, *padded)
                for row, index in enumerate(batch):
                    pixels = normalize(inputs[index], processor)
                    pixel_values[row, :, : pixels.shape[1], : pixels.shape[2]] = pixels
                with torch.no_grad():  # not over the yields: it would hold in the caller's code too
                    outputs = model(pixel_values=pixel_values.to(parameter.device, parameter.dtype))
                for row, index in enumerate(batch):
                    logits = outputs.class_queries_logits[row].float(), outputs.masks_queries_logits[row].float()
                    yield index, QueryOutput(*logits, padded, inputs[index].shape[:2], arrays[index].shape[:2])
    finally:
        model.train(was_training)


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
    for index, output in predict_queries(model, processor, images, batch_size):
        results[index] = panoptic_segments(output, things, object_threshold, overlap_threshold)
    return results


def predict_instances(
    model: nn.Module, processor, images: list, things: Sequence[int], batch_size: int = 8, max_instances: int = 100
) -> list[list[dict]]:
    """Instances of each image: category_id, score and mask (bool, the image's size); see `instance_masks`."""
    results: list = [None] * len(images)
    for index, output in predict_queries(model, processor, images, batch_size):
        results[index] = instance_masks(output, things, max_instances)
    return results
