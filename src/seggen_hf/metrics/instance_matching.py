"""Which predicted instances match which true ones: COCOeval's rules, all thresholds and area ranges at once."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from scipy import ndimage

RLE = Any  # a dict with size and counts; pycocotools has a type of it that cannot be imported
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # all, small, medium, large; pixels


def to_rle(mask) -> RLE:
    """COCO's compressed RLE of a bool mask `(height, width)`; one that is RLE already is given back."""
    if isinstance(mask, dict):
        return mask
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "bu":
        raise ValueError(f"A mask is (height, width) bool or COCO's RLE, not {mask.shape} {mask.dtype}.")
    return mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))


def plain_rle(mask) -> dict:
    """`to_rle` as JSON values."""
    rle = to_rle(mask)
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_iou(pred: Sequence[RLE], target: Sequence[RLE], is_crowd: np.ndarray) -> np.ndarray:
    """IoU `(predictions, targets)` of RLE masks; against a crowd the share of the prediction inside it."""
    if not len(pred) or not len(target):
        return np.zeros((len(pred), len(target)))
    return np.asarray(mask_utils.iou(list(pred), list(target), is_crowd.astype(np.uint8).tolist()))


def boundary_masks(masks: Sequence[RLE], dilation_ratio: float) -> list[RLE]:
    """The pixels of each RLE mask within `dilation_ratio` of the image's diagonal (at least 1 pixel, chessboard
    distance) of its outside or of the image's border; RLE again."""
    return [_boundary(mask, dilation_ratio) for mask in masks]


def _boundary(rle: RLE, dilation_ratio: float) -> RLE:
    x, y, w, h = (int(v) for v in mask_utils.toBbox(rle))
    mask = mask_utils.decode(rle)
    width = max(1, round(dilation_ratio * math.hypot(*mask.shape)))
    box = np.s_[y : y + h, x : x + w]
    inner = ndimage.minimum_filter(mask[box], 2 * width + 1, mode="constant", cval=0)
    boundary = np.zeros_like(mask)
    boundary[box] = mask[box] - inner
    return to_rle(boundary)


def match_instances(
    iou: np.ndarray, is_crowd: np.ndarray, areas: np.ndarray, true_areas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match the predicted instances of one class in one image, the best score first.

    Args:
        iou (`(predictions, targets)`): rows in the order of the scores.
        is_crowd (bool, `(targets,)`): these are matched any number of times, and their matches are ignored.
        areas, true_areas (pixels): what lies outside an area range is ignored in it.
    Returns: matched and ignored, uint16 `(predictions, area ranges)`, bit t for threshold t; and the number of targets
        that count in each area range.
    """
    (num_pred, num_true), num_areas = iou.shape, len(AREA_RANGES)
    out_of_range = (true_areas < AREA_RANGES[:, :1]) | (true_areas > AREA_RANGES[:, 1:])  # (A, G)
    is_ignored = out_of_range | is_crowd
    matched = np.zeros((num_pred, num_areas, len(IOU_THRESHOLDS)), bool)
    ignored = np.zeros_like(matched)
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    free = np.ones((num_areas, len(IOU_THRESHOLDS), num_true), bool)
    areas_index, thresholds_index = np.indices(free.shape[:2])
    for place in range(num_pred):
        near = np.flatnonzero(iou[place] >= thresholds[0])
        if not len(near):
            continue
        # Counted targets come before ignored ones; among equal IoUs the last wins.
        overlap = iou[place, near]
        allowed = free[:, :, near] & (overlap >= thresholds[:, None])  # (A, T, near)
        rank = np.where(is_ignored[:, None, near], overlap, overlap + 2) * allowed
        best = rank.shape[-1] - 1 - rank[..., ::-1].argmax(-1)  # (A, T)
        found = np.take_along_axis(allowed, best[..., None], -1)[..., 0]
        target = near[best]
        matched[place] = found
        ignored[place] = found & is_ignored[areas_index, target]
        taken = found & ~is_crowd[target]
        free[areas_index[taken], thresholds_index[taken], target[taken]] = False
    outside = (areas[:, None] < AREA_RANGES[:, 0]) | (areas[:, None] > AREA_RANGES[:, 1])  # (D, A)
    ignored |= ~matched & outside[..., None]
    bits = (1 << np.arange(len(IOU_THRESHOLDS))).astype(np.uint16)
    return (matched * bits).sum(-1).astype(np.uint16), (ignored * bits).sum(-1).astype(np.uint16), (~is_ignored).sum(1)
