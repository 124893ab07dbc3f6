"""Reads COCO panoptic (images, panoptic PNGs, JSON) as semantic records; segments are kept beside them."""

from collections.abc import Iterator
from pathlib import Path

from ...labels import LabelSet
from .checks import Source, fingerprint_of
from .coco_json import CocoImage, CocoJson, list_entries, load_json, read_categories, shared_categories, whole_or_none
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
    files = _annotation_files(root)
    annotation_file = files[split]
    content, wanted, found, notes = open_coco(files, split, "panoptic", labels, roots)
    label_of = match_labels(found.labels, wanted, annotation_file)
    things = set(wanted.things)
    png_dir, image_dir = annotation_file.with_suffix(""), _image_dir(root, split, annotation_file)
    entries = list_entries(content, annotation_file, root, image_dir)
    columns = {name: [] for name in ("image", "segmentation_map", "caption", "image_id", "segments_info")}
    problems = [f"{png_dir}: the folder of the panoptic PNGs is missing"] if not png_dir.is_dir() else []
    problems += entries.problems
    for image, annotation in _pair(entries, annotation_file, image_dir, problems):
        png = png_dir / annotation["file_name"]
        try:
            segments = _read_segments(annotation.get("segments_info"), label_of, things, annotation_file)
        except ValueError as error:
            problems.append(f"{png}: {error}")
            continue
        columns["image"].append(str(image.path))
        columns["segmentation_map"].append(str(png))
        columns["caption"].append(None)
        columns["image_id"].append(image.image_id)
        columns["segments_info"].append(segments)
    decoder = MapDecoder.of_panoptic(wanted)
    return Source(
        "coco-panoptic",
        file_rows(**columns),
        wanted,
        decoder,
        problems,
        found.collisions,
        fingerprint_of(columns),
        notes,
    )


def _pair(entries: CocoJson, file: Path, image_dir: Path, problems: list[str]) -> Iterator[tuple[CocoImage, dict]]:
    """Each image with its one annotation, in the order of the PNGs' names; others become problems."""
    pairs = []
    for image in entries.images:
        annotations = entries.annotations.get(image.key, [])
        names = [annotation.get("file_name") for annotation in annotations]
        if not annotations:
            problems.append(f"{image_dir / image.name}: no annotation in {file}")
        elif len(annotations) > 1:
            problems.append(f"{image_dir / image.name}: {len(annotations)} annotations in {file}, {names[0]} and more")
        elif not isinstance(names[0], str) or not names[0]:
            problems.append(f"{image_dir / image.name}: its annotation in {file} lacks a file_name")
        else:
            pairs.append((image, annotations[0]))
    yield from sorted(pairs, key=lambda pair: pair[1]["file_name"])


def open_coco(
    files: dict[str, Path], split: str, kind: str, labels: LabelFile | None, roots: Roots, complete=lambda found: found
) -> tuple[dict, LabelSet, LabelFile, list[str]]:
    """The JSON of `split`, the labels that its records get, those that it has itself, and notes.

    Args:
        files: of all splits, which share their labels.
        complete: what its categories lack, added to a list of them.
    """
    for file in files.values():
        roots.check_file(file)
    content = load_json(files[split], kind)
    if labels:
        wanted, own, notes = labels.labels, read_categories(content, files[split]), []
    else:
        first, own, notes = shared_categories(files, split, kind, content)
        wanted = read_label_file({"categories": complete(first)}, str(files[split])).labels
    return content, wanted, read_label_file({"categories": complete(own)}, str(files[split])), notes


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


def _read_segments(segments, label_of: dict[int, int], things: set[int], file: Path) -> list[dict]:
    """segments_info as records hold it; area and bbox are measured where the map is read.

    Raises: `ValueError` with the reason if it does not say which pixels are what.
    """
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise ValueError(f"no segments_info in {file}")
    found, seen = [], set()
    for segment in segments:
        number, category = whole_or_none(segment.get("id")), whole_or_none(segment.get("category_id"))
        if number is None or not 0 < number < 1 << 24:
            raise ValueError(f"a segment has the id {segment.get('id')!r}; ids are 1 to 16777215, and 0 is void")
        if number in seen:
            raise ValueError(f"segments_info lists the id {number} twice")
        if category not in label_of:
            raise ValueError(f"no category [{segment.get('category_id')}] in {file}")
        seen.add(number)
        label = label_of[category]
        flags = {"isthing": label in things, "iscrowd": segment.get("iscrowd") in (1, True, "1")}
        found.append({"id": number, "category_id": label, **flags, "area": 0, "bbox": []})
    return found


def _json_files(root: Path) -> list[Path]:
    return sorted([*root.glob("panoptic_*.json"), *(root / "annotations").glob("panoptic_*.json")])


def _annotation_files(root: Path) -> dict[str, Path]:
    """`{split: JSON}`."""
    found = {path.stem.removeprefix("panoptic_").removesuffix(YEAR): path for path in reversed(_json_files(root))}
    return {"train": root / SINGLE, **found} if (root / SINGLE).is_file() else found


def _image_dir(root: Path, split: str, annotation_file: Path) -> Path:
    part = annotation_file.stem.removeprefix("panoptic_")
    candidates = (root / "images" / part, root / part, root / "images" / split, root / split, root / "images")
    maps = annotation_file.with_suffix("")
    return next((folder for folder in candidates if folder.is_dir() and folder != maps), candidates[0])
