"""Paired geometry and photometric augmentation: bilinear for images, nearest for maps, never the reverse.

Images are uint8 arrays `(height, width, 3)`, segmentation maps integer arrays `(height, width)` of the same height and
width; sizes are `(height, width)`. Every random draw comes from the `np.random.Generator` that is passed in, and each
function draws the same amount whatever the outcome, so that one setting does not shift the draws of the next.
"""

import numpy as np
from PIL import Image

STYLES = ("night", "fog", "tint", "snow")


def flip_pair(image: np.ndarray, segmentation_map: np.ndarray, rng=None, probability: float = 0.5):
    """Mirror both left to right: always, or with `probability` if an `rng` is given."""
    _check_pair(image, segmentation_map)
    if rng is not None and rng.random() >= probability:
        return image, segmentation_map
    return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(segmentation_map[:, ::-1])


def crop_pair(
    image: np.ndarray,
    segmentation_map: np.ndarray,
    top: int,
    left: int,
    height: int,
    width: int,
    ignore_index: int = 255,
):
    """Cut the window at (`top`, `left`); what lies outside is the image's mean color and `ignore_index`."""
    _check_pair(image, segmentation_map)
    rows, columns = segmentation_map.shape
    y0, y1, x0, x1 = max(top, 0), min(top + height, rows), max(left, 0), min(left + width, columns)
    if (y0, y1, x0, x1) == (top, top + height, left, left + width):
        return image[y0:y1, x0:x1].copy(), segmentation_map[y0:y1, x0:x1].copy()
    out_image, out_map = _canvas(image, segmentation_map.dtype, (height, width), ignore_index)
    if y1 > y0 and x1 > x0:
        window = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        out_image[window] = image[y0:y1, x0:x1]
        out_map[window] = segmentation_map[y0:y1, x0:x1]
    return out_image, out_map


def random_zoom_crop(
    image: np.ndarray,
    segmentation_map: np.ndarray,
    size: tuple[int, int],
    max_zoom: float,
    rng: np.random.Generator,
):
    """Scale both until they cover `size`, times a zoom drawn from [1, max_zoom], and cut a random window of `size`.

    Returns: image, segmentation_map and the facts that SDXL is conditioned on: `original_size` (height, width) of the
    input, and `crop_top_left` (top, left) of the window in pixels of the scaled image, as in SDXL's training.
    """
    if max_zoom < 1:
        raise ValueError(f"max_zoom is {max_zoom}; it must be at least 1.")
    zoom, vertical, horizontal = 1 + (max_zoom - 1) * rng.random(), rng.random(), rng.random()
    return cover_crop(image, segmentation_map, size, zoom, (vertical, horizontal))


def cover_crop(
    image: np.ndarray,
    segmentation_map: np.ndarray,
    size: tuple[int, int],
    zoom: float = 1.0,
    place: tuple[float, float] = (0.5, 0.5),
):
    """`random_zoom_crop` at a given zoom and place: the share of the way that the window has gone from the top and
    from the left, in [0, 1]. With zoom 1 a pair of the aspect of `size` is resized whole."""
    _check_pair(image, segmentation_map)
    top, left, height, width = _cover_window(segmentation_map.shape, size, zoom, place)
    facts = {
        "original_size": segmentation_map.shape,
        "crop_top_left": (round(top * size[0] / height), round(left * size[1] / width)),
    }
    image, segmentation_map = _resample(image, segmentation_map, (top, left, top + height, left + width), size)
    return image, segmentation_map, facts


def place_of(seed: int) -> tuple[float, float]:
    """Where the window of a synthetic sample lies in the map that it was drawn for: `place` of `cover_crop_map`."""
    y, x = np.random.default_rng(seed).random(2)
    return y, x


def cover_crop_map(
    segmentation_map: np.ndarray, size: tuple[int, int], place: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """The map of `cover_crop` at zoom 1, where there is no image."""
    top, left, height, width = _cover_window(segmentation_map.shape, size, 1.0, place)
    return _resample_map(segmentation_map, (top, left, top + height, left + width), size)


def _cover_window(shape, size, zoom, place) -> tuple[float, float, float, float]:
    """Top, left, height and width in source pixels. The sides are exact where the window is the whole pair."""
    rows, columns = shape
    height, width = min(rows, columns * size[0] / size[1]) / zoom, min(columns, rows * size[1] / size[0]) / zoom
    return (rows - height) * place[0], (columns - width) * place[1], height, width


def large_scale_jitter(
    image: np.ndarray,
    segmentation_map: np.ndarray,
    min_scale: float,
    max_scale: float,
    crop_size: tuple[int, int],
    rng: np.random.Generator,
    ignore_index: int = 255,
    scale_reference: str = "cover",
):
    """Mask2Former's scale jitter: both at a drawn scale, then a random crop of `crop_size`.

    At scale 1 the pair just covers the crop (detectron2's ResizeShortestEdge with sizes 0.5 to 2 times the crop, as in
    Base-ADE20K-SemanticSegmentation.yaml), or, with `scale_reference` "fit", just fits into it (ResizeScale with 0.1
    to 2.0, of Mask2Former's COCO configurations). A pair smaller than the crop lies at its top left; the rest is
    padded with the image's mean color and `ignore_index`.
    """
    _check_pair(image, segmentation_map)
    if not 0 < min_scale <= max_scale:
        raise ValueError(f"min_scale and max_scale are {min_scale} and {max_scale}; they must be positive, in order.")
    factor, vertical, horizontal = rng.uniform(min_scale, max_scale), rng.random(), rng.random()
    rows, columns = segmentation_map.shape
    scale = factor * {"cover": max, "fit": min}[scale_reference](crop_size[0] / rows, crop_size[1] / columns)
    scaled = (max(round(rows * scale), 1), max(round(columns * scale), 1))
    size = (min(scaled[0], crop_size[0]), min(scaled[1], crop_size[1]))
    top, left = (scaled[0] - size[0]) * vertical, (scaled[1] - size[1]) * horizontal
    y, x = rows / scaled[0], columns / scaled[1]  # source pixels per scaled pixel
    part = _resample(image, segmentation_map, (top * y, left * x, (top + size[0]) * y, (left + size[1]) * x), size)
    if size == tuple(crop_size):
        return part
    out_image, out_map = _canvas(image, segmentation_map.dtype, crop_size, ignore_index)
    out_image[: size[0], : size[1]], out_map[: size[0], : size[1]] = part
    return out_image, out_map


def color_jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each half of the time (detectron2's ColorAugSSDTransform).

    Args:
        strength (`float`): 0 changes nothing; 0.5 is Mask2Former's setting: brightness +-32 grey levels, contrast and
            saturation 0.5 to 1.5, hue +-36 degrees; the ranges grow with it.
    """
    applied = rng.random(4) < 0.5
    brightness, contrast, saturation, hue = rng.uniform(-1, 1, 4) * strength * applied
    contrast_last = rng.random() < 0.5
    if not applied.any() or strength == 0:
        return image
    levels = np.arange(256, dtype=np.float32)
    brightened = levels + 64 * brightness
    contrasted = np.clip(brightened * (1 + contrast), 0, 255) if not contrast_last else np.clip(brightened, 0, 255)
    picture = Image.fromarray(image).point(np.rint(contrasted).astype(int).tolist() * 3)
    if applied[2] or applied[3]:
        shifted = (levels + 256 * hue * 72 / 360) % 256
        saturated = np.clip(levels * (1 + saturation), 0, 255)
        table = np.concatenate([np.floor(shifted), np.rint(saturated), levels]).astype(int).tolist()
        picture = picture.convert("HSV").point(table).convert("RGB")
    if contrast_last:
        picture = picture.point(np.rint(np.clip(levels * (1 + contrast), 0, 255)).astype(int).tolist() * 3)
    return np.array(picture)


def style_augment(
    image: np.ndarray, rng: np.random.Generator, styles: tuple[str, ...] = STYLES, probability: float = 0.6
) -> np.ndarray:
    """Repaint an image, with `probability`, in a hand-made style: the control that synthetic styles have to beat.

    Night darkens, cools and adds sensor noise; fog fades to a haze that thickens upwards; tint casts a color and bends
    the tone curve; snow whitens, cools and lets flakes fall. The 0.6 equals the share of synthetic samples (p_aug).
    """
    unknown = sorted(set(styles) - set(_PAINTERS))
    if unknown:
        raise ValueError(f"There is no style {unknown[0]!r}; there are {', '.join(_PAINTERS)}.")
    chosen, style = rng.random() < probability, styles[rng.integers(len(styles))]
    if not chosen:
        return image
    painted = _PAINTERS[style](image.astype(np.float32) / 255, rng)
    return np.rint(np.clip(painted, 0, 1) * 255).astype(np.uint8)


def _night(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grey = image.mean(axis=2, keepdims=True)
    muted = grey + (image - grey) * rng.uniform(0.3, 0.8)
    dark = muted ** rng.uniform(1.0, 1.5) * rng.uniform(0.22, 0.55)
    sky = np.array([rng.uniform(0.5, 0.9), rng.uniform(0.6, 0.95), rng.uniform(1.0, 1.5)], np.float32)
    lift = np.array([0.01, 0.015, 0.05], np.float32) * rng.uniform(0, 2)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0, 0.03)
    return dark * sky + lift + noise


def _fog(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    haze = rng.uniform(0.65, 0.92) + rng.uniform(-0.03, 0.05, 3).astype(np.float32)
    top, bottom = rng.uniform(0.55, 0.95), rng.uniform(0.15, 0.6)
    density = np.linspace(top, min(bottom, top), image.shape[0], dtype=np.float32)[:, None]
    density = np.clip(density + rng.uniform(0, 0.15) * clouds(image.shape[:2], rng), 0, 1)[..., None]
    return image * (1 - density) + haze * density


def _tint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cast = rng.uniform(0.65, 1.25, 3).astype(np.float32)
    tone = rng.uniform(0.6, 1.7)
    blend = rng.uniform(0, 0.3)
    return (1 - blend) * image**tone * cast + blend * rng.uniform(0, 1, 3).astype(np.float32)


def _snow(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    grey = image.mean(axis=2, keepdims=True)
    faded = grey + (image - grey) * rng.uniform(0.25, 0.7)
    cover = rng.uniform(0.1, 0.5) * (0.5 + 0.5 * np.linspace(0, 1, height, dtype=np.float32)[:, None, None])
    cover = np.clip(cover * (1 + 0.6 * clouds((height, width), rng)[..., None]), 0, 1)
    cold = np.array([0.92, 0.96, 1.0], np.float32)
    painted = faded * (1 - cover) + cold * cover
    # Flakes are drawn on two grids, near (large) and far (small), each flake one cell of its grid.
    for cell, share in ((max(round(height / 64), 1), 0.025), (max(round(height / 32), 2), 0.008)):
        rows, columns = -(-height // cell), -(-width // cell)
        flakes = (rng.random((rows, columns)) < share * rng.uniform(0.3, 1.5)) * rng.uniform(0.5, 1.0)
        flakes = np.repeat(np.repeat(flakes.astype(np.float32), cell, 0), cell, 1)[:height, :width, None]
        painted = painted * (1 - flakes) + flakes
    return painted


_PAINTERS = {"night": _night, "fog": _fog, "tint": _tint, "snow": _snow}


def clouds(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in about [-1, 1], float32 of `size`: a 4 x 4 grid, enlarged bicubically."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (4, 4)).astype(np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _check_pair(image: np.ndarray, segmentation_map: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"An image is (height, width, 3) uint8; this is {image.shape} {image.dtype}.")
    if segmentation_map.shape != image.shape[:2]:
        raise ValueError(f"The map is {segmentation_map.shape} and its image {image.shape[:2]}; they must be equal.")


def _resample(image: np.ndarray, segmentation_map: np.ndarray, box: tuple, size: tuple[int, int]):
    """Both within `box` (top, left, bottom, right; source pixels, fractions allowed), at `size`.

    The map takes the source pixel under each target pixel's centre, the same grid that the image is filtered on.
    """
    top, left, bottom, right = _clip_box(box, segmentation_map.shape)
    if (top, left, bottom, right) == (0, 0, *size) and segmentation_map.shape == tuple(size):
        return image.copy(), segmentation_map.copy()
    resized = Image.fromarray(image).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    return np.array(resized), _resample_map(segmentation_map, box, size)


def _resample_map(segmentation_map: np.ndarray, box: tuple, size: tuple[int, int]) -> np.ndarray:
    rows, columns = segmentation_map.shape
    top, left, bottom, right = _clip_box(box, segmentation_map.shape)
    ys = np.floor(top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(np.intp).clip(0, rows - 1)
    xs = np.floor(left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(np.intp).clip(0, columns - 1)
    return segmentation_map[ys[:, None], xs]


def _clip_box(box: tuple, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], shape[0]), min(box[3], shape[1])


def _canvas(image: np.ndarray, dtype, size: tuple[int, int], ignore_index: int):
    """An image of the mean color of `image`, and a map of `ignore_index`."""
    mean = np.rint(image.mean(axis=(0, 1))).astype(np.uint8)
    return np.full((*size, 3), mean, np.uint8), np.full(size, ignore_index, dtype)
