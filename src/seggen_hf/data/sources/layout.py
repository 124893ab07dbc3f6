"""Which reader a source needs, by what lies in it, and which splits it has."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from ...config import SCENES
from ...labels import LabelSet
from ..held_out import HELD_OUT
from ..scenes.records import SCENE_SPLITS, scene_records
from ..schema import allow_megapixels
from .ade20k import SPLITS as ADE20K_SPLITS
from .ade20k import ade20k_root, ade20k_splits, read_ade20k
from .checks import Source
from .cityscapes import cityscapes_splits, read_cityscapes
from .coco_instances import ALIASES, instance_splits, read_coco_instances
from .coco_panoptic import YEAR as COCO_YEAR
from .coco_panoptic import coco_splits, read_coco
from .folder import list_images, read_folder
from .folder_pairs import MASKS, find_named, find_pairs
from .hub import HUB_ID, dataset_splits, is_imagefolder, is_saved, parquet_files, read_dataset, rows_of
from .map_decoder import LabelFile, label_file_of, read_label_file
from .roots import Roots
from .voc import read_voc, voc_root, voc_splits

MASKED = {"ade20k": read_ade20k, "voc": read_voc, "cityscapes": read_cityscapes}  # layouts of images and masks


def open_source(
    source: str | Path,
    split: str = "train",
    image_column: str | None = None,
    mask_column: str | None = None,
    labels=None,
    zero_is_void: bool = False,
    config_name: str | None = None,
    revision: str | None = None,
    media_roots: Sequence[str | Path] | None = None,
    void_ids: Sequence[int] | None = None,
    mask_suffix: str | None = None,
    max_megapixels: float | None = None,
) -> Source:
    """List a split's records without reading a picture. Arguments as in `load_records`.

    Raises: `ValueError` for a record whose files lie outside the source and `media_roots`.
    """
    if max_megapixels:
        allow_megapixels(max_megapixels)
    root, label_file = Path(source), _label_file(labels)
    kind = _kind(source)
    if mask_suffix and kind != "folder":
        raise ValueError(f"{source} holds no folders of images and masks; leave data.mask_suffix (--mask_suffix) out.")
    check_split(source, split, splits_of(source, config_name, revision), kind)
    if kind == SCENES:
        return rows_of(scene_records(split), SCENES, split, label_file)
    roots = Roots(source, media_roots)
    if kind == "coco-instances":
        return read_coco_instances(root, split, label_file, roots)
    if kind == "folder":
        found = read_folder(root, split, label_file, roots, mask_suffix)
        if found.decoder.panoptic:  # of instances, which have no ids of void
            return found
    elif kind == "coco":
        found = read_coco(root, split, label_file, roots)
    elif kind in MASKED:
        found = MASKED[kind](root, split, label_file, roots)
    else:
        columns = (image_column, mask_column)
        found = read_dataset(str(source), split, label_file, *columns, config_name, revision, roots)
    if kind != "folder":  # whose files are checked before one is opened
        roots.check_rows(found.rows, f"{source} ({split})")
    if zero_is_void and kind != "coco":
        found.decoder = found.decoder.with_zero_void()
    if void_ids:
        found.decoder = found.decoder.with_void(void_ids)
    return found


def splits_of(source: str | Path, config_name: str | None = None, revision: str | None = None) -> list[str]:
    """Names of the splits that a source has."""
    kind, root = _kind(source), Path(source)
    if kind == SCENES:
        return list(SCENE_SPLITS)
    listing = {
        "folder": lambda root: sorted(find_pairs(root)),
        "coco": coco_splits,
        "coco-instances": instance_splits,
        "ade20k": ade20k_splits,
        "voc": voc_splits,
        "cityscapes": cityscapes_splits,
    }
    return listing[kind](root) if kind in listing else dataset_splits(str(source), config_name, revision)


def _kind(source: str | Path) -> str:
    """Which reader a source needs, by what lies in it."""
    root = Path(source)
    if str(source) == SCENES:
        return SCENES
    if root.is_dir():
        if is_saved(root):
            return "datasets"
        if find_named(root):
            return "folder"
        if cityscapes_splits(root):
            return "cityscapes"
        if voc_root(root):
            return "voc"
        if ade20k_root(root):
            return "ade20k"
        if coco_splits(root):
            return "coco"
        if instance_splits(root):
            return "coco-instances"
        if is_imagefolder(root) or parquet_files(root):
            return "datasets"
        if find_pairs(root):
            return "folder"
        raise ValueError(
            _explain_tool(root)
            or _explain_images(root)
            or f"{source} is no layout that can be read. It needs images and masks (SPLIT/images and SPLIT/masks, "
            f"images/SPLIT and masks/SPLIT, or a.jpg beside a_mask.png) and classes.json; or COCO panoptic "
            f"(panoptic_SPLIT.json, panoptic_SPLIT/, images/SPLIT/); or COCO instances (instances_SPLIT.json, "
            f"images/SPLIT/; SPLIT/_annotations.coco.json beside the images); or ADE20K (images/training, "
            f"annotations/training); or Pascal VOC and CVAT's masks (JPEGImages, SegmentationClass, ImageSets); or "
            f"Cityscapes (leftImg8bit, gtFine); or a `datasets` folder (save_to_disk, Parquet, imagefolder with "
            f"metadata). "
            f"It holds: {_listing(root)}."
        )
    if root.exists() or str(source).startswith((".", "/", "~")) or not HUB_ID.fullmatch(str(source)):
        reason = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"{source} {reason}; give the folder of a data set, a Hub id or `{SCENES}`.")
    return "datasets"


def _explain_tool(root: Path) -> str | None:
    """What to do with files of a tool that are not read; None where they are of no tool known here."""
    tool = None
    if (root / "meta.json").is_file() and any(root.glob("*/ann")):
        tool = "Supervisely's own format"
    elif any(root.glob("**/labels/*.txt")) and any(root.glob("*.y*ml")):
        tool = "YOLO's polygons in text files"
    elif any(_is_labelme(path) for path in itertools.islice(root.glob("**/*.json"), 5)):
        tool = "labelme's JSON files"
    if tool is None:
        return None
    return f"{root} holds {tool}, which are not read; let the tool export it as COCO, which keeps every polygon."


def _explain_images(root: Path) -> str | None:
    """What images without masks are good for; None where there are none, or folders that may hold masks."""
    images, _ = list_images(root)
    if not images or any(path.name.lower() in MASKS for path in root.glob("**/*/")):
        return None
    return (
        f"{root} holds {len(images)} images and no masks. Beside a labelled data set they are its unlabelled images: "
        f"data.unlabelled={root}."
    )


def _is_labelme(path: Path) -> bool:
    head = path.read_text(errors="replace") if path.stat().st_size < 1_000_000 else ""
    return '"shapes"' in head and '"imagePath"' in head


def _listing(root: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"


def check_split(source, split: str, splits: list[str], kind: str = "") -> None:
    coco = split.removesuffix(COCO_YEAR)
    aliases = {"ade20k": ADE20K_SPLITS.get(split), "coco": coco, "coco-instances": ALIASES.get(split, coco)}
    if split not in splits and aliases.get(kind) not in splits:
        hint = ""
        if len(splits) == 1 and kind != SCENES:
            hint = (
                f" To score on a part of {splits[0]} that is set apart: data.train_split={splits[0]} "
                f"data.held_out=0.2 data.test_splits=[{HELD_OUT}]."
            )
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(splits) or 'none'}.{hint}")


def _label_file(labels) -> LabelFile | None:
    if labels is None:
        return None
    if isinstance(labels, LabelSet):
        return label_file_of(labels)
    return read_label_file(labels)
