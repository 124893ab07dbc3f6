"""Reads COCO instances (JSON with polygons or RLE) as panoptic records: one pixel, one instance."""

import json
import os
from pathlib import Path

import datasets.config
from tqdm.auto import tqdm

from ...storage.files import write_bytes, write_json
from ..schema import encode_panoptic
from .checks import Source, fingerprint_of
from .coco_json import CocoJson, Notes, list_entries, whole_or_none
from .coco_panoptic import YEAR, match_labels, open_coco
from .folder import file_rows
from .instance_painter import InstancePainter
from .map_decoder import LabelFile, MapDecoder
from .roots import Roots

BACKGROUND = "background"
# A data set of one split, read as "train": Label Studio's, and what people call their own.
SINGLES = ("result.json", "annotations.json", "instances.json", "coco.json", "_annotations.coco.json")
EXPORTED = "_annotations.coco.json"  # what labelling tools write beside the images of a split
ALIASES = {"valid": "val"}
FORMAT = 2  # raised when painting changes, so that older caches are left alone


def instance_splits(root: Path) -> list[str]:
    """Splits with an instances JSON, in `root`, `root/annotations` or beside the images of the split."""
    return sorted(_annotation_files(root))


def read_coco_instances(root: Path, split: str, labels: LabelFile | None, roots: Roots) -> Source:
    """List the records of `split`. Categories become things 0..C-1 in the order of their ids, and what no annotation
    covers becomes the stuff label `background`, the last one (or the category of that name, which is stuff then).

    One pixel has one instance: smaller ones are painted over larger ones, and all over crowds. The panoptic PNGs are
    painted once, and kept in the cache of `datasets` as long as the JSON stays the same.
    """
    files = _annotation_files(root)
    split = ALIASES.get(split, split.removesuffix(YEAR))
    file = files[split]
    content, wanted, found, notes = open_coco(files, split, "instances", labels, roots, _with_background)
    label_of = match_labels(found.labels, wanted, file)
    background = label_of[found.labels.source_ids[found.labels.label2id[BACKGROUND]]]
    if background in wanted.things:
        raise ValueError(f"--labels says that {BACKGROUND!r} is a thing; what no annotation covers must be stuff.")

    status = file.stat()
    facts = [str(file.resolve()), status.st_size, status.st_mtime_ns, sorted(label_of.items()), FORMAT]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf" / f"instances-{fingerprint_of(facts)}"
    listing = folder / "listing.json"
    if listing.is_file():
        listed = json.loads(listing.read_text())
    else:
        folder.mkdir(parents=True, exist_ok=True)
        entries = list_entries(content, file, root, _image_folder(root, file))
        painter = InstancePainter(label_of, background, set(wanted.things))
        listed = _paint_all(painter, entries, file, folder, root)
        if all(os.path.isfile(image.path) for image in entries.images):  # what is missing may come, and lie elsewhere
            write_json(listing, listed)
    columns = {name: [] for name in ("image", "segmentation_map", "caption", "image_id", "segments_info")}
    for entry in listed["records"]:
        columns["image"].append(str(root / entry["image"]))
        columns["segmentation_map"].append(str(folder / entry["png"]))
        columns["caption"].append(None)
        columns["image_id"].append(entry["image_id"])
        columns["segments_info"].append(entry["segments_info"])
    decoder = MapDecoder.of_panoptic(wanted)
    rows = file_rows(**columns)
    roots.check_rows(rows.select_columns(["image", "image_id"]), f"{root} ({split})")  # the maps are in the cache
    return Source(
        "coco-instances", rows, wanted, decoder, listed["problems"], found.collisions, fingerprint_of(facts),
        notes + listed["notes"],
    )  # fmt: skip


def _paint_all(painter: InstancePainter, entries: CocoJson, file: Path, folder: Path, root: Path) -> dict:
    """Write a PNG for each image; returns the `records` with their segments, and the `problems` and `notes` of all.

    Images are named from `root`: the same data set may be given by another path.
    """
    records, problems, notes = [], list(entries.problems), Notes(file)
    for image in tqdm(entries.images, "Painting instances", delay=3, leave=False):
        annotations = []
        for annotation in entries.annotations.get(image.key, []):
            category = whole_or_none(annotation.get("category_id"))
            if category in painter.label_of:
                annotations.append({**annotation, "category_id": category})
            else:
                told = annotation.get("category_id")
                problems.append(f"{file}: annotation {annotation.get('id')} has category {told}, not listed")
        try:
            panoptic_map, segments = painter.paint(image, annotations, notes)
        except ValueError as error:
            problems.append(f"{file}: {image.name}: {error}")
            continue
        path = folder / f"{len(records):08d}.png"
        write_bytes(path, encode_panoptic(panoptic_map)["bytes"], sync=False)
        place = image.path.relative_to(root) if image.path.is_relative_to(root) else image.path
        of_image = {"image": str(place), "image_id": image.image_id}
        records.append({**of_image, "png": path.name, "segments_info": segments})
    return {"records": records, "problems": problems, "notes": notes.lines()}


def _with_background(categories: list[dict]) -> list[dict]:
    named = [{**c, "isthing": int(c.get("name") != BACKGROUND)} for c in categories]
    if any(category.get("name") == BACKGROUND for category in named):
        return named
    return [*named, {"id": max((c["id"] for c in named), default=-1) + 1, "name": BACKGROUND, "isthing": 0}]


def _annotation_files(root: Path) -> dict[str, Path]:
    """`{split: JSON}`."""
    found = {}
    for path in sorted([*root.glob("instances_*.json"), *(root / "annotations").glob("instances_*.json")]):
        found.setdefault(path.stem.removeprefix("instances_").removesuffix(YEAR), path)
    for path in sorted(root.glob(f"*/{EXPORTED}")):
        found.setdefault(ALIASES.get(path.parent.name, path.parent.name), path)
    if not found:
        places = [folder / name for name in SINGLES for folder in (root, root / "annotations")]
        single = next((place for place in places if place.is_file() and _is_coco(place)), None)
        found = {"train": single} if single else {}
    return found


def _is_coco(file: Path) -> bool:
    """Whether a file of a common name begins as a COCO JSON: with an object that names one of its lists."""
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        begun = opened.read(1 << 16)
    return begun.lstrip().startswith("{") and any(f'"{name}"' in begun for name in ("images", "annotations", "info"))


def _image_folder(root: Path, file: Path) -> Path:
    if file.name == EXPORTED and file.parent != root:
        return file.parent
    if file.name in SINGLES:
        return root / "images" if (root / "images").is_dir() else root
    part = file.stem.removeprefix("instances_")
    candidates = (root / "images" / part, root / part, root / "images" / part.removesuffix(YEAR), root / "images")
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])
