"""Reads COCO panoptic (images, panoptic PNGs, JSON) as semantic records; segments are kept beside them."""

import json
from pathlib import Path

from ...labels import LabelSet
from ..schema import ignore_index_for
from .checks import Source, fingerprint_of
from .folder import file_rows
from .map_decoder import LabelFile, MapDecoder, read_label_file
from .roots import Roots

SINGLE = "panoptic.json"  # a data set of one split; it is read as "train"
YEAR = "2017"


def coco_splits(root: Path) -> list[str]:
    """Splits with a panoptic JSON, in `root` or `root/annotations`; COCO's `train2017` is `train`."""
    names = [path.stem.removeprefix("panoptic_").removesuffix(YEAR) for path in _json_files(root)]
    return sorted(set(names) | ({"train"} if (root / SINGLE).is_file() else set()))


def read_coco(root: Path, split: str, labels: LabelFile | None, roots: Roots) -> Source:
    """List the records of `split` (`train2017` is `train`). Category ids become 0..C-1 in the order of the JSON's ids.

    The layouts read: panoptic_SPLIT.json + panoptic_SPLIT/ + images/SPLIT/; panoptic.json + panoptic/ + images/;
    COCO's annotations/panoptic_SPLIT2017.json + annotations/panoptic_SPLIT2017/ + SPLIT2017/.
    """
    split = split.removesuffix(YEAR)
    annotation_file = _annotation_file(root, split)
    roots.check_file(annotation_file)
    try:
        content = json.loads(annotation_file.read_text(encoding="utf-8"))
        categories, images, annotations = content["categories"], content["images"], content["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{annotation_file} is not a COCO panoptic JSON: {error!r}") from error
    found = read_label_file({"categories": categories}, str(annotation_file))
    label_set = labels.labels if labels else found.labels
    label_of = match_labels(found.labels, label_set, annotation_file)
    things = set(label_set.things)
    png_dir, image_dir = annotation_file.with_suffix(""), _image_dir(root, split, annotation_file)
    file_of = {image["id"]: image["file_name"] for image in images}
    columns = {name: [] for name in ("image", "segmentation_map", "caption", "image_id", "segments_info")}
    problems = [f"{png_dir}: the folder of the panoptic PNGs is missing"] if not png_dir.is_dir() else []
    for annotation in sorted(annotations, key=lambda annotation: annotation["file_name"]):
        png = png_dir / annotation["file_name"]
        unknown = {segment["category_id"] for segment in annotation["segments_info"]} - set(label_of)
        if annotation["image_id"] not in file_of or unknown:
            reason = f"no category {sorted(unknown)}" if unknown else f"no image with id {annotation['image_id']}"
            problems.append(f"{png}: {reason} in {annotation_file}")
            continue
        file_name = file_of[annotation["image_id"]]
        columns["image"].append(str(image_dir / file_name))
        columns["segmentation_map"].append(str(png))
        columns["caption"].append(None)
        columns["image_id"].append(Path(file_name).with_suffix("").as_posix())
        columns["segments_info"].append([_segment(s, label_of, things) for s in annotation["segments_info"]])
    bare = set(file_of) - {annotation["image_id"] for annotation in annotations}
    problems += [f"{image_dir / file_of[image_id]}: no annotation in {annotation_file}" for image_id in sorted(bare)]
    ids = {label: label for label in range(label_set.num_labels)}
    ids[ignore_index_for(label_set.num_labels)] = ignore_index_for(label_set.num_labels)
    decoder = MapDecoder(label_set.num_labels, ids, panoptic=True, things=tuple(label_set.things))
    return Source(
        "coco-panoptic", file_rows(**columns), label_set, decoder, problems, found.collisions, fingerprint_of(columns)
    )


def match_labels(found: LabelSet, wanted: LabelSet, annotation_file: Path) -> dict[int, int]:
    """Category id of the JSON -> label id of `wanted`: by name where all names are known, else by id."""
    names = {source_id: category.name for source_id, category in zip(found.source_ids, found.categories, strict=True)}
    if set(names.values()) <= set(wanted.label2id):
        return {source_id: wanted.label2id[name] for source_id, name in names.items()}
    if set(names) <= set(wanted.source_ids):
        return {source_id: wanted.source_ids.index(source_id) for source_id in names}
    missing = sorted(set(names.values()) - set(wanted.label2id))
    raise ValueError(
        f"--labels lacks {len(missing)} categories of {annotation_file}, such as {missing[0]!r}, and has other ids; "
        f"leave it out, the JSON names its categories."
    )


def _segment(segment: dict, label_of: dict[int, int], things: set[int]) -> dict:
    label = label_of[segment["category_id"]]
    return {
        "id": segment["id"],
        "category_id": label,
        "isthing": label in things,
        "iscrowd": bool(segment.get("iscrowd", 0)),
        "area": int(segment.get("area", 0)),
        "bbox": [int(value) for value in segment.get("bbox", [])],
    }


def _json_files(root: Path) -> list[Path]:
    return sorted([*root.glob("panoptic_*.json"), *(root / "annotations").glob("panoptic_*.json")])


def _annotation_file(root: Path, split: str) -> Path:
    for path in _json_files(root):
        if path.stem in (f"panoptic_{split}", f"panoptic_{split}{YEAR}"):
            return path
    return root / SINGLE


def _image_dir(root: Path, split: str, annotation_file: Path) -> Path:
    part = annotation_file.stem.removeprefix("panoptic_")
    candidates = (root / "images" / part, root / part, root / "images" / split, root / split, root / "images")
    maps = annotation_file.with_suffix("")
    return next((folder for folder in candidates if folder.is_dir() and folder != maps), candidates[0])
