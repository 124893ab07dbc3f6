"""Reads COCO instances (JSON with polygons or RLE) as panoptic records: one pixel, one instance."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets.config
import numpy as np
from pycocotools import mask as mask_utils
from tqdm.auto import tqdm

from ...files import replacing, write_json
from ..schema import encode_panoptic, ignore_index_for
from .checks import Source, fingerprint_of
from .coco_panoptic import YEAR, match_labels
from .folder import file_rows
from .map_decoder import LabelFile, MapDecoder, read_label_file
from .roots import Roots

BACKGROUND = "background"
EXPORTED = "_annotations.coco.json"  # what labelling tools write beside the images of a split
ALIASES = {"valid": "val"}
FORMAT = 1  # raised when painting changes, so that older caches are left alone


def instance_splits(root: Path) -> list[str]:
    """Splits with an instances JSON, in `root`, `root/annotations` or beside the images of the split."""
    return sorted(_annotation_files(root))


def read_coco_instances(root: Path, split: str, labels: LabelFile | None, roots: Roots) -> Source:
    """List the records of `split`. Categories become things 0..C-1 in the order of their ids, and what no annotation
    covers becomes the stuff label `background`, the last one (or the category of that name, which is stuff then).

    One pixel has one instance: smaller ones are painted over larger ones, and all over crowds. The panoptic PNGs are
    painted once, and kept in the cache of `datasets` as long as the JSON stays the same.
    """
    file = _annotation_files(root)[ALIASES.get(split, split.removesuffix(YEAR))]
    roots.check_file(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories, images, annotations = content["categories"], content["images"], content["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a COCO instances JSON: {error!r}") from error
    found = read_label_file({"categories": _with_background(categories)}, str(file))
    label_set = labels.labels if labels else found.labels
    label_of = match_labels(found.labels, label_set, file)
    background = label_of[found.labels.source_ids[found.labels.label2id[BACKGROUND]]]
    if background in label_set.things:
        raise ValueError(f"--labels says that {BACKGROUND!r} is a thing; what no annotation covers must be stuff.")

    status = file.stat()
    facts = [str(file.resolve()), status.st_size, status.st_mtime_ns, sorted(label_of.items()), FORMAT]
    painter = _Painter(label_of, background, set(label_set.things))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf" / f"instances-{fingerprint_of(facts)}"
    listing = folder / "listing.json"
    if not listing.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(listing, _paint_all(painter, images, annotations, file, folder))
    listed = json.loads(listing.read_text())
    columns = {name: [] for name in ("image", "segmentation_map", "caption", "image_id", "segments_info")}
    for entry in listed["records"]:
        columns["image"].append(str(_image_folder(root, file) / entry["file_name"]))
        columns["segmentation_map"].append(str(folder / entry["png"]))
        columns["caption"].append(None)
        columns["image_id"].append(Path(entry["file_name"]).with_suffix("").as_posix())
        columns["segments_info"].append(entry["segments_info"])
    ids = {label: label for label in range(label_set.num_labels)}
    ids[ignore_index_for(label_set.num_labels)] = ignore_index_for(label_set.num_labels)
    decoder = MapDecoder(label_set.num_labels, ids, panoptic=True, things=tuple(label_set.things))
    rows = file_rows(**columns)
    roots.check_rows(rows.select_columns(["image", "image_id"]), f"{root} ({split})")  # the maps are in the cache
    return Source(
        "coco-instances", rows, label_set, decoder, listed["problems"], found.collisions, fingerprint_of(facts)
    )


def _paint_all(painter: "_Painter", images: list[dict], annotations: list[dict], file: Path, folder: Path) -> dict:
    """Write a PNG for each image; returns the `records` with their segments, and the `problems` of all."""
    by_image: dict[int, list[dict]] = {}
    problems, known = [], {image["id"] for image in images}
    for annotation in annotations:
        number = annotation.get("id")
        if annotation.get("image_id") not in known:
            problems.append(
                f"{file}: annotation {number} is of image {annotation.get('image_id')}, which is not listed"
            )
        elif annotation.get("category_id") not in painter.label_of:
            problems.append(f"{file}: annotation {number} has category {annotation.get('category_id')}, not listed")
        else:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    records = []
    for image in tqdm(sorted(images, key=lambda i: i["file_name"]), "Painting instances", delay=3, leave=False):
        try:
            panoptic_map, segments = painter.paint(image, by_image.get(image["id"], []))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{file}: {image['file_name']}: {error}")
            continue
        path = folder / f"{len(records):08d}.png"
        with replacing(path, sync=False) as temporary:
            temporary.write_bytes(encode_panoptic(panoptic_map)["bytes"])
        records.append({"file_name": image["file_name"], "png": path.name, "segments_info": segments})
    return {"records": records, "problems": problems}


class _Painter:
    """From an image's annotations to a panoptic map and its segments."""

    def __init__(self, label_of: Mapping[int, int], background: int, things: set[int]):
        self.label_of, self.background, self.things = label_of, background, things

    def paint(self, image: dict, annotations: list[dict]) -> tuple[np.ndarray, list[dict]]:
        """int32 `(height, width)`, ids from 1; and segments_info without measures. Raises: `ValueError`."""
        height, width = int(image["height"]), int(image["width"])
        found = []
        for annotation in annotations:
            mask = decode_segmentation(annotation, height, width)
            crowd = bool(annotation.get("iscrowd", 0))
            found.append((not crowd, -int(mask.sum()), annotation.get("id", 0), annotation, mask, crowd))
        panoptic_map, segments = np.zeros((height, width), np.int32), []
        for *_, annotation, mask, crowd in sorted(found, key=lambda entry: entry[:3]):
            label = self.label_of[annotation["category_id"]]
            if label == self.background:
                continue
            segments.append({"id": len(segments) + 1, "category_id": label, "iscrowd": crowd})
            panoptic_map[mask] = segments[-1]["id"]
        left = panoptic_map == 0
        if left.any():
            segments.append({"id": len(segments) + 1, "category_id": self.background, "iscrowd": False})
            panoptic_map[left] = segments[-1]["id"]
        present = set(np.unique(panoptic_map).tolist())
        kept = [segment for segment in segments if segment["id"] in present]
        more = {"area": 0, "bbox": []}  # measured where the map is read
        return panoptic_map, [s | {"isthing": s["category_id"] in self.things} | more for s in kept]


def decode_segmentation(annotation: Mapping, height: int, width: int) -> np.ndarray:
    """The mask of a COCO annotation, bool `(height, width)`: polygons, and RLE both compressed and as counts.

    Raises: `ValueError` that names the annotation if it has none that can be read.
    """
    shape, number = annotation.get("segmentation"), annotation.get("id")
    try:
        if isinstance(shape, dict):
            given: Any = shape  # pycocotools takes more forms of an RLE than its types tell
            if list(shape["size"]) != [height, width]:
                raise ValueError(f"its RLE is {shape['size']}, the image {[height, width]} (height, width)")
            rle = mask_utils.frPyObjects(given, height, width) if isinstance(given["counts"], list) else given
        else:
            if not shape or any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
                raise ValueError("a polygon has at least three points, x and y each")
            polygons: Any = [list(map(float, polygon)) for polygon in shape]
            rle = mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
        return mask_utils.decode(rle).astype(bool)
    except Exception as error:  # pycocotools raises anything, Exception itself too
        raise ValueError(f"annotation {number} has no segmentation that can be read: {error}") from error


def _with_background(categories: list[dict]) -> list[dict]:
    named = [{**c, "isthing": int(c.get("name") != BACKGROUND)} for c in categories]
    if any(category.get("name") == BACKGROUND for category in named):
        return named
    return [*named, {"id": max((int(c["id"]) for c in named), default=-1) + 1, "name": BACKGROUND, "isthing": 0}]


def _annotation_files(root: Path) -> dict[str, Path]:
    """`{split: JSON}`."""
    found = {}
    for path in sorted([*root.glob("instances_*.json"), *(root / "annotations").glob("instances_*.json")]):
        found.setdefault(path.stem.removeprefix("instances_").removesuffix(YEAR), path)
    for path in sorted(root.glob(f"*/{EXPORTED}")):
        found.setdefault(ALIASES.get(path.parent.name, path.parent.name), path)
    return found


def _image_folder(root: Path, file: Path) -> Path:
    if file.name == EXPORTED:
        return file.parent
    part = file.stem.removeprefix("instances_")
    candidates = (root / "images" / part, root / part, root / "images" / part.removesuffix(YEAR), root / "images")
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])
