"""Every record of a source looked at before anything costly starts: what is broken, and what must be converted."""

import errno
import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from ...labels import LabelSet
from ..schema import open_image
from .map_decoder import MapDecoder

ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSED = (5, 6, 7, 8)  # orientations that swap height and width
LISTED = 20
# What PIL raises for files that are damaged, and the decoder for maps that hold no labels.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass
class Source:
    """What a format's reader found.

    Args:
        rows (`datasets.Dataset`): image and segmentation_map undecoded (`Image(decode=False)`), image_id, caption; for
            panoptic sources segments_info, with label ids.
        labels (`LabelSet`): ids 0..C-1.
        decoder (`MapDecoder`): from the source's masks to these ids.
        problems (`list` of `str`): what is missing or broken already in the listing, one line per file.
        collisions (`list` of `str`): labels of one color.
        origin (`str`): fingerprint of what the rows hold beside file names and captions.
        notes (`list` of `str`): what was read in another way than it is written, or passed over.
    """

    name: str
    rows: Dataset
    labels: LabelSet
    decoder: MapDecoder
    problems: list[str]
    collisions: list[str]
    origin: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Inspection:
    """One record: its problem, if any, and what has to be done to it."""

    image_id: str
    problem: str | None = None
    size: tuple[int, int] | None = None  # (height, width) of the image as it will be read
    orientation: int = 1  # EXIF; 1 is upright
    drops_exif: bool = False  # the mask fits the unrotated pixels
    uncertain_exif: bool = False  # the mask fits both ways, and the split's other masks do not tell
    converts_map: bool = False
    counts: np.ndarray | None = None  # (num_labels + 1,) pixels of each label, void last


def inspect_rows(source: Source, pixels: bool = True, takes_deep: bool = False) -> list[Inspection]:
    """Inspect each record in a pool of threads (PIL decodes outside the interpreter's lock).

    Args:
        pixels (`bool`): decode every image and map whole, which finds truncated files and ids outside the label set;
            otherwise only headers are read.
        takes_deep (`bool`): images of more than 8 bits are no problem: they are reduced.
    """
    rows, workers = source.rows, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(max_workers=max(2, min(workers or 1, 16))) as pool:
        inspections = pool.map(lambda i: inspect_row(rows[i], source.decoder, pixels, takes_deep), range(len(rows)))
        found = list(tqdm(inspections, "Checking records", total=len(rows), delay=3, mininterval=1, leave=False))
    _settle_exif(found)
    return found


def _settle_exif(inspections: list[Inspection]) -> None:
    """Masks that fit both ways were drawn as those of the split whose size tells, where these agree."""
    certain = {
        entry.drops_exif
        for entry in inspections
        if entry.orientation != 1 and not entry.uncertain_exif and entry.problem is None
    }
    if len(certain) == 1:
        (drops,) = certain
        for entry in inspections:
            entry.drops_exif |= entry.uncertain_exif and drops
            entry.uncertain_exif = False


def explain_missing_label(source: Source, inspections: list[Inspection]) -> str | None:
    """A line where two-class masks hold 0 and 255, the 255 is void and so no pixel is of label 1."""
    decoder = source.decoder
    void = [raw for raw, label in decoder.ids.items() if label == decoder.ignore_index]
    counts = [entry.counts for entry in inspections if entry.counts is not None]
    if decoder.panoptic or decoder.num_labels != 2 or not decoder.is_identity or void != [255] or not counts:
        return None
    background, labelled, unlabelled = np.sum(counts, axis=0)
    if labelled or not background or not unlabelled:
        return None
    name = source.labels.id2label[1]
    return (
        f"the masks hold 0 and 255 and never 1, and 255 is void; if 255 is {name!r}, name id 255 in classes.json: "
        f'{{"0": "{source.labels.id2label[0]}", "255": "{name}"}}'
    )


def explain_no_label(inspections: list[Inspection]) -> str | None:
    """A line where no map of a split has a labelled pixel: nothing to learn from, and nothing to score."""
    counts = [entry.counts for entry in inspections if entry.counts is not None]
    if not counts or np.sum(counts, axis=0)[:-1].any():
        return None
    return "every pixel of every map is void; look whether the masks are empty, or their ids those of the label file"


def inspect_row(row: dict, decoder: MapDecoder, pixels: bool = True, takes_deep: bool = False) -> Inspection:
    """Look at one undecoded record. A problem is a line `FILE: reason`, not an exception."""
    found = Inspection(row["image_id"])
    current = row["image"]
    try:
        with open_image(current) as image:
            size, mode, found.orientation = (image.height, image.width), image.mode, read_orientation(image, pixels)
            if is_deep(image) and not takes_deep:
                raise ValueError(
                    f"the image has more than 8 bits (mode {mode}), values {_tell_values(image)}; save it with "
                    f"8, or have a copy written: seggen doctor SOURCE --fix FOLDER --value-range LOW HIGH"
                )
            if pixels:
                # JPEG: reads every byte, skips most of the IDCT
                image.draft("L", (max(image.width // 8, 1), max(image.height // 8, 1)))
                image.load()
        current = row["segmentation_map"]
        with open_image(current) as mask:
            check_lossless(mask)
            upright = ImageOps.exif_transpose(mask) if read_orientation(mask, pixels) != 1 else mask
            found.converts_map = upright is not mask or not decoder.keeps(mask)
            map_size = (upright.height, upright.width)
            if pixels:
                found.counts = _count(upright, decoder, row.get("segments_info"))
        rotated = (size[1], size[0]) if found.orientation in TRANSPOSED else size
        found.drops_exif = rotated != map_size and size == map_size
        found.uncertain_exif = found.orientation != 1 and rotated == size == map_size
        found.size = size if found.drops_exif else rotated
        if found.size != map_size:
            found.problem = (
                f"{name_of(current, row)}: the mask is {map_size[0]} x {map_size[1]} (height x width) "
                f"and its image {rotated[0]} x {rotated[1]}"
            )
    except UNREADABLE as error:
        found.problem = f"{name_of(current, row)}: {explain(error, current)}"
    return found


def is_deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits a pixel and channel."""
    return image.mode.startswith("I") or image.mode == "F"


def reduce_depth(image: Image.Image, value_range: tuple[float, float]) -> Image.Image:
    """8 bits: the values of `value_range` become 0 and 255, those beyond them are cut off."""
    low, high = value_range
    values = (np.asarray(image, dtype=np.float64) - low) / (high - low)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def _tell_values(image: Image.Image) -> str:
    values = np.asarray(image)
    low, high = np.percentile(values, (0.5, 99.5))
    return f"{values.min():g} to {values.max():g} (99% of them {low:.4g} to {high:.4g})"


def check_lossless(mask: Image.Image) -> None:
    """Raise `ValueError` for a mask in a format that changes pixels: an id that drifts may be another label's."""
    is_webp = mask.format == "WEBP" and b"VP8 " in _head_of(mask)
    if is_webp or mask.format in ("JPEG", "MPO", "JPEG2000"):
        raise ValueError(f"the mask is a lossy {mask.format}, whose pixels are no longer the ids drawn; use PNG")


def _head_of(image: Image.Image) -> bytes:
    """The first bytes of an opened picture's file, which stays where it is read."""
    file: Any = getattr(image, "fp", None)
    if file is None:
        return b""
    place = file.tell()
    file.seek(0)
    head = file.read(64)
    file.seek(place)
    return head


def raise_problems(where: str, problems: list[str], total: int) -> None:
    """One `ValueError` that lists the first problems and counts all; nothing if there are none."""
    if not problems:
        return
    lines = "\n".join(f"  {problem}" for problem in problems[:LISTED])
    more = f"\n  ... and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    raise ValueError(
        f"{where} has {len(problems)} broken of {total} records:\n{lines}{more}\n"
        f"Repair or remove them, or write a clean copy with `seggen doctor SOURCE --fix FOLDER`."
    )


def read_orientation(image: Image.Image, loaded: bool = True) -> int:
    """EXIF orientation 1..8. A PNG may carry it behind its pixels: only found if it may be `loaded`."""
    if not loaded and image.format == "PNG" and "exif" not in image.info:
        return 1
    orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def turn_upright(mask: Image.Image) -> Image.Image:
    """EXIF orientation applied; the same object, format included, where there is none."""
    return ImageOps.exif_transpose(mask) if mask.getexif().get(ORIENTATION, 1) != 1 else mask


def fingerprint_of(content) -> str:
    """A digest of JSON values, equal in every process; far faster than `datasets`' own on long lists."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def drop_exif(value: dict) -> dict:
    """The image's bytes without EXIF: JPEG loses its APP1 segments and no pixel, other formats become PNG."""
    data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    path = value["path"] or "image.jpg"
    if data[:2] != b"\xff\xd8":
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            plain = Image.frombytes(image.mode, image.size, image.tobytes())
            if image.palette is not None:
                plain.putpalette(image.palette)
        buffer = io.BytesIO()
        plain.save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": str(Path(path).with_suffix(".png"))}
    kept, position = [data[:2]], 2
    while data[position] == 0xFF and data[position + 1] not in (0xDA, 0xD9):  # until the scan starts
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] != 0xE1:
            kept.append(data[position:end])
        position = end
    return {"bytes": b"".join(kept) + data[position:], "path": path}


def name_of(value: dict | None, row: dict) -> str:
    """The file of an undecoded image, or the record's id where it has none."""
    path = value.get("path") if value else None
    return path if value and path and value.get("bytes") is None else f"record {row['image_id']}"


def explain(error: Exception, value: dict | None) -> str:
    """A reason a person understands for what PIL raised."""
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "its name is too long for the file system"
    if not value or (value.get("bytes") is None and not value.get("path")):
        return str(error)
    if value.get("bytes") is None and not os.path.isfile(value["path"]):
        return "it is no file, but a pipe, a device or a folder"
    size = len(value["bytes"]) if value.get("bytes") is not None else os.path.getsize(value["path"])
    if size == 0:
        return "the file is empty"
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        return (
            f"it has more than {most} megapixels; if the file is to be trusted, allow them with data.max_megapixels "
            f"(--max_megapixels), and cut it into tiles with data.tiles"
        )
    if isinstance(error, Image.UnidentifiedImageError):
        return "the file is not an image that PIL can read"
    return str(error)


def _count(mask: Image.Image, decoder: MapDecoder, segments_info) -> np.ndarray:
    if decoder.keeps(mask) and mask.mode == "L":
        histogram = np.array(mask.histogram(), np.int64)  # far cheaper than decoding
        if histogram[decoder.num_labels : decoder.ignore_index].sum() == 0:
            return np.append(histogram[: decoder.num_labels], histogram[decoder.ignore_index])
    labels = decoder.decode(mask, segments_info)
    counts = np.bincount(labels.ravel(), minlength=decoder.ignore_index + 1)
    return np.append(counts[: decoder.num_labels], counts[decoder.ignore_index])
