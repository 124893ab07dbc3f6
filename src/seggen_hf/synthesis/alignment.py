"""Where a labelled map and a segmenter disagree so much that the image is taken not to show what the map says.

FreeMask's rule (arXiv:2310.15160): a synthetic pixel whose loss under a segmenter of real records exceeds 1.25 times
the mean loss of its class on real images is no example of that class, and is made void.

The relative rule asks less of the segmenter: of several images of one map, a pixel of one is made void where the
segmenter sees another label in it than in most of the others. Whatever it misreads in all of them is kept.
"""

import itertools
from collections.abc import Iterator, Sequence

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
LEAST_IMAGES = 3  # of one map, for most of them to be more than one
LEAST_PART = 0.5  # a thing of which more than that much is void is no thing


def pixel_losses(output: QueryOutput, segmentation_map: np.ndarray, labels: LabelSet, things_only: bool) -> np.ndarray:
    """Cross-entropy of each pixel's label, float32 `(height, width)` in nats; NaN where the map is void.

    Args:
        segmentation_map: `(height, width)` label ids.
        things_only: the segmenter knows things alone (task instance): all stuff is one label, what is left of 1.
    """
    top, losses = 0, np.empty(segmentation_map.shape, np.float32)
    columns = _columns(labels, things_only)
    place = np.full(labels.ignore_index + 1, len(columns), np.int64)  # label id -> plane of the scores
    place[columns] = np.arange(len(columns))
    for scores in _planes(output, labels, things_only):
        ids = segmentation_map[top : top + scores.shape[1]]
        planes = torch.from_numpy(place[ids]).to(scores.device).clamp(max=len(scores) - 1)
        own = scores.gather(0, planes[None])[0] / scores.sum(0).clamp(min=LEAST_PROBABILITY)
        losses[top : top + len(ids)] = -own.clamp(min=LEAST_PROBABILITY).log().cpu().numpy()
        top += len(ids)
    losses[segmentation_map == labels.ignore_index] = np.nan
    return losses


def seen_planes(output: QueryOutput, labels: LabelSet, things_only: bool) -> np.ndarray:
    """The label that the segmenter sees in each pixel, int16 `(height, width)`: its place among all labels, or among
    the things, with all stuff as the last one."""
    return np.concatenate([scores.argmax(0).cpu().numpy() for scores in _planes(output, labels, things_only)]).astype(
        np.int16
    )


def differs_from_most(seen: np.ndarray) -> np.ndarray:
    """Where an image shows another label than more than half of all images of its map, bool `(images, height, width)`.

    Args:
        seen: integers `(images, height, width)`, the label in each pixel. Without a majority nothing differs from it.
    """
    most, votes = np.zeros(seen.shape[1:], seen.dtype), np.zeros(seen.shape[1:], np.int64)
    for label in np.unique(seen):
        count = (seen == label).sum(0)
        most, votes = np.where(count > votes, label, most), np.maximum(count, votes)
    return (seen != most) & (2 * votes > len(seen))


def _columns(labels: LabelSet, things_only: bool) -> list[int]:
    return list(labels.things if things_only else range(labels.num_labels))


def _planes(output: QueryOutput, labels: LabelSet, things_only: bool) -> Iterator[torch.Tensor]:
    """Scores `(planes, rows, width)`, some rows at a time; of things alone the last plane is what they leave of 1."""
    for scores in semantic_scores(output):
        scores = scores[_columns(labels, things_only)]
        yield torch.cat([scores, (1 - scores.sum(0, keepdim=True)).clamp(min=0)]) if things_only else scores


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
    siblings: bool = False,
) -> list[tuple[np.ndarray, tuple[np.ndarray, list[dict]] | None, float]]:
    """Make void where a pixel's image does not show its label, and things of which most is void.

    Args:
        rows: records with image and map; of other tasks than semantic with panoptic_map and segments_info.
        limits: `(num_labels,)`, of the loss of a label's pixels; NaN limits nothing.
        siblings: rows of one source_id that follow one another are images of one map: where there are LEAST_IMAGES,
            the relative rule is applied instead of the limits.
    Returns: of each row the segmentation_map, panoptic_map and segments_info (None for semantic), and `alignment`, the
        share of its labelled pixels that are not made void.
    """
    maps = [_label_map(row, labels, task) for row in rows]
    wrong: list = [None] * len(rows)
    seen: list = [None] * len(rows)
    groups = _groups(rows) if siblings else []
    for index, output in predict_queries(model, processor, [read_image(row["image"]) for row in rows], batch_size):
        losses = pixel_losses(output, maps[index], labels, task == "instance")
        limit = np.append(limits, np.nan)[np.minimum(maps[index], labels.num_labels)]
        with np.errstate(invalid="ignore"):
            wrong[index] = losses > limit
        if groups:
            seen[index] = seen_planes(output, labels, task == "instance")
    for group in groups:
        for index, differs in zip(group, differs_from_most(np.stack([seen[i] for i in group])), strict=True):
            wrong[index] = differs
    return [_without(*found, labels, task) for found in zip(rows, maps, wrong, strict=True)]


def _groups(rows: Sequence[dict]) -> list[list[int]]:
    """Places of rows of one source that follow one another, LEAST_IMAGES or more of them."""
    together = itertools.groupby(range(len(rows)), lambda index: rows[index]["source_id"])
    groups = [list(places) for _, places in together]
    return [group for group in groups if len(group) >= LEAST_IMAGES]


def _without(row: dict, before: np.ndarray, wrong: np.ndarray, labels: LabelSet, task: str):
    if task == "semantic":
        after, segments = np.where(wrong, labels.ignore_index, before).astype(np.int32), None
    else:
        segments = _void_segments(row, wrong, labels)
        after = label_map(*segments, labels.ignore_index)
    labelled = max(int((before != labels.ignore_index).sum()), 1)
    return after, segments, float((after != labels.ignore_index).sum() / labelled)


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
