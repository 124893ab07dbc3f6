"""Copy-paste augmentation: labels or segments of another record laid over this one."""

import numpy as np

from ..labels import LabelSet


def paste_labels(
    image: np.ndarray,
    segmentation_map: np.ndarray,
    other_image: np.ndarray,
    other_map: np.ndarray,
    labels: LabelSet,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the pixels of half of the labels of another record over this one, in new arrays.

    Those of things where the other record has any (Simple Copy-Paste, arXiv:2012.07177), and of all labels where it
    has none (ClassMix, arXiv:2007.07936); half is rounded up. All arrays have the same height and width.

    Args:
        image, other_image: uint8 `(height, width, 3)`; segmentation_map, other_map: label ids `(height, width)`.
    """
    present = [int(label) for label in np.unique(other_map) if label != labels.ignore_index]
    things = [label for label in present if label in labels.things]
    return _lay_over(
        image, segmentation_map, other_image, other_map, np.isin(other_map, _half(things or present, rng))
    )


def paste_segments(
    image: np.ndarray,
    panoptic_map: np.ndarray,
    segments: list[dict],
    other_image: np.ndarray,
    other_map: np.ndarray,
    other_segments: list[dict],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """The same with the segments of things, which get ids that this record does not have.

    Args:
        panoptic_map, other_map: segment ids `(height, width)`, 0 for void; segments, other_segments: with `id`,
            `category_id`, `isthing`.
    Returns: image, panoptic map and segments; of those that are covered whole nothing is left in the map.
    """
    visible = set(np.unique(other_map).tolist())
    things = [s for s in other_segments if s["isthing"] and not s.get("iscrowd") and s["id"] in visible]
    chosen = {int(number) for number in _half([segment["id"] for segment in things], rng)}
    first = max([0, *(segment["id"] for segment in segments)]) + 1
    renamed = {number: first + place for place, number in enumerate(sorted(chosen))}
    moved = np.zeros_like(panoptic_map)
    for number, new in renamed.items():
        moved[other_map == number] = new
    image, panoptic_map = _lay_over(image, panoptic_map, other_image, moved, moved > 0)
    pasted = [segment | {"id": renamed[segment["id"]]} for segment in things if segment["id"] in renamed]
    return image, panoptic_map, [*segments, *pasted]


def _half(values: list[int], rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.array(values, np.int64))[: -(-len(values) // 2)]


def _lay_over(image, segmentation_map, other_image, other_map, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(mask[..., None], other_image, image), np.where(mask, other_map, segmentation_map)
