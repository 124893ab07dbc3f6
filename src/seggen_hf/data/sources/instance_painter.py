"""From the annotations of a COCO image to one panoptic map: polygons and RLE, checked before they are decoded.

pycocotools trusts what it is given: counts that do not add up read memory that was never written, and coordinates that
are no numbers or lie far away end the process.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from .coco_json import CocoImage, Notes, size_of

PASSED_OVER = "{} annotations are passed over: "
FAR = 10  # times the longer side of the image


class Unreadable(ValueError):
    """An annotation from which no mask can be made, with the reason."""


class InstancePainter:
    """Args: label_of: category id -> label id; background: label of what no annotation covers; things: label ids."""

    def __init__(self, label_of: Mapping[int, int], background: int, things: set[int]):
        self.label_of, self.background, self.things = label_of, background, things

    def paint(self, image: CocoImage, annotations: list[dict], notes: Notes) -> tuple[np.ndarray, list[dict]]:
        """int32 `(height, width)`, ids from 1 and 0 for void; and segments_info without measures.

        An annotation without a mask that can be read is passed over, with a note. If it has a box, what is in the box
        and in no other mask is void: something is there, and where its pixels lie is not known.

        Raises: `ValueError` for an image whose size is not known.
        """
        height, width = size_of(image, notes)
        found, void = [], np.zeros((height, width), bool)
        for place, annotation in enumerate(annotations):
            try:
                rle = read_mask(annotation.get("segmentation"), height, width)
            except Unreadable as error:
                notes.add(f"{PASSED_OVER}{error}", f"annotation {annotation.get('id')} of {image.name}")
                _mark_box(void, annotation.get("bbox"))
                continue
            if rle is None:
                reason = "they cover no pixel of their image"
                notes.add(f"{PASSED_OVER}{reason}", f"annotation {annotation.get('id')} of {image.name}")
                continue
            crowd = annotation.get("iscrowd") in (1, True, "1")
            found.append((not crowd, -int(mask_utils.area(rle)), place, annotation["category_id"], rle))
        panoptic_map, segments = np.zeros((height, width), np.int32), []
        # Masks are decoded one at a time: of an image of 12 megapixels each takes 12 MB.
        for single, _, _, category, rle in sorted(found, key=lambda entry: entry[:3]):
            label = self.label_of[category]
            if label == self.background:
                continue
            segments.append({"id": len(segments) + 1, "category_id": label, "iscrowd": not single})
            panoptic_map[mask_utils.decode(rle).astype(bool)] = segments[-1]["id"]
        left = (panoptic_map == 0) & ~void
        if left.any():
            segments.append({"id": len(segments) + 1, "category_id": self.background, "iscrowd": False})
            panoptic_map[left] = segments[-1]["id"]
        present = set(np.unique(panoptic_map).tolist())
        kept = [segment for segment in segments if segment["id"] in present]
        more = {"area": 0, "bbox": []}  # measured where the map is read
        return panoptic_map, [s | {"isthing": s["category_id"] in self.things} | more for s in kept]


def read_mask(segmentation: Any, height: int, width: int) -> Any:
    """A COCO `segmentation` (polygons, or RLE as text or as counts) as a compressed RLE; None if it covers no pixel.

    Of several polygons those of fewer than three points cover nothing, and the others count. A single polygon may
    stand without the list around it.

    Returns: what `pycocotools.mask` takes, whose own type is private.
    Raises: `Unreadable`.
    """
    if not segmentation:
        raise Unreadable("they have no segmentation")
    if isinstance(segmentation, Mapping):
        rle = _read_rle(segmentation, height, width)
    else:
        rle = _read_polygons(segmentation, height, width)
    return rle if rle is not None and mask_utils.area(rle) else None


def _read_polygons(polygons: Any, height: int, width: int) -> Any:
    if not isinstance(polygons, (list, tuple)):
        raise Unreadable("their segmentation is neither polygons nor an RLE")
    if all(isinstance(value, (int, float)) for value in polygons):
        polygons = [polygons]
    kept = []
    for polygon in polygons:
        if not isinstance(polygon, (list, tuple)) or not all(type(value) in (int, float) for value in polygon):
            raise Unreadable("a coordinate is no number")
        if not all(map(math.isfinite, polygon)):
            raise Unreadable("a coordinate is NaN or infinite")
        if len(polygon) % 2:
            raise Unreadable("a polygon has an x without a y")
        if any(abs(value) > FAR * max(height, width) for value in polygon):
            raise Unreadable("a coordinate lies far outside the image")
        if len(polygon) >= 6:
            kept.append([float(value) for value in polygon])
    return mask_utils.merge(mask_utils.frPyObjects(kept, height, width)) if kept else None


def _read_rle(rle: Mapping, height: int, width: int) -> Any:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise Unreadable("the size of their RLE is not that of the image")
    if isinstance(counts, (str, bytes)):
        try:
            text = counts.encode("ascii") if isinstance(counts, str) else counts
            numbers = rle_counts(text)
        except (UnicodeEncodeError, ValueError):
            raise Unreadable("the text of their RLE is none") from None
    elif isinstance(counts, (list, tuple)) and all(type(count) is int for count in counts):
        numbers = np.array(counts, np.float64)  # no overflow, whatever is written there
        text = None
    else:
        raise Unreadable("the counts of their RLE are no whole numbers")
    if (numbers < 0).any() or numbers.sum() != height * width:
        raise Unreadable("the counts of their RLE do not add up to its pixels")
    if text is None:
        given: Any = {"size": [height, width], "counts": list(counts)}  # a form that its types do not tell
        return mask_utils.frPyObjects(given, height, width)
    return {"size": [height, width], "counts": text}


def rle_counts(text: bytes) -> np.ndarray:
    """The counts of a compressed RLE, int64 `(N,)`: 5 bits a byte from 48 on, the sixth says that more follow; from
    the fourth on each is the difference to the one before the last (`rleFrString` of pycocotools).

    Raises: `ValueError` for text that is none.
    """
    values = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if len(values) == 0 or (values < 0).any() or (values > 63).any():
        raise ValueError("not the text of an RLE")
    ends = (values & 32) == 0
    if not ends[-1]:
        raise ValueError("the text of an RLE breaks off")
    numbers = np.concatenate([[0], np.cumsum(ends)[:-1]])
    starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])
    places = np.arange(len(values)) - starts[numbers]
    if places.max() > 6:  # 35 bits are more than an image has pixels
        raise ValueError("a count of an RLE is too large")
    counts = np.zeros(len(starts), np.int64)
    np.add.at(counts, numbers, (values & 31) << (5 * places))
    last = np.flatnonzero(ends)
    counts -= np.where(values[last] & 16, np.int64(1) << (5 * (places[last] + 1)), 0)  # negative: the sign is extended
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def _mark_box(void: np.ndarray, box: Any) -> None:
    """Set what lies in a COCO box `[x, y, width, height]`, if it is one."""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return
    if not all(type(value) in (int, float) and math.isfinite(value) for value in box):
        return
    x, y, width, height = box
    rows, columns = void.shape
    top, bottom = (int(min(max(value, 0), rows)) for value in (math.floor(y), math.ceil(y + height)))
    left, right = (int(min(max(value, 0), columns)) for value in (math.floor(x), math.ceil(x + width)))
    void[top:bottom, left:right] = True
