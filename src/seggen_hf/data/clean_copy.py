"""Writes the records that are whole: upright images, and PNG masks of label ids, or COCO panoptic ones."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ImageOps
from tqdm.auto import tqdm

from ..labels import LabelSet
from ..segments import measure_segments
from ..storage.files import write_json
from .schema import encode_image, encode_map, encode_panoptic, open_image, read_panoptic
from .sources.checks import (
    Inspection,
    Source,
    drop_exif,
    explain_missing_label,
    inspect_rows,
    is_deep,
    reduce_depth,
    turn_upright,
)
from .sources.folder import CAPTIONS_FILE

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}


def write_clean_split(
    found: Source, root: Path, split: str, value_range: tuple[float, float] | None = None
) -> tuple[int, list[str]]:
    """Write one split of a copy whose folder is `root`; returns how many records, and a line for each left out.

    Records with segments are written as COCO panoptic (panoptic_SPLIT.json, panoptic_SPLIT/, images/SPLIT/), others as
    SPLIT/images, SPLIT/masks, SPLIT/captions.json and classes.json: the copy can learn what its source can.
    """
    inspections = inspect_rows(found, takes_deep=value_range is not None)
    missing = explain_missing_label(found, inspections)
    if missing:
        raise ValueError(f"{split}: {missing}.")
    left_out = found.problems + [entry.problem for entry in inspections if entry.problem]
    good = [index for index, entry in enumerate(inspections) if entry.problem is None]
    has_segments = found.decoder.panoptic or "panoptic_map" in found.rows.column_names
    images = root / "images" / split if has_segments else root / split / "images"
    maps = root / f"panoptic_{split}" if has_segments else root / split / "masks"
    for folder in (images, maps):
        folder.mkdir(parents=True)

    def write(index: int) -> tuple[str, tuple[int, int], list[dict]]:
        row = found.rows[index]
        name = _write_image(row, inspections[index], images, value_range)
        content, size, segments = _encode_panoptic_map(found, row) if has_segments else _encode_map(found, row)
        _write(maps, f"{row['image_id']}.png", content)
        return name, size, segments

    with ThreadPoolExecutor(max_workers=4) as pool:
        writing = tqdm(pool.map(write, good), f"Writing {split}", total=len(good), delay=3, leave=False)
        written = list(writing)
    if has_segments:
        ids = [found.rows["image_id"][index] for index in good]
        write_json(root / f"panoptic_{split}.json", _coco_panoptic(found.labels, ids, written))
        return len(good), left_out
    ids, texts = found.rows["image_id"][:], found.rows["caption"][:]
    captions = {ids[index]: texts[index] for index in good if texts[index]}
    if captions:
        write_json(root / split / CAPTIONS_FILE, captions)
    write_json(root / "classes.json", clean_labels(found.labels))
    return len(good), left_out


def _write_image(row: dict, inspection: Inspection, folder: Path, value_range: tuple[float, float] | None) -> str:
    """The upright image below `folder`, in 8 bits; returns its name there. One that needs nothing is copied byte for
    byte."""
    value, stem = row["image"], row["image_id"]
    with open_image(value) as image:
        suffix = SUFFIXES.get(image.format or "")
        if is_deep(image) and value_range is not None:
            upright = image if inspection.drops_exif else ImageOps.exif_transpose(image)
            value, suffix = encode_image(np.asarray(reduce_depth(upright, value_range))), ".png"
        elif inspection.drops_exif:
            value = drop_exif(value)
            suffix = Path(value["path"]).suffix
        elif inspection.orientation != 1 or suffix is None:
            buffer = io.BytesIO()
            ImageOps.exif_transpose(image).convert("RGB").save(buffer, "PNG")  # lossless; without EXIF
            value, suffix = {"bytes": buffer.getvalue(), "path": None}, ".png"
    data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    _write(folder, f"{stem}{suffix}", data)
    return f"{stem}{suffix}"


def _encode_map(found: Source, row: dict) -> tuple[bytes, tuple[int, int], list[dict]]:
    with open_image(row["segmentation_map"]) as mask:
        labels = found.decoder.decode(turn_upright(mask), row.get("segments_info"))
    return encode_map(labels, found.labels.num_labels)["bytes"], labels.shape, []


def _encode_panoptic_map(found: Source, row: dict) -> tuple[bytes, tuple[int, int], list[dict]]:
    with open_image(row.get("panoptic_map") or row["segmentation_map"]) as mask:
        upright = turn_upright(mask)
        ids = read_panoptic(upright)
        if found.decoder.panoptic:
            segments = found.decoder.read_segments(upright, row["segments_info"])
        else:  # records, whose segments hold label ids
            segments = measure_segments(ids, row["segments_info"])
    return encode_panoptic(ids)["bytes"], ids.shape, segments


def _coco_panoptic(labels: LabelSet, ids: list[str], written: list[tuple]) -> dict:
    content: dict = {"categories": clean_labels(labels)["categories"], "images": [], "annotations": []}
    for number, (image_id, (name, (height, width), segments)) in enumerate(zip(ids, written, strict=True)):
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        described = [
            {
                "id": s["id"],
                "category_id": s["category_id"],
                "iscrowd": int(s["iscrowd"]),
                "area": s["area"],
                "bbox": s["bbox"],
            }
            for s in segments
        ]
        content["annotations"].append({"image_id": number, "file_name": f"{image_id}.png", "segments_info": described})
    return content


def _write(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"The image_id {Path(name).stem!r} leads out of the folder of the copy; give it another one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def clean_labels(labels: LabelSet) -> dict:
    """classes.json of the copy: its masks hold the new ids; no color twice."""
    content, seen = labels.to_dict(), set()
    for category in content["categories"]:
        category.pop("source_id", None)
        color = tuple(category.get("color") or ())
        if color in seen:
            category.pop("color", None)
        seen.add(color)
    return content
