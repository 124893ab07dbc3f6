"""Reads Pascal VOC's layout: JPEGImages, SegmentationClass, ImageSets/Segmentation/SPLIT.txt.

CVAT's "Segmentation mask 1.1" lies so too, with a labelmap.txt that names the colors of its labels.
"""

from pathlib import Path

from ...labels import LabelSet
from .checks import Source
from .folder import LABEL_FILES, list_images, pair_rows
from .map_decoder import LabelFile, label_file_of, read_label_file
from .roots import Roots

ARCHIVES = ("VOCdevkit/VOC*", "VOC*")  # where the archives unpack
LABELMAP = "labelmap.txt"
BORDER = (224, 224, 192)  # of the palette's index 255: the outline that VOC does not score


def voc_root(root: Path) -> Path | None:
    """The folder with SegmentationClass and lists of its images: `root`, or the archive's in it; None otherwise."""
    for folder in (root, *sorted(place for pattern in ARCHIVES for place in root.glob(pattern))):
        if (folder / "SegmentationClass").is_dir() and (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    return None


def voc_splits(root: Path) -> list[str]:
    folder = voc_root(root)
    return sorted(path.stem for path in (folder / "ImageSets" / "Segmentation").glob("*.txt")) if folder else []


def read_voc(root: Path, split: str, labels: LabelFile | None, roots: Roots) -> Source:
    """List the pairs that ImageSets/Segmentation/`split`.txt names, a stem a line.

    Labels are those of labelmap.txt, of a label file in the folder, or VOC's own 21.
    """
    folder = voc_root(root)
    listing = folder and folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if folder is None or listing is None or not listing.is_file():
        raise ValueError(f"{root} has no ImageSets/Segmentation/{split}.txt.")
    roots.check_file(listing)
    labels = labels or _read_labels(folder, roots)
    images, problems = list_images(folder / "JPEGImages")
    masks, mask_problems = list_images(folder / "SegmentationClass")
    problems += mask_problems
    stems = list(dict.fromkeys(line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines()))
    stems = [stem for stem in stems if stem]
    for stem in stems:
        for found, place in ((images, "JPEGImages"), (masks, "SegmentationClass")):
            if stem not in found:
                problems.append(f"{listing}: {stem} has no file in {place}")
    stems = [stem for stem in stems if stem in images and stem in masks]
    rows = pair_rows(stems, images, masks, {})
    return Source("voc", rows, labels.labels, labels.decoder, problems, labels.collisions)


def _read_labels(folder: Path, roots: Roots) -> LabelFile:
    for name in (LABELMAP, *LABEL_FILES):
        if (folder / name).is_file():
            roots.check_file(folder / name)
            if name == LABELMAP:
                return read_label_file(read_labelmap(folder / name), str(folder / name))
            return read_label_file(folder / name)
    return label_file_of(LabelSet.builtin("voc"), void_ids=[255], void_colors=[BORDER])


def read_labelmap(file: Path) -> dict:
    """Labels of lines `name:red,green,blue:parts:actions`, in their order. Raises: `ValueError` for another line."""
    categories = []
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            color = [int(part) for part in rest.partition(":")[0].split(",")]
        except ValueError:
            raise ValueError(f"{file}: the line {line!r} names no color; it must be name:red,green,blue::") from None
        categories.append({"id": len(categories), "name": name.strip(), "color": color})
    return {"categories": categories}
