"""Ultralytics: our folder of images and masks, with a YAML file for its task `semantic` and polygons for `segment`."""

from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset

from ...data.polygons import join_rings, trace_rings
from ...data.schema import MAX_LABELS_8BIT
from ...labels import LabelSet
from ...storage.files import write_bytes, write_text
from .clean import write_folder
from .rows import SPLIT, has_segments, iterate_rows, list_instances


def write_ultralytics(records: Dataset, labels: LabelSet, root: Path) -> None:
    """`yolo semantic train data=OUT/semantic.yaml` reads the masks, pixel by pixel, 255 as void; up to 255 labels.

    Where there are segments, `yolo segment train data=OUT/segment.yaml` reads train/labels/ID.txt: a line for each
    thing, its class among the things, and its border as one polygon in shares of width and height. Lost there: stuff,
    crowds and void, which are background. Holes and parts are kept: a line of no area leads to each, as Ultralytics'
    own converter joins parts. But Ultralytics fills polygons with their borders, so that at its size of training a
    mask is up to one pixel larger, a hole smaller and a bridge one pixel wide; and of more than 1,000 corners it takes
    1,000.
    """
    instances = has_segments(records) and bool(labels.things)
    if labels.num_labels > MAX_LABELS_8BIT and not instances:
        raise ValueError(
            f"Ultralytics' masks hold up to {MAX_LABELS_8BIT} labels, and these are {labels.num_labels}, without "
            "things to outline; export as folder."
        )
    write_folder(records, labels, root)
    if labels.num_labels <= MAX_LABELS_8BIT:
        _write_yaml(root, "semantic", list(labels.id2label.values()), {"masks_dir": "masks"})
    if not instances:
        return
    for row in iterate_rows(records):
        lines = [
            _line(labels.things.index(segment["category_id"]), mask)
            for segment, mask in list_instances(row, labels)
            if not segment["iscrowd"] and mask.any()
        ]
        write_bytes(root / SPLIT / "labels" / f"{row['image_id']}.txt", "".join(lines).encode(), sync=False)
    _write_yaml(root, "segment", [labels.id2label[thing] for thing in labels.things], {})


def _line(number: int, mask: np.ndarray) -> str:
    points = join_rings(trace_rings(mask)) / mask.shape[::-1]
    return " ".join([str(number), *(f"{share:.6g}" for share in points.ravel())]) + "\n"


def _write_yaml(root: Path, task: str, names: list[str], more: dict) -> None:
    content = {"train": f"{SPLIT}/images", "val": f"{SPLIT}/images"} | more | {"names": dict(enumerate(names))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    note = "# Ultralytics demands a val, and these are the training data again: name your own.\n"
    write_text(root / f"{task}.yaml", f"# yolo {task} train data={task}.yaml\n{note}{text}")
