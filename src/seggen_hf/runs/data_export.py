"""The synthetic records of a run, alone or with the real ones, as other trainers read them."""

import os
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, Value, concatenate_datasets

from ..data.schema import attach_labels, labels_of, load_saved
from ..labels import LabelSet
from ..storage.files import new_folder
from ..synthesis import load_synthetic
from .data_formats.cityscapes import write_cityscapes
from .data_formats.clean import write_coco_panoptic, write_folder
from .data_formats.coco import write_coco
from .data_formats.fiftyone import write_fiftyone
from .data_formats.rows import has_segments
from .data_formats.ultralytics import write_ultralytics
from .data_formats.voc import write_voc
from .folder import RunFolder

COLUMNS = ("image", "segmentation_map", "panoptic_map", "segments_info", "caption", "image_id", "kind")


def export_data(what: str | os.PathLike, out: str | os.PathLike, format: str, with_real: bool = False) -> dict:
    """Write the split `train` of a new data set in `out`, which gets its name when it is whole.

    - folder: train/images, train/masks (PNGs of label ids), train/captions.json, classes.json;
    - coco-panoptic: panoptic_train.json, panoptic_train/, images/train/;
    - coco: annotations/instances_train.json with run-length masks of things, images/train/;
    - voc: JPEGImages, SegmentationClass (palette PNGs), ImageSets/Segmentation/train.txt, labelmap.txt;
    - ultralytics: folder, with semantic.yaml and, where there are segments, train/labels (polygons) and segment.yaml;
    - cityscapes: leftImg8bit/train, gtFine/train (labelIds, labelTrainIds, instanceIds), classes.json;
    - fiftyone: samples.json, metadata.json, data/, fields/, with captions and instances.

    Args:
        what: a run, or the folder of a synthesis.
        with_real: the run's real records too.
    Returns: `records`, `synthetic`, `real`. Raises: `ValueError` for a folder without records, real records of no run,
        a format that needs segments where there are none or cannot hold as many labels, and an `out` that exists.
    """
    records, counts = _records(what, with_real)
    if format in ("coco", "coco-panoptic") and not has_segments(records):
        raise ValueError(f"--format {format} tells segments, and these records have labels alone; folder and voc do.")
    out = Path(out)
    if os.path.lexists(out):
        raise ValueError(f"{out} exists; name a new folder for the export.")
    with new_folder(out) as temporary:
        WRITERS[format](records, labels_of(records), temporary)
    return counts


def _records(what: str | os.PathLike, with_real: bool) -> tuple[Dataset, dict]:
    """The records, `real` or the kind of their synthesis in `kind`, and how many there are."""
    run = RunFolder(what)
    if with_real and not run.is_run:
        raise ValueError(f"{what} is no run, and --with-real takes a run's own real records.")
    if run.is_run:
        run.finished("synthetic")
    made = load_synthetic(run.synthetic if run.is_run else Path(what))
    parts = [made, *([_name_kind(load_saved(run.captions), "real")] if with_real else [])]
    kept = [name for name in COLUMNS if all(name in part.column_names for part in parts)]
    parts = [part.select_columns(kept) for part in parts]
    joined = concatenate_datasets([part.cast(parts[0].features) for part in parts])
    counts = {"records": len(joined), "synthetic": len(made), "real": len(joined) - len(made)}
    return attach_labels(joined, labels_of(made)), counts


def _name_kind(records: Dataset, kind: str) -> Dataset:
    return records.add_column("kind", [kind] * len(records), feature=Value("string"))


Writer = Callable[[Dataset, LabelSet, Path], None]
WRITERS: dict[str, Writer] = {
    "folder": write_folder,
    "coco": write_coco,
    "coco-panoptic": write_coco_panoptic,
    "voc": write_voc,
    "ultralytics": write_ultralytics,
    "cityscapes": write_cityscapes,
    "fiftyone": write_fiftyone,
}
