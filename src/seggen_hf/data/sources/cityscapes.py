"""Reads Cityscapes: leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png, gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png.

Of its 34 ids 19 are labels, and the others are void, as its benchmark scores them. A classes.json beside the folders
says otherwise: data of other labels in this layout.
"""

from pathlib import Path

from ...labels import LabelSet
from .checks import Source
from .folder import list_images, pair_rows
from .map_decoder import LabelFile, label_file_of, read_label_file
from .roots import Roots

IMAGES, IMAGE_ENDING, CLASSES = "leftImg8bit", "_leftImg8bit", "classes.json"
# Fine masks of ids, then those that tools make of them, in which labels are 0..18 and void is 255.
MASKS = (("gtFine", "_gtFine_labelIds"), ("gtFine", "_gtFine_labelTrainIds"), ("gtCoarse", "_gtCoarse_labelIds"))
NUM_IDS = 34


def cityscapes_splits(root: Path) -> list[str]:
    """Splits with images and masks; `test` has masks without labels, and is none."""
    names = {path.name for path in (root / IMAGES).glob("*/") if path.is_dir()}
    kinds = {kind for kind, _ in MASKS if (root / kind).is_dir()}
    return sorted(name for name in names - {"test"} if any((root / kind / name).is_dir() for kind in kinds))


def read_cityscapes(root: Path, split: str, labels: LabelFile | None, roots: Roots) -> Source:
    """List the pairs of a split with the 19 labels, or with `labels` or those of classes.json, whose ids the masks
    then hold."""
    images, problems = list_images(root / IMAGES / split)
    images = {stem.removesuffix(IMAGE_ENDING): path for stem, path in images.items()}
    masks, ending = {}, ""
    for kind, ending in MASKS:
        if (root / kind / split).is_dir():
            found, mask_problems = list_images(root / kind / split)
            masks = {stem.removesuffix(ending): path for stem, path in found.items() if stem.endswith(ending)}
            if masks:
                problems += mask_problems
                break
    problems += [f"{images[stem]}: no mask {stem}{ending}.png" for stem in sorted(set(images) - set(masks))]
    problems += [f"{masks[stem]}: no image of this name" for stem in sorted(set(masks) - set(images))]
    stems = sorted(set(images) & set(masks))
    if labels is None and (root / CLASSES).is_file():
        roots.check_file(root / CLASSES)
        labels = read_label_file(root / CLASSES)
    if labels is None:
        own = LabelSet.builtin("cityscapes")
        has_train_ids = ending.endswith("TrainIds")
        void = [255] if has_train_ids else [255, *sorted(set(range(NUM_IDS)) - set(own.source_ids))]
        labels = label_file_of(own, source_ids=not has_train_ids, void_ids=void)
    rows = pair_rows(stems, images, masks, {})
    return Source("cityscapes", rows, labels.labels, labels.decoder, problems, labels.collisions)
