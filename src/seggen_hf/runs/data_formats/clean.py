"""Folders of images and masks, and COCO panoptic: what `seggen doctor --fix` writes too."""

from pathlib import Path

from datasets import Dataset

from ...data.clean_copy import write_clean_split
from ...data.sources.hub import rows_of
from ...labels import LabelSet
from .rows import SPLIT


def write_folder(records: Dataset, labels: LabelSet, root: Path) -> None:
    dropped = [name for name in ("panoptic_map", "segments_info") if name in records.column_names]
    write_coco_panoptic(records.remove_columns(dropped), labels, root)


def write_coco_panoptic(records: Dataset, labels: LabelSet, root: Path) -> None:
    write_clean_split(rows_of(records, "export", SPLIT), root, SPLIT)
