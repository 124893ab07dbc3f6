"""A segmenter on a data set -> scores of its task, summed over processes."""

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.schema import check_columns, labels_of, read_image, read_map, read_panoptic
from ..labels import LabelSet, differing_labels
from ..metrics import MaskAP, MeanIoU, PanopticQuality, instances_of
from ..tasks import TASKS
from .eomt import fixed_side
from .inference import describe_inference, predict_queries, semantic_map
from .postprocessing import (
    MAX_INSTANCES,
    OBJECT_THRESHOLD,
    OVERLAP_THRESHOLD,
    QueryOutput,
    instance_masks,
    panoptic_segments,
)


def evaluate_segmenter(
    model,
    processor,
    records,
    task: str = "semantic",
    batch_size: int = 8,
    accelerator: Accelerator | None = None,
    labels: LabelSet | None = None,
    thresholds: tuple[float, float] = (OBJECT_THRESHOLD, OVERLAP_THRESHOLD),
    max_detections: int = MAX_INSTANCES,
) -> dict:
    """Score `model` on `records` at the images' original sizes.

    With an `accelerator` it is called by every process with the same records: process r scores every record whose
    index is r modulo the number of processes, once, and the counts are summed; all return the same scores.

    Args:
        model: a segmenter, not wrapped; it stays in its mode and on its device.
        records: a `datasets.Dataset` (or sequence of dicts) with `image` and `segmentation_map`; for panoptic and
            instance segmentation also `panoptic_map` and `segments_info`.
        task: `semantic`, `panoptic` or `instance`.
        labels (`LabelSet`): by default those that `records` carries.
        thresholds: of `panoptic_segments`, for the task panoptic.
        max_detections: instances of an image that count for AP, the best of all classes; COCO's 100.

    Returns: shares in [0, 1], None where nothing was counted. For semantic the scores of `MeanIoU.compute`; for
        panoptic `PQ`, `SQ`, `RQ`, these of things and stuff (`PQ_things`, ...), `AP` and its kin of the instances that
        the same queries give, `mIoU`; for instance `AP`, `AP50`, `AP75`, `AP_small`, `AP_medium`, `AP_large`,
        `boundary_AP`. For each task `per_label` ({id: mIoU, PQ or AP of the label}), `labels` ({id: name}),
        `num_images`, `task` and `protocol`, which also tells the resolution.
    Raises: `ValueError` if model and records have different labels, sizes of image and map differ, or the records lack
        what the task is scored on.
    """
    if task not in TASKS:
        raise ValueError(f"--task is {task!r}; it must be one of {', '.join(TASKS)}.")
    labels = labels or labels_of(records)
    check_columns("records", records, task)
    if differences := differing_labels(model.config, labels):
        raise ValueError(
            f"The segmenter and the records have other labels: {differences}. Score it on the labels that it was "
            "trained with."
        )
    rank, num_processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    score = {
        "semantic": lambda: SemanticScore(labels),
        "panoptic": lambda: PanopticScore(labels, thresholds, max_detections),
        "instance": lambda: InstanceScore(labels, max_detections),
    }[task]()
    indices, things = range(rank, len(records), num_processes), None if task == "semantic" else labels.things
    for start in range(0, len(indices), batch_size):
        rows = [_read_row(records[index], task) for index in indices[start : start + batch_size]]
        images = [row["image"] for row in rows]
        for place, output in predict_queries(model, processor, images, batch_size, things):
            score.update(output, rows[place], indices[start + place])
    if accelerator is not None:
        score.sum_over(accelerator)
    scores = score.compute()
    return scores | {
        "protocol": f"{scores['protocol']} {describe_inference(processor, fixed_side(model.config))}",
        "labels": labels.id2label,
        "num_images": len(records),
        "task": task,
    }


class SemanticScore:
    """mIoU of one data set; the three scores are used alike."""

    def __init__(self, labels: LabelSet):
        self.miou = MeanIoU(labels.num_labels, labels.ignore_index)

    def update(self, output: QueryOutput, row: dict, key: int) -> None:
        """Add one image. `key` is its place in the data set, whichever process has it."""
        self.miou.update(semantic_map(output), row["segmentation_map"])

    def sum_over(self, accelerator: Accelerator) -> None:
        """Add up what all processes counted (collective)."""
        self.miou.state = _sum(accelerator, self.miou.state)

    def compute(self) -> dict:
        return self.miou.compute()


class PanopticScore:
    """PQ, and of the same queries AP and mIoU, as Mask2Former reports its panoptic models."""

    def __init__(self, labels: LabelSet, thresholds: tuple[float, float], max_detections: int):
        categories = _categories(labels)
        self.things, self.thresholds, self.max_detections = labels.things, thresholds, max_detections
        self.pq = PanopticQuality(categories)
        self.ap = MaskAP(categories, max_detections=max_detections) if labels.things else None
        self.miou = MeanIoU(labels.num_labels, labels.ignore_index)

    def update(self, output: QueryOutput, row: dict, key: int) -> None:
        target = row["panoptic_map"], row["segments_info"]
        self.pq.update(panoptic_segments(output, self.things, *self.thresholds), target)
        self.miou.update(semantic_map(output), row["segmentation_map"])
        if self.ap is not None:
            found = instance_masks(output, self.things, self.max_detections)
            self.ap.update(found, instances_of(*target), key=key)

    def sum_over(self, accelerator: Accelerator) -> None:
        self.pq.counts, self.pq.iou = _sum(accelerator, self.pq.counts), _sum(accelerator, self.pq.iou)
        self.miou.state = _sum(accelerator, self.miou.state)
        if self.ap is not None:
            self.ap.load_state(gather_object([self.ap.state]))

    def compute(self) -> dict:
        pq, miou = self.pq.compute(), self.miou.compute()
        ap = self.ap.compute() if self.ap is not None else {"protocol": ""}
        parts = {"": pq, "_things": pq["things"], "_stuff": pq["stuff"]}
        object_threshold, overlap_threshold = self.thresholds
        protocol = (
            f"Segments: queries of class probability above {object_threshold:g} that keep {overlap_threshold:g} of "
            f"their mask. {pq['protocol']} AP of up to {self.max_detections} instances of these queries: "
            f"{ap['protocol']} mIoU: {miou['protocol']}"
        )
        return {
            **{f"{name}{part}": scores[name.lower()] for part, scores in parts.items() for name in ("PQ", "SQ", "RQ")},
            **{name: value for name, value in ap.items() if name.startswith("A")},
            "mIoU": miou["mIoU"],
            "per_label": {i: scores["pq"] for i, scores in pq["per_category"].items()},
            "protocol": protocol,
        }


class InstanceScore:
    """Mask AP and boundary AP."""

    def __init__(self, labels: LabelSet, max_detections: int):
        if not labels.things:
            raise ValueError(
                "--task instance needs things, and no label is one; mark them with isthing in labels.json."
            )
        self.things, self.max_detections, categories = labels.things, max_detections, _categories(labels)
        self.ap = MaskAP(categories, max_detections=max_detections)
        self.boundary_ap = MaskAP(categories, boundary=True, max_detections=max_detections)

    def update(self, output: QueryOutput, row: dict, key: int) -> None:
        found = instance_masks(output, self.things, self.max_detections)
        target = instances_of(row["panoptic_map"], row["segments_info"])
        for metric in (self.ap, self.boundary_ap):
            metric.update(found, target, key=key)

    def sum_over(self, accelerator: Accelerator) -> None:
        for metric in (self.ap, self.boundary_ap):
            metric.load_state(gather_object([metric.state]))

    def compute(self) -> dict:
        ap, boundary_ap = self.ap.compute(), self.boundary_ap.compute()
        return {
            **{name: value for name, value in ap.items() if name.startswith("A")},
            "boundary_AP": boundary_ap["AP"],
            "per_label": ap["per_category"],
            "protocol": f"{ap['protocol']} boundary_AP: {boundary_ap['protocol']}",
        }


def _categories(labels: LabelSet) -> list[dict]:
    return [{"id": i, "name": name, "isthing": i in labels.things} for i, name in labels.id2label.items()]


def _sum(accelerator: Accelerator, counts: np.ndarray) -> np.ndarray:
    total: Any = accelerator.reduce(torch.from_numpy(counts).to(accelerator.device), reduction="sum")  # a tensor again
    return total.cpu().numpy()


def _read_row(row: dict, task: str) -> dict:
    """Image and maps of a record, whose sizes must agree."""
    found = {"image": read_image(row["image"])}
    if task != "instance":
        found["segmentation_map"] = read_map(row["segmentation_map"])
    if task != "semantic":
        found |= {"panoptic_map": read_panoptic(row["panoptic_map"]), "segments_info": row["segments_info"]}
    for name in ("segmentation_map", "panoptic_map"):
        if name in found and found[name].shape != found["image"].shape[:2]:
            (rows, columns), (height, width) = found[name].shape, found["image"].shape[:2]
            raise ValueError(
                f"Record {row.get('image_id')!r}: the image is {width} x {height} and its map {columns} x {rows} "
                "pixels. `seggen doctor` lists such."
            )
    return found
