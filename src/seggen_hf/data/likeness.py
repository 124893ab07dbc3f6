"""Images of two splits that are one picture: stored in another format, compressed once more, or copied.

A score on a picture that was trained on is no score. Pictures are compared as thumbnails first, since decoding all of
them whole takes long, and pairs that are near as whole pictures.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image, ImageOps

from .schema import open_image
from .sources.checks import UNREADABLE

SIDE = 16  # of a thumbnail
# How far compression moves a picture, as a share of its own contrast (the deviation of its pixels). Thumbnails of the
# scenes as JPEG of quality 60: 0.13 at most; the nearest of CamVid's frames, a second apart: 0.38.
NEAR = 0.14
NEAR_WHOLE = 0.2  # of whole pictures, whose edges it blurs: 0.19 at most
_CHUNK = 512


@dataclass
class Pair:
    """Two rows, and how far apart their pictures are: mean absolute difference of the pixels, of 255."""

    first: int
    second: int
    difference: float


def thumbnails(rows: Dataset) -> np.ndarray:
    """Float32 `(N, 16 * 16 * 3)` of the upright images, each with mean 0 and unit deviation; NaN for one that cannot
    be read or has no contrast, of which nothing can be said."""
    images = rows.select_columns("image")
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(lambda index: _thumbnail(images[index]["image"]), range(len(images))))
    return np.stack(found) if found else np.empty((0, SIDE * SIDE * 3), np.float32)


def _thumbnail(value) -> np.ndarray:
    lacking = np.full(SIDE * SIDE * 3, np.nan, np.float32)
    try:
        with open_image(value) as image:
            image.draft("RGB", (4 * SIDE, 4 * SIDE))  # JPEG: a scaled decoding
            small = ImageOps.exif_transpose(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    except UNREADABLE:
        return lacking
    pixels = np.asarray(small, np.float32).ravel()
    deviation = pixels.std()
    return (pixels - pixels.mean()) / deviation if deviation > 2 else lacking


def find_pairs(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """Rows of two sets of thumbnails that may be one picture: for each of `second` the nearest, if it is near."""
    places, distances = nearest(first, second)
    return [(int(places[row]), int(row)) for row in np.flatnonzero(distances < NEAR)]


def nearest(first: np.ndarray, second: np.ndarray, others_only: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """For each of `second` the row of `first` that is nearest to it, int64, and its distance as a share of their
    contrast, float64; infinite where nothing can be said.

    Args:
        first, second: `thumbnails`.
        others_only: both are the same, and none is its own neighbour.
    """
    usable = np.flatnonzero(np.isfinite(first[:, 0])) if len(first) else np.empty(0, np.int64)
    places, distances = np.zeros(len(second), np.int64), np.full(len(second), np.inf)
    for start in range(0, len(second) if len(usable) else 0, _CHUNK):
        part = second[start : start + _CHUNK]
        # Of unit vectors the squared distance is 2 - 2 cos.
        likeness = part @ first[usable].T / first.shape[1]
        if others_only:
            likeness[usable[None] == np.arange(start, start + len(part))[:, None]] = np.nan
        likeness = np.nan_to_num(likeness, nan=-np.inf)
        rows = slice(start, start + len(part))
        places[rows] = usable[likeness.argmax(1)]
        distances[rows] = np.sqrt(np.maximum(2 - 2 * likeness.max(1), 0))
    return places, distances


def compare(first: Dataset, second: Dataset, pairs: Sequence[tuple[int, int]]) -> list[Pair]:
    """The pairs whose whole pictures, at the smaller one's size, differ by less than their compression may explain."""
    found = []
    for one, other in pairs:
        pictures = [_pixels(first[one]["image"]), _pixels(second[other]["image"])]
        size = min((picture.size for picture in pictures), key=lambda s: s[0] * s[1])
        arrays = [np.asarray(picture.resize(size), np.float32) for picture in pictures]
        difference = float(np.abs(arrays[0] - arrays[1]).mean())
        if difference <= NEAR_WHOLE * float(arrays[0].std()):
            found.append(Pair(one, other, difference))
    return found


def _pixels(value) -> Image.Image:
    with open_image(value) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def digest_image(value: dict | None) -> str:
    """Digest of an image's file; "" where there is none, or nothing in it."""
    if not value or (value["bytes"] is None and not value["path"]):
        return ""
    try:
        data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    except OSError:
        return ""
    return hashlib.sha1(data).hexdigest() if data else ""
