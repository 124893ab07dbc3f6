"""Scenes drawn anew, as perfect generators would: what the control arm `renderer` learns from."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset

from ...config import Recipe
from ..schema import attach_labels, encode_image, encode_map, labels_of, record_features, save_dataset
from .records import MAX_SPLIT_RECORDS, SCENE_CATEGORIES, SCENE_SPLITS, STYLES, draw_scene, scene_index


def render_records(records: Dataset, recipe: Recipe, folder: Path) -> None:
    """What perfect generators would make of the scene `records`: written to `folder` as a `datasets` folder.

    As many records of each kind as the recipe's synthesis makes. ImgSyn's counterpart is the same scene in another
    style; MaskSyn's is a fresh scene, in a drawn style with the probability that a synthetic caption gets one.
    """
    labels = labels_of(records)
    size = (recipe.data.height, recipe.data.width)
    made = Dataset.from_generator(
        _render,
        features=record_features(synthetic=True, panoptic=True),
        gen_kwargs={
            "image_ids": tuple(records["image_id"][:]),  # `datasets` would share lists out among processes
            "size": size,
            "imgsyn_variants": recipe.synthesis.imgsyn_variants,
            "masksyn_variants": recipe.synthesis.masksyn_variants,
            "styles": tuple(style for style in recipe.synthesis.caption_styles if style in STYLES) or STYLES,
            "style_share": recipe.synthesis.caption_style_share,
            "seed": recipe.synthesis.seed,
        },
        cache_dir=str(folder / ".cache"),
    )
    save_dataset(attach_labels(made, labels), folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _render(image_ids, size, imgsyn_variants, masksyn_variants, styles, style_share, seed) -> Iterator[dict]:
    for image_id in image_ids:
        split, number = re.findall(r"^(\w+)-(\d+)$", image_id)[0]
        index = scene_index(split, int(number))
        seen = SCENE_SPLITS[split][1]
        own = draw_scene(0, index, seen, size).style
        others = [style for style in styles if style != own] or list(STYLES)
        for kind, variants in (("imgsyn", imgsyn_variants), ("masksyn", masksyn_variants)):
            for variant in range(variants):
                rng = np.random.default_rng([seed, index, variant, kind == "masksyn"])
                if kind == "imgsyn":
                    scene = draw_scene(0, index, seen, size, style=others[int(rng.integers(len(others)))])
                else:
                    # Scenes of the same split's range that no record of it uses: the splits are far smaller.
                    fresh = scene_index(split, MAX_SPLIT_RECORDS // 2 + int(number) * 200 + variant)
                    style = styles[int(rng.integers(len(styles)))] if rng.random() < style_share else None
                    scene = draw_scene(0, fresh, seen, size, style=style)
                name, ids = f"{image_id}-{kind}-{variant}", scene.panoptic_map
                yield {
                    "image": encode_image(scene.image, name),
                    "segmentation_map": encode_map(scene.segmentation_map, len(SCENE_CATEGORIES), name),
                    "panoptic_map": encode_image(np.stack([ids, ids >> 8, ids >> 16], -1).astype(np.uint8), name),
                    "segments_info": scene.segments_info,
                    "caption": scene.caption,
                    "image_id": name,
                    "kind": kind,
                    "source_id": image_id,
                    "variant": variant,
                    "seed": seed,
                    "scores": {"decode_confidence": None, "ignored_share": None, "alignment": None},
                }
