"""Where the images and the masks of each split lie in a folder, under the names that people give them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FLAT = "train"  # the name of the one split of a folder without splits
IMAGES = ("images", "image", "imgs", "img", "img_dir")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "gt", "segmentations")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval")


@dataclass(frozen=True)
class PairFolders:
    """The folders of one split.

    Attributes:
        images, masks: folders; the same one where a mask lies beside its image.
        home: what else of the split is looked for in, such as its captions.
        ending: what masks beside their images have behind their names; None where the two have folders of their own.
    """

    images: Path
    masks: Path
    home: Path
    ending: str | None = None


def find_named(root: Path) -> dict[str, PairFolders]:
    """By split, what lies as the README says: SPLIT/images and SPLIT/masks, or both in `root` itself."""
    found = {}
    for images in sorted(root.glob("*/images")):
        if (images.parent / "masks").is_dir():
            found[images.parent.name] = PairFolders(images, images.parent / "masks", images.parent)
    if not found and (root / "images").is_dir() and (root / "masks").is_dir():
        found = _parts(root / "images", root / "masks", root)
    return found


def find_pairs(root: Path) -> dict[str, PairFolders]:
    """By split, in whatever way it lies: as `find_named` finds it; the same with other names of `IMAGES` and `MASKS`,
    in any case of letters; masks beside their images."""
    if found := find_named(root):
        return found
    folders = [path for path in _folders(root) if not path.name.startswith(".")]
    for folder in folders:
        if pair := _pair(folder):
            found[folder.name] = PairFolders(*pair, folder)
    if found:
        return found
    if pair := _pair(root):
        return _parts(*pair, root)
    for folder in folders:
        if ending := _ending_beside(folder):
            found[folder.name] = PairFolders(folder, folder, folder, ending)
    if not found and (ending := _ending_beside(root)):
        found[FLAT] = PairFolders(root, root, root, ending)
    return found


def _ending_beside(folder: Path) -> str | None:
    """What the name of each mask has behind that of its image, where all masks lie beside their images: `_mask` of
    `a.jpg` and `a_mask.png`; None where it is not so."""
    stems = {Path(entry.name).stem for entry in os.scandir(folder) if _is_image(entry)}
    behind: dict[str, set[str]] = {}
    for stem in stems:
        for place in range(1, len(stem)):
            if stem[:place] in stems and not stem[place].isalnum():
                behind.setdefault(stem[place:], set()).add(stem[:place])
    whole = [ending for ending, images in behind.items() if 2 * len(images) == len(stems)]
    return whole[0] if len(whole) == 1 else None


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks in `folder`, the first names of each that hold pictures."""
    by_name = {path.name.lower(): path for path in _folders(folder)}
    images, masks = (
        next((by_name[name] for name in names if name in by_name and _holds_images(by_name[name])), None)
        for names in (IMAGES, MASKS)
    )
    return (images, _only_folder(masks)) if images and masks else None


def _only_folder(masks: Path) -> Path:
    """What holds the masks, where it is the one folder in that of masks (`annotations/trimaps`) and no split."""
    below = [path for path in masks.iterdir() if not path.name.startswith(".")]
    folders = [path for path in below if path.is_dir() and not _is_split(path.name)]
    is_alone = len(folders) == 1 and not any(
        path.suffix.lower() in IMAGE_SUFFIXES or path.is_dir() for path in below if path != folders[0]
    )
    return folders[0] if is_alone else masks


def _parts(images: Path, masks: Path, root: Path) -> dict[str, PairFolders]:
    """Splits that lie within the folders of images and of masks, if they are named like splits; else the one split."""
    names = sorted({path.name for path in _folders(images)} & {path.name for path in _folders(masks)})
    if any(map(_is_split, names)):
        return {name: PairFolders(images / name, masks / name, root / name) for name in names}
    return {FLAT: PairFolders(images, masks, root)}


def _is_split(name: str) -> bool:
    return name.lower().rstrip("0123456789") in SPLITS  # train2017


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _holds_images(folder: Path) -> bool:
    return any(True for _ in _images_below(folder))


def _images_below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if name.lower().endswith(IMAGE_SUFFIXES))


def _is_image(entry: os.DirEntry) -> bool:
    return entry.is_file() and entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".")
