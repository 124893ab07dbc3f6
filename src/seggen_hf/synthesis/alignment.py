"""Where a labelled map and a segmenter disagree so much that the image is taken not to show what the map says.

FreeMask's rule (arXiv:2310.15160): a synthetic pixel whose loss under a segmenter of real records exceeds 1.25 times
the mean loss of its class on real images is no example of that class, and is made void.
"""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm

from ..data.schema import read_image, read_map, read_panoptic
from ..labels import LabelSet
from ..segmenter.inference import predict_queries
from ..segmenter.postprocessing import QueryOutput, semantic_scores
from ..segments import label_map, measure_segments

LEAST_PROBABILITY = 1e-6  # what no query sees has no infinite loss
LEAST_PART = 0.5  # a thing of which more than that much is void is no thing


def pixel_losses(output: QueryOutput, segmentation_map: np.ndarray, labels: LabelSet, things_only: bool) -> np.ndarray:
    """Cross-entropy of each pixel's label, float32 `(height, width)` in nats; NaN where the map is void.

    Args:
        segmentation_map: `(height, width)` label ids.
        things_only: the segmenter knows things alone (task instance): all stuff is one label, what is left of 1.
    """
    top, losses = 0, np.empty(segmentation_map.shape, np.float32)
    columns = labels.things if things_only else range(labels.num_labels)
    place = np.full(labels.ignore_index + 1, len(columns), np.int64)  # label id -> plane of the scores
    place[list(columns)] = np.arange(len(columns))
    for scores in semantic_scores(output):
        scores = scores[list(columns)]
        if things_only:
            scores = torch.cat([scores, (1 - scores.sum(0, keepdim=True)).clamp(min=0)])
        ids = segmentation_map[top : top + scores.shape[1]]
        planes = torch.from_numpy(place[ids]).to(scores.device).clamp(max=len(scores) - 1)
        own = scores.gather(0, planes[None])[0] / scores.sum(0).clamp(min=LEAST_PROBABILITY)
        losses[top : top + len(ids)] = -own.clamp(min=LEAST_PROBABILITY).log().cpu().numpy()
        top += len(ids)
    losses[segmentation_map == labels.ignore_index] = np.nan
    return losses


def class_losses(
    model: nn.Module, processor, records: Dataset, labels: LabelSet, task: str = "semantic", batch_size: int = 8
) -> np.ndarray:
    """Mean loss of each label's pixels on real `records`, float64 `(num_labels,)`; NaN for labels that none shows.

    For the task instance all stuff has the mean of stuff.
    """
    total, count = np.zeros(labels.num_labels), np.zeros(labels.num_labels)
    for rows in tqdm(_batches(records, batch_size), "Losses on real images", total=-(-len(records) // batch_size)):
        maps = [_label_map(row, labels, task) for row in rows]
        images = [read_image(row["image"]) for row in rows]
        for index, output in predict_queries(model, processor, images, batch_size):
            losses = pixel_losses(output, maps[index], labels, task == "instance")
            known = ~np.isnan(losses)
            ids = maps[index][known]
            total += np.bincount(ids, losses[known], labels.num_labels)[: labels.num_labels]
            count += np.bincount(ids, minlength=labels.num_labels)[: labels.num_labels]
    if task == "instance":
        stuff = [i for i in range(labels.num_labels) if i not in labels.things]
        total[stuff], count[stuff] = total[stuff].sum(), count[stuff].sum()
    return np.divide(total, count, out=np.full(labels.num_labels, np.nan), where=count > 0)


def align_rows(
    model: nn.Module,
    processor,
    rows: Sequence[dict],
    limits: np.ndarray,
    labels: LabelSet,
    task: str = "semantic",
    batch_size: int = 8,
) -> list[tuple[np.ndarray, tuple[np.ndarray, list[dict]] | None, float]]:
    """Make void where the loss of a pixel is above the limit of its label, and most of a thing is void.

    Args:
        rows: records with image and map; of other tasks than semantic with panoptic_map and segments_info.
        limits: `(num_labels,)`; NaN limits nothing.
    Returns: of each row the segmentation_map, panoptic_map and segments_info (None for semantic), and `alignment`, the
        share of its labelled pixels that are not made void.
    """
    found: list = [None] * len(rows)
    images = [read_image(row["image"]) for row in rows]
    for index, output in predict_queries(model, processor, images, batch_size):
        row = rows[index]
        before = _label_map(row, labels, task)
        losses = pixel_losses(output, before, labels, task == "instance")
        limit = np.append(limits, np.nan)[np.minimum(before, labels.num_labels)]
        with np.errstate(invalid="ignore"):
            wrong = losses > limit
        if task == "semantic":
            after, segments = np.where(wrong, labels.ignore_index, before).astype(np.int32), None
        else:
            segments = _void_segments(row, wrong, labels)
            after = label_map(*segments, labels.ignore_index)
        labelled = max(int((before != labels.ignore_index).sum()), 1)
        found[index] = after, segments, float((after != labels.ignore_index).sum() / labelled)
    return found


def _void_segments(row: dict, wrong: np.ndarray, labels: LabelSet) -> tuple[np.ndarray, list[dict]]:
    panoptic_map = read_panoptic(row["panoptic_map"])
    before = measure_segments(panoptic_map, row["segments_info"])
    panoptic_map[wrong] = 0
    left = {segment["id"]: segment["area"] for segment in measure_segments(panoptic_map, before)}
    gone = [
        s["id"] for s in before if s["category_id"] in labels.things and left.get(s["id"], 0) < LEAST_PART * s["area"]
    ]
    panoptic_map[np.isin(panoptic_map, gone)] = 0
    return panoptic_map, measure_segments(panoptic_map, before)


def _label_map(row: dict, labels: LabelSet, task: str) -> np.ndarray:
    if task == "semantic":
        return read_map(row["segmentation_map"])
    return label_map(read_panoptic(row["panoptic_map"]), row["segments_info"], labels.ignore_index)


def _batches(records, size: int):
    for start in range(0, len(records), size):
        yield [records[index] for index in range(start, min(start + size, len(records)))]
