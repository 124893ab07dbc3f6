"""Pictures in rows on one canvas."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..storage.files import save_image


def lay_out(rows: Sequence[Sequence[Image.Image]], gap: int, margin: int = 0) -> Image.Image:
    """Paste pictures of any sizes on white, one row under the other; columns are as wide as their widest picture.

    Args:
        gap: pixels between pictures; `margin`: around all of them.
    """
    columns = itertools.zip_longest(*rows)
    widths = [max(picture.width for picture in column if picture is not None) for column in columns]
    heights = [max(picture.height for picture in row) for row in rows]
    lefts, tops = (
        [margin + start + gap * i for i, start in enumerate(itertools.accumulate(sides, initial=0))]
        for sides in (widths, heights)
    )
    canvas = Image.new("RGB", (lefts[-1] - gap + margin, tops[-1] - gap + margin), "white")
    for row, top in zip(rows, tops, strict=False):
        for picture, left in zip(row, lefts, strict=False):
            canvas.paste(picture, (left, top))
    return canvas


def save_grid(rows: Sequence[Sequence[np.ndarray]], path: Path, gap: int = 2) -> None:
    """Write RGB pictures `(height, width, 3)` uint8 as one PNG, a list a row, whole or not at all."""
    save_image(lay_out([[Image.fromarray(np.asarray(picture)) for picture in row] for row in rows], gap), path)
