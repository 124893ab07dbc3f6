"""The synthetic records of a run, alone or with the real ones, as other trainers read them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset, Image, concatenate_datasets
from PIL import Image as PILImage
from tqdm.auto import tqdm

from seggen_hf.pipelines import ColormapCodec

from ..data.clean_copy import SUFFIXES, clean_labels, write_clean_split
from ..data.schema import attach_labels, labels_of, load_saved, open_image, read_map, read_panoptic
from ..data.sources.hub import rows_of
from ..labels import LabelSet
from ..metrics.instance_matching import plain_rle
from ..storage.files import new_folder, save_image, write_bytes, write_json, write_text
from ..synthesis import load_synthetic
from .folder import RunFolder

SPLIT = "train"
COLUMNS = ("image", "segmentation_map", "panoptic_map", "segments_info", "caption", "image_id")


def export_data(what: str | os.PathLike, out: str | os.PathLike, format: str, with_real: bool = False) -> dict:
    """Write the split `train` of a new data set in `out`, which gets its name when it is whole.

    - folder: train/images, train/masks (PNGs of label ids), train/captions.json, classes.json;
    - coco-panoptic: panoptic_train.json, panoptic_train/, images/train/;
    - coco: annotations/instances_train.json with run-length masks of things, images/train/;
    - voc: JPEGImages, SegmentationClass (palette PNGs), ImageSets/Segmentation/train.txt, labelmap.txt.

    Args:
        what: a run, or the folder of a synthesis.
        with_real: the run's real records too.
    Returns: `records`, `synthetic`, `real`. Raises: `ValueError` for a folder without records, real records of no run,
        a format that needs segments where there are none, and an `out` that exists.
    """
    records, counts = _records(what, with_real)
    if format in ("coco", "coco-panoptic") and "panoptic_map" not in records.column_names:
        raise ValueError(f"--format {format} tells segments, and these records have labels alone; folder and voc do.")
    out = Path(out)
    if os.path.lexists(out):
        raise ValueError(f"{out} exists; name a new folder for the export.")
    with new_folder(out) as temporary:
        WRITERS[format](records, labels_of(records), temporary)
    return counts


def _records(what: str | os.PathLike, with_real: bool) -> tuple[Dataset, dict]:
    run = RunFolder(what)
    if with_real and not run.is_run:
        raise ValueError(f"{what} is no run, and --with-real takes a run's own real records.")
    if run.is_run:
        run.finished("synthetic")
    made = load_synthetic(run.synthetic if run.is_run else Path(what))
    parts = [made, *([load_saved(run.captions)] if with_real else [])]
    kept = [name for name in COLUMNS if all(name in part.column_names for part in parts)]
    parts = [part.select_columns(kept) for part in parts]
    joined = concatenate_datasets([part.cast(parts[0].features) for part in parts])
    counts = {"records": len(joined), "synthetic": len(made), "real": len(joined) - len(made)}
    return attach_labels(joined, labels_of(made)), counts


def _write_folder(records: Dataset, labels: LabelSet, root: Path) -> None:
    dropped = [name for name in ("panoptic_map", "segments_info") if name in records.column_names]
    write_clean_split(rows_of(records.remove_columns(dropped), "export", SPLIT), root, SPLIT)


def _write_coco_panoptic(records: Dataset, labels: LabelSet, root: Path) -> None:
    write_clean_split(rows_of(records, "export", SPLIT), root, SPLIT)


def _write_coco(records: Dataset, labels: LabelSet, root: Path) -> None:
    content: dict = {"categories": [], "images": [], "annotations": []}
    content["categories"] = [c for c in clean_labels(labels)["categories"] if c["id"] in labels.things]
    for number, row in enumerate(_rows(records), start=1):
        name = _copy_image(row, root / "images" / SPLIT)
        ids = read_panoptic(row["panoptic_map"])
        content["images"].append({"id": number, "file_name": name, "height": ids.shape[0], "width": ids.shape[1]})
        for segment in row["segments_info"]:
            if segment["category_id"] not in labels.things:
                continue
            content["annotations"].append({
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": segment["category_id"],
                "segmentation": plain_rle(ids == segment["id"]),
                "area": segment["area"],
                "bbox": segment["bbox"],
                "iscrowd": int(segment["iscrowd"]),
            })  # fmt: skip
    (root / "annotations").mkdir()
    write_json(root / "annotations" / f"instances_{SPLIT}.json", content)


def _write_voc(records: Dataset, labels: LabelSet, root: Path) -> None:
    codec = ColormapCodec(labels)
    palette = np.zeros((256, 3), np.uint8)
    if labels.num_labels > 255:
        raise ValueError(f"VOC's masks hold up to 255 labels, and these are {labels.num_labels}; export as folder.")
    palette[: labels.num_labels] = codec.palette
    palette[255] = codec.void_color
    names = []
    for row in _rows(records):
        _copy_image(row, root / "JPEGImages")
        ids = read_map(row["segmentation_map"])
        mask = PILImage.fromarray(np.where(ids == labels.ignore_index, 255, ids).astype(np.uint8), "P")
        mask.putpalette(palette.ravel().tolist())
        save_image(mask, root / "SegmentationClass" / f"{row['image_id']}.png", sync=False)
        names.append(row["image_id"])
    write_text(root / "ImageSets" / "Segmentation" / f"{SPLIT}.txt", "".join(f"{name}\n" for name in names))
    colors = (",".join(map(str, codec.palette[i].tolist())) for i in range(labels.num_labels))
    lines = [f"{labels.id2label[i]}:{color}::" for i, color in enumerate(colors)]
    write_text(root / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(f"{line}\n" for line in lines))


def _rows(records: Dataset) -> Iterator[dict]:
    for name, feature in records.features.items():
        if isinstance(feature, Image):
            records = records.cast_column(name, Image(decode=False))
    yield from cast(Iterator[dict], tqdm(records, "Exporting", delay=2))


def _copy_image(row: dict, folder: Path) -> str:
    """The image's own bytes under the record's id; returns the file's name."""
    value = row["image"]
    with open_image(value) as image:
        suffix = SUFFIXES.get(image.format or "", ".png")
    data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    name = f"{row['image_id']}{suffix}"
    write_bytes(folder / name, data, sync=False)
    return name


Writer = Callable[[Dataset, LabelSet, Path], None]
WRITERS: dict[str, Writer] = {
    "folder": _write_folder,
    "coco": _write_coco,
    "coco-panoptic": _write_coco_panoptic,
    "voc": _write_voc,
}
