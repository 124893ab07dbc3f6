"""What a template can say of a picture without any model: how light it is, of which color, and how many things it has.

Captions that differ by it tell a generator kinds of pictures apart that show the same classes: fluorescence from
stained slides, night from day.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

LIGHTS = ((64, "dark"), (128, "dim"), (192, "light"), (math.inf, "bright"))  # mean luma of 255 below which it is so
HUES = (
    (15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (195, "cyan"), (255, "blue"), (290, "purple"),
    (345, "pink"), (360, "red"),
)  # fmt: skip
GRAY_CHROMA = 12.0  # of 255: a mean color of less is no color
COUNTS = ((1, "one"), (4, "a few"), (9, "several"), (29, "many"), (math.inf, "crowded"))  # things up to that many


def describe_look(image: np.ndarray, attributes: Sequence[str]) -> str:
    """The look of a picture in a word or two, "dark gray": light by its mean luma (BT.601), color by its mean.

    Args:
        image: uint8 RGB `(height, width, 3)`.
        attributes: out of `LOOKS` of the settings; `density` is none of an image.
    """
    red, green, blue = np.asarray(image, np.float64).reshape(-1, 3).mean(0)
    words = []
    if "light" in attributes:
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        words.append(next(word for limit, word in LIGHTS if luma < limit))
    if "color" in attributes:
        words.append(_color_name(red, green, blue))
    return " ".join(words)


def _color_name(red: float, green: float, blue: float) -> str:
    if max(red, green, blue) - min(red, green, blue) < GRAY_CHROMA:
        return "gray"
    hue = math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    return next(name for limit, name in HUES if hue < limit)


def count_words(segments_info: Sequence[Mapping]) -> dict[int, str]:
    """`{label id: how many things of it there are}`, in a word; crowds count as many things as a few do not."""
    counts: Counter[int] = Counter()
    for segment in segments_info:
        if segment["isthing"]:
            counts[segment["category_id"]] += COUNTS[1][0] + 1 if segment.get("iscrowd") else 1
    return {label: next(word for most, word in COUNTS if count <= most) for label, count in counts.items()}
