"""Reads SPLIT/images and SPLIT/masks beside a classes.json."""

import json
from collections import defaultdict
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from seggen_hf.data.checks import Source
from seggen_hf.data.map_decoder import LabelFile, read_label_file
from seggen_hf.data.schema import SEGMENT

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABEL_FILES = ("classes.json", "labels.json", "id2label.json")
CAPTIONS_FILE = "captions.json"  # optional, in the split's folder: {image_id: caption}


def folder_splits(root: Path) -> list[str]:
    """Names of the folders in `root` that hold both images and masks."""
    return sorted(path.parent.name for path in root.glob("*/images") if (path.parent / "masks").is_dir())


def read_folder(root: Path, split: str, labels: LabelFile | None = None) -> Source:
    """List the pairs of `root/split`; a pair shares its name below images/ and masks/, but for the suffix."""
    folder = root / split
    images, image_problems = list_images(folder / "images")
    masks, mask_problems = list_images(folder / "masks")
    problems = image_problems + mask_problems
    problems += [f"{images[stem]}: no mask {folder / 'masks' / stem}.png" for stem in sorted(set(images) - set(masks))]
    problems += [
        f"{masks[stem]}: no image of this name in {folder / 'images'}" for stem in sorted(set(masks) - set(images))
    ]
    stems = sorted(set(images) & set(masks))
    if labels is None:
        labels = read_label_file(find_label_file(root))
    captions = {}
    if (folder / CAPTIONS_FILE).is_file():
        captions = json.loads((folder / CAPTIONS_FILE).read_text(encoding="utf-8"))
    rows = file_rows(
        image=[str(images[stem]) for stem in stems],
        segmentation_map=[str(masks[stem]) for stem in stems],
        caption=[captions.get(stem) for stem in stems],
        image_id=stems,
    )
    return Source("folder", rows, labels.labels, labels.decoder, problems, labels.collisions)


def find_label_file(root: Path) -> Path:
    """classes.json, labels.json or id2label.json of a folder."""
    for name in LABEL_FILES:
        if (root / name).is_file():
            return root / name
    raise ValueError(
        f"{root} has none of {', '.join(LABEL_FILES)}. Write classes.json: "
        '{"ignore_index": 255, "categories": [{"id": 0, "name": "sky", "isthing": 0, "color": [0, 0, 255]}, ...]}, '
        "or name a label file with --labels."
    )


def list_images(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Image files below `folder` by their path without suffix, and a line for each name that occurs twice."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*"), key=str):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            found[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    problems = [f"{paths[1]}: has the name of {paths[0]}" for paths in found.values() if len(paths) > 1]
    return {stem: paths[0] for stem, paths in found.items()}, problems


def file_rows(**columns: list) -> Dataset:
    """Undecoded rows over files: only paths are in memory. Columns of images hold paths."""
    features = Features(
        {name: Image(decode=False) if name in ("image", "segmentation_map") else Value("string") for name in columns}
    )
    if "segments_info" in columns:
        features["segments_info"] = [SEGMENT]
    return Dataset.from_dict(columns, features=features)
