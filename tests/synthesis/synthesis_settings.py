"""Settings of the small syntheses in these tests, and how two of them are compared."""

import numpy as np
from datasets import Dataset

from seggen_hf.config import SynthesisConfig

SIZE = dict(height=32, width=32)
# Random weights paint no label's color: every distance is allowed, so that maps with several labels come out.
SETTINGS = dict(
    imgsyn_variants=2,
    masksyn_variants=2,
    batch_size=3,
    shard_size=5,
    text2mask_steps=2,
    mask2img_steps=2,
    max_color_distance=300.0,
    max_ignored_share=0.21,  # drops 4 of 16 maps: shards are of different lengths
)


def make_config(**settings) -> SynthesisConfig:
    return SynthesisConfig(**{**SETTINGS, **settings})


def largest_difference(ours: Dataset, theirs: Dataset) -> int:
    """Grey levels between the images of two syntheses; everything else must be equal."""
    for column in set(ours.column_names) - {"image", "segmentation_map", "scores"}:
        assert list(ours[column]) == list(theirs[column]), column
    difference = 0
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one["segmentation_map"], other["segmentation_map"]), one["image_id"]
        images = [np.asarray(row["image"], dtype=int) for row in (one, other)]
        difference = max(difference, int(np.abs(images[0] - images[1]).max()))
    return difference
