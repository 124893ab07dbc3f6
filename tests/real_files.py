"""Small data sets as people's tools write them, for the tables of real files and folders: a maker fills a folder."""

import json
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from seggen_hf.data.schema import labels_of
from seggen_hf.data.sources.load import load_records

SIZE = (16, 24)  # height, width
SQUARE = [[2, 2, 10, 2, 10, 10, 2, 10]]
NAN = float("nan")


def picture(path: Path, index: int = 0, size=SIZE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def mask(path: Path, values=((0, 1),), size=SIZE, mode: str = "L", **options) -> Path:
    """A mask of vertical stripes of `values`; with mode RGB of colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.array(values[0])
    stripes = values[np.arange(size[1]) * len(values) // size[1]]
    pixels = np.broadcast_to(stripes, (size[0], *stripes.shape)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(path, **options)
    return path


def annotation(number: int = 1, image=0, category=1, segmentation=SQUARE, **more) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": 0,
    } | more


def entry(number=0, name="a.png", height=SIZE[0], width=SIZE[1]) -> dict:
    return {"id": number, "file_name": name, "height": height, "width": width}


def category(number: int, name: str, supercategory: str | None = None) -> dict:
    return {"id": number, "name": name, "supercategory": supercategory}


def instances(root: Path, images=None, annotations=None, categories=None, split="train", files=("a.png",)) -> Path:
    """SPLIT/_annotations.coco.json beside its images; by default one image with one square of `cell`."""
    folder = root / split
    for index, name in enumerate(files):
        picture(folder / name, index)
    content = {
        "images": [entry()] if images is None else images,
        "annotations": [annotation()] if annotations is None else annotations,
        "categories": [{"id": 1, "name": "cell"}] if categories is None else categories,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return folder / "_annotations.coco.json"


def panoptic(root: Path, segments=None, annotations=None, categories=None, images=None, ids=((5, 9),)) -> Path:
    """panoptic_train.json, whose one PNG has stripes of the segment `ids`: sky and car."""
    picture(root / "images/train/0.jpg")
    values = np.array(ids[0])
    stripes = values[np.arange(SIZE[1]) * len(values) // SIZE[1]]
    pixels = np.stack([stripes & 255, stripes >> 8 & 255, stripes >> 16], -1).astype(np.uint8)
    (root / "panoptic_train").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(pixels, (SIZE[0], *pixels.shape)).copy()).save(root / "panoptic_train/0.png")
    segments = [{"id": 5, "category_id": 1}, {"id": 9, "category_id": 7}] if segments is None else segments
    content = {
        "images": [entry(0, "0.jpg")] if images is None else images,
        "annotations": [{"image_id": 0, "file_name": "0.png", "segments_info": segments}]
        if annotations is None
        else annotations,
        "categories": [{"id": 1, "name": "sky", "isthing": 0}, {"id": 7, "name": "car", "isthing": 1}]
        if categories is None
        else categories,
    }
    (root / "panoptic_train.json").write_text(json.dumps(content))
    return root / "panoptic_train.json"


def folder(root: Path, images=("a.jpg",), masks=("a.png",), labels=("sky", "road"), split="train", **options) -> Path:
    """SPLIT/images, SPLIT/masks and classes.json."""
    for index, name in enumerate(images):
        picture(root / split / "images" / name, index)
    for name in masks:
        mask(root / split / "masks" / name, **options)
    (root / split / "masks").mkdir(parents=True, exist_ok=True)
    (root / "classes.json").write_text(json.dumps(labels))
    return root / split


def voc(root: Path, labelmap: str | None = None, names=("a",), listed=("a",), values=((0, 15),), **options) -> Path:
    for index, name in enumerate(names):
        picture(root / "JPEGImages" / f"{name}.jpg", index)
        mask(root / "SegmentationClass" / f"{name}.png", values, **options)
    (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(listed) + "\n")
    if labelmap is not None:
        (root / "labelmap.txt").write_text(labelmap)
    return root


def cityscapes(root: Path, ending="_gtFine_labelIds", values=((7, 23, 0, 26),)) -> Path:
    picture(root / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png")
    mask(root / f"gtFine/train/ulm/ulm_000000_000019{ending}.png", values)
    mask(root / "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png", ((0, 0),))
    picture(root / "leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png")
    mask(root / f"gtFine/test/bonn/bonn_000000_000019{ending}.png", ((0, 0),))
    return root


def read(root: Path, split: str = "train", **settings):
    """(records by id, lines of warnings)."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        records = load_records(root, split, **settings)
    lines = [str(line.message) for line in told if line.category is UserWarning]
    return {record["image_id"]: record for record in records}, lines, labels_of(records)
