"""Reads ADE20K's SceneParsing layout: images/training, annotations/training, ids 1..150, 0 = void."""

from pathlib import Path

from seggen_hf.data.checks import Source
from seggen_hf.data.folder_source import file_rows, list_images
from seggen_hf.data.map_decoder import LabelFile, MapDecoder
from seggen_hf.data.schema import ignore_index_for
from seggen_hf.labels import LabelSet

ARCHIVE_FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "training", "training": "training", "val": "validation", "validation": "validation"}


def ade20k_root(root: Path) -> Path | None:
    """The folder with images/ and annotations/: `root`, or the archive's folder in it; None for another layout."""
    for folder in (root, root / ARCHIVE_FOLDER):
        if any((folder / "annotations" / name).is_dir() and (folder / "images" / name).is_dir() for name in SPLITS):
            return folder
    return None


def ade20k_splits(root: Path) -> list[str]:
    folder = ade20k_root(root)
    return [split for split in ("train", "val") if (folder / "annotations" / SPLITS[split]).is_dir()]


def read_ade20k(root: Path, split: str, labels: LabelFile | None = None) -> Source:
    """List the pairs of a split (train or val) with the 150 labels, or with `labels` in their order."""
    folder, part = ade20k_root(root), SPLITS[split]
    images, problems = list_images(folder / "images" / part)
    masks, mask_problems = list_images(folder / "annotations" / part)
    problems += mask_problems
    problems += [f"{images[stem]}: no annotation of this name" for stem in sorted(set(images) - set(masks))]
    problems += [f"{masks[stem]}: no image of this name" for stem in sorted(set(masks) - set(images))]
    stems = sorted(set(images) & set(masks))
    label_set = labels.labels if labels else LabelSet.builtin("ade20k")
    ids = {0: ignore_index_for(label_set.num_labels)} | {label + 1: label for label in range(label_set.num_labels)}
    rows = file_rows(
        image=[str(images[stem]) for stem in stems],
        segmentation_map=[str(masks[stem]) for stem in stems],
        caption=[None] * len(stems),
        image_id=stems,
    )
    return Source("ade20k", rows, label_set, MapDecoder(label_set.num_labels, ids), problems, [])
