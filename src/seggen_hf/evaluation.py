"""A segmenter on a data set -> scores, summed over processes."""

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator

from .data.schema import labels_of, read_image, read_map
from .labels import LabelSet
from .metrics import MeanIoU
from .segmenters import describe_inference, differing_labels, predict_semantic


def evaluate_segmenter(
    model,
    processor,
    records,
    task: str = "semantic",
    batch_size: int = 8,
    accelerator: Accelerator | None = None,
    labels: LabelSet | None = None,
) -> dict:
    """Score `model` on `records` at the images' original sizes.

    With an `accelerator` it is called by every process with the same records: process r scores every record whose
    index is r modulo the number of processes, once, and the counts are summed; all return the same scores.

    Args:
        model: a Mask2Former, not wrapped; it stays in its mode and on its device.
        records: a `datasets.Dataset` (or sequence of dicts) with `image` and `segmentation_map`.
        labels (`LabelSet`): by default those that `records` carries.

    Returns: the scores of `MeanIoU.compute` and `labels` ({id: name}), `num_images`, `task`; `protocol` also tells the
    resolution. Raises: `ValueError` if model and records have different labels, or sizes of image and map differ.
    """
    if task != "semantic":
        raise ValueError(f"--task is {task!r}; only semantic segmentation can be scored so far.")
    labels = labels or labels_of(records)
    if differences := differing_labels(model.config.id2label, labels):
        raise ValueError(
            f"The segmenter and the records have other labels: {differences}. Score it on the labels that it was "
            "trained with."
        )
    rank, num_processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    metric = MeanIoU(labels.num_labels, labels.ignore_index)
    for images, maps in _batches(records, range(rank, len(records), num_processes), batch_size):
        for predicted, target in zip(predict_semantic(model, processor, images, batch_size), maps, strict=True):
            metric.update(predicted, target)
    if accelerator is not None:
        state = accelerator.reduce(torch.from_numpy(metric.state).to(accelerator.device), reduction="sum")
        metric.state = state.cpu().numpy()
    scores = metric.compute()
    return scores | {
        "protocol": f"{scores['protocol']} {describe_inference(processor)}",
        "labels": labels.id2label,
        "num_images": len(records),
        "task": task,
    }


def _batches(records, indices: range, batch_size: int) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    for start in range(0, len(indices), batch_size):
        rows = [records[index] for index in indices[start : start + batch_size]]
        images = [read_image(row["image"]) for row in rows]
        maps = [read_map(row["segmentation_map"]) for row in rows]
        for row, image, segmentation_map in zip(rows, images, maps, strict=True):
            if image.shape[:2] != segmentation_map.shape:
                raise ValueError(
                    f"Record {row.get('image_id')!r}: the image is {image.shape[1]} x {image.shape[0]} and its map "
                    f"{segmentation_map.shape[1]} x {segmentation_map.shape[0]} pixels. `seggen doctor` lists such."
                )
        yield images, maps
