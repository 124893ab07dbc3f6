"""What is done to a map with a click, and how a map is shown: large, and with a legend."""

import html

import numpy as np
from scipy import ndimage

from seggen_hf.pipelines import ColormapCodec

SHOWN = 448  # least side in pixels of a picture on the page; small maps are magnified by a whole number


def paint_region(segmentation_map: np.ndarray, row: int, column: int, label: int) -> np.ndarray:
    """A copy of a map `(H, W)` in which the connected region of one label around a pixel has another `label`.

    Pixels that touch by a side are connected, as in `ColormapCodec.decode`.
    """
    regions, _ = ndimage.label(segmentation_map == segmentation_map[row, column])
    return np.where(regions == regions[row, column], label, segmentation_map).astype(segmentation_map.dtype)


def paint_disc(segmentation_map: np.ndarray, row: int, column: int, label: int, radius: float) -> np.ndarray:
    """A copy of a map `(H, W)` with a disc of `label`; `radius` in pixels of the map, 0 for the one pixel."""
    rows, columns = np.ogrid[: segmentation_map.shape[0], : segmentation_map.shape[1]]
    inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return np.where(inside, label, segmentation_map).astype(segmentation_map.dtype)


def magnification(height: int, width: int) -> int:
    """By how much a picture is magnified on the page."""
    return max(1, -(-SHOWN // max(height, width)))


def magnify(rgb: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` with each pixel as a square, so that a browser does not blur its labels."""
    factor = magnification(*rgb.shape[:2])
    return rgb.repeat(factor, axis=0).repeat(factor, axis=1)


def legend(segmentation_map: np.ndarray, codec: ColormapCodec) -> str:
    """HTML: color, name and share of each label in a map, the largest first. Names are escaped."""
    ids, counts = np.unique(segmentation_map, return_counts=True)
    lines = []
    for label, count in sorted(zip(ids.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]):
        color = "#{:02x}{:02x}{:02x}".format(*codec.encode(np.array([[label]]))[0, 0])
        name = html.escape(codec.id2label.get(label, "void"))
        swatch = f'<span class="seggen-swatch" style="background:{color}"></span>'
        share = count / segmentation_map.size
        told = f"{share:.0%}" if share >= 0.01 else "&lt;1%"
        lines.append(f"<li>{swatch}{name} <small>{told}</small></li>")
    return f'<ul class="seggen-legend">{"".join(lines)}</ul>'
