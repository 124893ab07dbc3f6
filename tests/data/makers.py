"""Small source folders on disk for the tests of the readers and of the doctor."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from seggen_hf.data.schema import read_map

CATEGORIES = [
    {"id": 0, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
    {"id": 1, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 2, "name": "car", "isthing": 1, "color": [0, 0, 142]},
]
HEIGHT, WIDTH = 24, 32


def block_map(index: int = 0, labels=(0, 1, 2), void: int = 255) -> np.ndarray:
    """Sky above road, a car that moves with `index`, and a row of void; uint8 of 24 x 32."""
    segmentation_map = np.full((HEIGHT, WIDTH), labels[0], np.uint8)
    segmentation_map[12:] = labels[1]
    segmentation_map[14:20, 2 + index % 20 : 10 + index % 20] = labels[2]
    segmentation_map[-1] = void
    return segmentation_map


def photo(index: int = 0) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def make_folder(root: Path, count: int = 4, splits=("train",), categories=CATEGORIES, **settings) -> Path:
    """SPLIT/images/0000.jpg, SPLIT/masks/0000.png and classes.json."""
    for number, split in enumerate(splits):
        for name in ("images", "masks"):
            (root / split / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(photo(100 * number + index)).save(root / split / "images" / f"{index:04d}.jpg")
            Image.fromarray(block_map(index)).save(root / split / "masks" / f"{index:04d}.png")
    write_classes(root, categories, **{"ignore_index": 255} | settings)
    return root


def write_classes(root: Path, categories, **settings) -> None:
    (root / "classes.json").write_text(json.dumps(settings | {"categories": categories}))


def paint(segmentation_map: np.ndarray, void=(0, 0, 0)) -> np.ndarray:
    """The map in the colors of CATEGORIES."""
    table = np.zeros((256, 3), np.uint8)
    table[255] = void
    for category in CATEGORIES:
        table[category["id"]] = category["color"]
    return table[segmentation_map]


def palette_image(segmentation_map: np.ndarray, colors: np.ndarray) -> Image.Image:
    """A P PNG with these indices; `colors` (256, 3)."""
    image = Image.new("P", segmentation_map.shape[::-1])
    image.putdata(segmentation_map.ravel().tolist())
    image.putpalette(colors.astype(np.uint8).ravel().tolist())
    return image


def save_rotated(path: Path, image: np.ndarray, orientation: int = 6) -> None:
    """A JPEG whose pixels are `image` and whose EXIF asks viewers to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(path, exif=exif, quality=95)


def make_coco(root: Path, split: str = "val", count: int = 3, layout: str = "flat") -> Path:
    """COCO panoptic with ids 7, 11, 90 for sky, road, car; `layout` is flat, single or coco."""
    stem = {"flat": f"panoptic_{split}", "single": "panoptic", "coco": f"annotations/panoptic_{split}2017"}[layout]
    images = {"flat": f"images/{split}", "single": "images", "coco": f"{split}2017"}[layout]
    (root / images).mkdir(parents=True)
    (root / stem).mkdir(parents=True)
    source_ids, annotations = (7, 11, 90), []
    for index in range(count):
        segmentation_map = block_map(index)
        Image.fromarray(photo(index)).save(root / images / f"{index:012d}.jpg")
        segment_ids = np.zeros((HEIGHT, WIDTH), np.int64)
        infos = []
        for label in range(3):
            inside = segmentation_map == label
            segment_ids[inside] = 70_000 * (label + 1) + index
            info = {"id": 70_000 * (label + 1) + index, "category_id": source_ids[label], "iscrowd": 0}
            infos.append(info | {"area": int(inside.sum()), "bbox": [0, 0, WIDTH, HEIGHT]})
        rgb = np.stack([segment_ids, segment_ids >> 8, segment_ids >> 16], -1).astype(np.uint8)
        Image.fromarray(rgb).save(root / stem / f"{index:012d}.png")
        annotations.append({"image_id": index + 5, "file_name": f"{index:012d}.png", "segments_info": infos})
    content = {
        "images": [
            {"id": i + 5, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(count)
        ],
        "annotations": annotations,
        "categories": [dict(c, id=i) for c, i in reversed(list(zip(CATEGORIES, source_ids, strict=True)))],
    }
    (root / f"{stem}.json").write_text(json.dumps(content))
    return root


def make_ade20k(root: Path, count: int = 3) -> Path:
    for part in ("training", "validation"):
        for name in ("images", "annotations"):
            (root / name / part).mkdir(parents=True)
        for index in range(count):
            stem = f"ADE_{part}_{index:08d}"
            Image.fromarray(photo(index)).save(root / "images" / part / f"{stem}.jpg")
            raw = block_map(index, labels=(1, 4, 150), void=0)
            Image.fromarray(raw).save(root / "annotations" / part / f"{stem}.png")
    return root


def maps_of(records):
    return [read_map(segmentation_map) for segmentation_map in records["segmentation_map"]]


def assert_blocks(records, count: int):
    """The records hold `block_map`, as PNG L, beside images of the same size."""
    assert len(records) == count
    for index, record in enumerate(records):
        assert record["segmentation_map"].mode == "L" and record["segmentation_map"].format == "PNG"
        assert np.array_equal(read_map(record["segmentation_map"]), block_map(index))
        assert record["image"].mode == "RGB" and record["image"].size == (WIDTH, HEIGHT)
