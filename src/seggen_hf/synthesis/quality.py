"""Rules that drop a sample when it is made, each with the reason that is recorded."""

from collections.abc import Callable

import numpy as np

REASONS = {
    "not_finite": "the generator broke down: NaN (in half precision the VAE can overflow)",
    "undecodable": "too many pixels are near no label's color",
    "ignored_share": "too many pixels are void, and more than in the record's own map",
    "no_label": "no pixel has a label",
    "one_label": "the generated map has one label only, and the record's own map has several",
    "not_as_named": "the generated map lacks labels that its caption names",
    "implausible": "labels or things of the generated map have sizes, places, shapes or neighbors as in no real map",
    "copied_map": "the generated map is nearly that of a real record",
    "misaligned": "a segmenter of real records disagrees with too much of the map",
    "flat_image": "the image is of one color: the generator broke down",
}


def map_scores(segmentation_map: np.ndarray, ignore_index: int) -> dict[str, float]:
    """What can be told of any map: `ignored_share`, and `num_labels`, the number of labels present.

    Args:
        segmentation_map: (H, W) label ids.
    """
    counts = np.bincount(segmentation_map.reshape(-1), minlength=ignore_index + 1)
    ignored = counts[ignore_index]
    return {
        "ignored_share": float(ignored / segmentation_map.size),
        "num_labels": float(np.count_nonzero(counts) - (ignored > 0)),
    }


def decode_scores(
    segmentation_map: np.ndarray, distance: np.ndarray, max_color_distance: float, ignore_index: int
) -> dict[str, float]:
    """How clean a generated color map was: `decode_confidence`, the share of pixels within `max_color_distance` of a
    label's color, `mean_distance` to the nearest color (0-255 units), and `undecodable_share`, of pixels that are
    ignored because no color is near; pixels that were drawn void are not among them.

    Args:
        segmentation_map: (H, W) label ids that were read, small regions joined.
        distance: (H, W) distance of each pixel to the nearest color.
    """
    far = distance > max_color_distance
    return {
        "decode_confidence": float(1 - far.mean()),
        "mean_distance": float(distance.mean()),
        "undecodable_share": float((far & (segmentation_map == ignore_index)).mean()),
    }


def drop_human_map(scores: dict[str, float]) -> str | None:
    """Reason to drop a map made by people, or None: only if there is nothing in it to learn from."""
    return "no_label" if scores["num_labels"] == 0 else None


def drop_generated_map(
    scores: dict[str, float], max_ignored_share: float, source_scores: Callable[[], dict[str, float]]
) -> str | None:
    """Reason to drop a generated map, or None.

    Args:
        scores: of `map_scores` and `decode_scores`.
        max_ignored_share: in [0, 1]; more pixels may be void where the record's own map has more.
        source_scores: `map_scores` of the map of the record whose caption was used; asked for only where it decides,
            since it opens a file.
    """
    if scores["num_labels"] == 0:
        return "no_label"
    if scores["undecodable_share"] > max_ignored_share:
        return "undecodable"
    if scores["ignored_share"] > max_ignored_share and scores["ignored_share"] > source_scores()["ignored_share"]:
        return "ignored_share"
    if scores["num_labels"] == 1 and source_scores()["num_labels"] > 1:
        return "one_label"
    return None


def drop_image(pixels: np.ndarray) -> str | None:
    """Reason to drop a generated image, `(H, W, 3)` floats in [0, 1], or None."""
    if not np.isfinite(pixels).all():
        return "not_finite"
    levels = np.rint(pixels * 255).reshape(-1, 3)
    return "flat_image" if (levels == levels[0]).all() else None
