"""Rules that drop a sample when it is made, each with the reason that is recorded."""

import numpy as np

REASONS = {
    "ignored_share": "too many pixels are near no label's color",
    "no_label": "no pixel has a label",
    "one_label": "the generated map has one label only, and the record's own map has several",
    "flat_image": "the image is of one color: the generator broke down (NaN, or a VAE that overflows in fp16)",
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


def decode_scores(distance: np.ndarray, max_color_distance: float) -> dict[str, float]:
    """How clean a generated color map was: `decode_confidence`, the share of pixels within `max_color_distance` of a
    label's color, and `mean_distance` to the nearest color (0-255 units).

    Args:
        distance: (H, W) distance of each pixel to the nearest color.
    """
    return {
        "decode_confidence": float((distance <= max_color_distance).mean()),
        "mean_distance": float(distance.mean()),
    }


def drop_human_map(scores: dict[str, float]) -> str | None:
    """Reason to drop a map made by people, or None: only if there is nothing in it to learn from."""
    return "no_label" if scores["num_labels"] == 0 else None


def drop_generated_map(scores: dict[str, float], max_ignored_share: float, num_source_labels) -> str | None:
    """Reason to drop a generated map, or None.

    Args:
        scores: of `map_scores`.
        max_ignored_share: in [0, 1].
        num_source_labels (callable): number of labels in the map of the record whose caption was used; asked for only
            where it decides, since it opens a file.
    """
    if scores["num_labels"] == 0:
        return "no_label"
    if scores["ignored_share"] > max_ignored_share:
        return "ignored_share"
    if scores["num_labels"] == 1 and num_source_labels() > 1:
        return "one_label"
    return None


def drop_image(image) -> str | None:
    """Reason to drop a generated PIL RGB image, or None."""
    return "flat_image" if all(low == high for low, high in image.getextrema()) else None
