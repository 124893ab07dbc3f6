"""Reads ADE20K's SceneParsing layout: images/training, annotations/training, ids 1..150, 0 = void.

Other data sets lie so too (images/train, annotations/train); a label file beside the folders then tells their ids.
"""

from pathlib import Path

from ...labels import LabelSet
from .checks import Source
from .folder import LABEL_FILES, list_images, pair_rows
from .map_decoder import LabelFile, MapDecoder, label_file_of, read_label_file
from .roots import Roots

ARCHIVE_FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val"}
FOLDERS = {"train": ("training", "train"), "val": ("validation", "val")}


def ade20k_root(root: Path) -> Path | None:
    """The folder with images/ and annotations/: `root`, or the archive's folder in it; None for another layout."""
    for folder in (root, root / ARCHIVE_FOLDER):
        if any((folder / "annotations" / name).is_dir() and (folder / "images" / name).is_dir() for name in SPLITS):
            return folder
    return None


def ade20k_splits(root: Path) -> list[str]:
    folder = ade20k_root(root)
    return [split for split in FOLDERS if folder and _part(folder, split)]


def _part(folder: Path, split: str) -> str | None:
    """Name of the folders that hold the split."""
    return next((name for name in FOLDERS[split] if (folder / "annotations" / name).is_dir()), None)


def read_ade20k(root: Path, split: str, labels: LabelFile | None, roots: Roots) -> Source:
    """List the pairs of a split (train or val) with the 150 labels, or with `labels` in their order.

    Where a label file lies in the folder and no `labels` are given, the masks hold that file's ids.
    """
    folder = ade20k_root(root)
    part = folder and _part(folder, SPLITS[split])
    if folder is None or part is None:
        raise ValueError(f"{root} has no split {split!r} in images/ and annotations/.")
    images, problems = list_images(folder / "images" / part)
    masks, mask_problems = list_images(folder / "annotations" / part)
    problems += mask_problems
    problems += [f"{images[stem]}: no annotation of this name" for stem in sorted(set(images) - set(masks))]
    problems += [f"{masks[stem]}: no image of this name" for stem in sorted(set(masks) - set(images))]
    stems = sorted(set(images) & set(masks))
    own = [folder / name for name in LABEL_FILES if (folder / name).is_file()]
    if own and labels is None:
        roots.check_file(own[0])
        labels = read_label_file(own[0])
        decoder = labels.decoder
    else:
        labels = labels or label_file_of(LabelSet.builtin("ade20k"))
        decoder = MapDecoder(labels.labels.num_labels, {}).with_zero_void()
    rows = pair_rows(stems, images, masks, {})
    return Source("ade20k", rows, labels.labels, decoder, problems, labels.collisions if own else [])
