"""How pictures are shown on the page: large."""

import numpy as np

SHOWN = 448  # least side in pixels of a picture on the page; small maps are magnified by a whole number


def magnification(height: int, width: int) -> int:
    """By how much a picture is magnified on the page."""
    return max(1, -(-SHOWN // max(height, width)))


def magnify(rgb: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` with each pixel as a square, so that a browser does not blur its labels."""
    factor = magnification(*rgb.shape[:2])
    return rgb.repeat(factor, axis=0).repeat(factor, axis=1)
