"""Writes the records that are whole in the folder layout: upright images, PNG masks of label ids."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import ImageOps
from tqdm.auto import tqdm

from ..files import write_json
from ..labels import LabelSet
from .schema import encode_map, open_image
from .sources.checks import Inspection, Source, drop_exif, explain_missing_label, inspect_rows
from .sources.folder import CAPTIONS_FILE

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}


def write_clean_split(found: Source, folder: Path) -> tuple[int, list[str]]:
    """Write images/, masks/ and captions.json of a split; returns how many, and a line for each record left out."""
    inspections = inspect_rows(found)
    missing = explain_missing_label(found, inspections)
    if missing:
        raise ValueError(f"{folder.name}: {missing}.")
    left_out = found.problems + [entry.problem for entry in inspections if entry.problem]
    good = [index for index, entry in enumerate(inspections) if entry.problem is None]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    with ThreadPoolExecutor(max_workers=4) as pool:
        writing = pool.map(lambda index: _write_pair(found, found.rows[index], inspections[index], folder), good)
        list(tqdm(writing, f"Writing {folder.name}", total=len(good), delay=3, leave=False))
    ids, texts = found.rows["image_id"][:], found.rows["caption"][:]
    captions = {ids[index]: texts[index] for index in good if texts[index]}
    if captions:
        write_json(folder / CAPTIONS_FILE, captions)
    return len(good), left_out


def _write_pair(found: Source, row: dict, inspection: Inspection, folder: Path) -> None:
    value, stem = row["image"], row["image_id"]
    if not (folder / stem).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"The image_id {stem!r} leads out of the folder of the copy; give the record another one.")
    with open_image(value) as image:
        suffix = SUFFIXES.get(image.format or "")
        if inspection.drops_exif:
            value = drop_exif(value)
            suffix = Path(value["path"]).suffix
        elif inspection.orientation != 1 or suffix is None:
            buffer = io.BytesIO()
            ImageOps.exif_transpose(image).convert("RGB").save(buffer, "PNG")  # lossless; without EXIF
            value, suffix = {"bytes": buffer.getvalue(), "path": None}, ".png"
    data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    with open_image(row["segmentation_map"]) as mask:
        upright = ImageOps.exif_transpose(mask) if mask.getexif().get(0x0112, 1) != 1 else mask
        labels = found.decoder.decode(upright, row.get("segments_info"))
    for path, content in (
        (folder / "images" / f"{stem}{suffix}", data),
        (folder / "masks" / f"{stem}.png", encode_map(labels, found.labels.num_labels)["bytes"]),
    ):
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
