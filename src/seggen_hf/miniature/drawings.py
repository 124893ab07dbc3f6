"""Flat drawings of random shapes: what color maps look like, without the labels of any data set."""

import numpy as np
from PIL import Image, ImageDraw

DRAWING_CAPTION = "a flat drawing of colored shapes"


def _distinct_colors(rng: np.random.Generator, count: int, least_distance: float) -> np.ndarray:
    colors = rng.integers(0, 256, (1, 3))
    while len(colors) < count:
        candidates = rng.integers(0, 256, (64, 3))
        distances = np.linalg.norm(candidates[:, None] - colors[None], axis=-1).min(1)
        best = int(distances.argmax())
        if distances[best] < least_distance:
            least_distance *= 0.9
        else:
            colors = np.concatenate([colors, candidates[best : best + 1]])
    return colors


def draw_shapes(
    rng: np.random.Generator, size: tuple[int, int] = (64, 64), palette: np.ndarray | None = None
) -> np.ndarray:
    """A drawing of uniformly colored regions with hard edges: bands, and shapes from large to small upon them.

    Args:
        rng (`np.random.Generator`): every random choice follows from it.
        size (`tuple[int, int]`): height and width in pixels.
        palette (`np.ndarray`, optional): uint8 `(N, 3)` to choose the colors from; default: any colors far apart.

    Returns: uint8 `(height, width, 3)`.
    """
    height, width = size
    count = int(rng.integers(4, 12))
    if palette is None:
        colors = _distinct_colors(rng, count, 70.0)
    else:
        colors = palette[rng.permutation(len(palette))[:count]]
    colors = [tuple(int(v) for v in c) for c in colors]
    pick = lambda: colors[int(rng.integers(len(colors)))]  # noqa: E731
    image = Image.new("RGB", (width, height), pick())
    draw = ImageDraw.Draw(image)
    columns = np.linspace(0, width, 9)
    for level in np.sort(rng.uniform(0.15, 0.95, int(rng.integers(0, 4)))):
        slope, waves = rng.uniform(-0.15, 0.15), rng.normal(0, 0.04, 9) * (rng.random() < 0.5)
        rows = (level + slope * np.linspace(-0.5, 0.5, 9) + waves) * height
        draw.polygon([*zip(columns, rows, strict=True), (width, height), (0, height)], fill=pick())
    for extent in np.sort(rng.uniform(0.04, 0.5, int(rng.integers(2, 11))) ** 1.5)[::-1]:
        x, y = rng.uniform(0, width), rng.uniform(0.1 * height, height)
        w, h = extent * width * rng.uniform(0.5, 1.6), extent * height * rng.uniform(0.5, 1.6)
        w, h = max(w, 2.0), max(h, 2.0)
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        kind = int(rng.integers(5))
        if kind == 0:
            draw.ellipse(box, fill=pick())
        elif kind == 1:
            draw.rectangle(box, fill=pick())
        elif kind == 2:
            draw.polygon([(x, box[1]), (box[2], box[3]), (box[0], box[3])], fill=pick())
        elif kind == 3:
            angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
            radii = rng.uniform(0.3, 0.7, 7)
            points = zip(x + w * radii * np.cos(angles), y + h * radii * np.sin(angles), strict=True)
            draw.polygon(list(points), fill=pick())
        else:  # a crown on a stem: thin parts under thick ones
            color, stem = pick(), max(1.0, w * 0.12)
            draw.rectangle((x - stem, y, x + stem, box[3]), fill=color)
            draw.ellipse((box[0], box[1], box[2], y + h * 0.2), fill=color)
    return np.asarray(image)
