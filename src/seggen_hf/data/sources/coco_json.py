"""COCO's JSON as tools really write it: ids as text, file names with folders, sizes that are missing or wrong.

What can only mean one thing is read; an annotation that cannot be read is passed over with its reason; whatever could
mean two things is a problem of the record.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets.config
from PIL import Image

from ...storage.files import write_json
from ..schema import open_image
from .checks import TRANSPOSED, fingerprint_of, read_orientation
from .map_decoder import whole_id

ROOTS = (None, "", "none")  # `supercategory` of a tool's root category
# What PIL raises at a picture's header; that it is broken is told where its pixels are read.
NO_HEADER = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass
class CocoImage:
    """One entry of `images`: its key among the annotations, its file as it is named, and where it lies."""

    key: str
    name: str
    path: Path
    image_id: str
    declared: tuple[int, int] | None  # (height, width)


@dataclass
class CocoJson:
    """What a JSON lists: images by name, annotations by image key, and a line for each record that cannot be used."""

    images: list[CocoImage]
    annotations: dict[str, list[dict]]
    problems: list[str]


class Notes:
    """Lines like `FILE: 3 annotations are passed over: REASON, first annotation 7 of a.jpg`."""

    def __init__(self, file: Path):
        self.file, self._cases = file, {}

    def add(self, what: str, case: str) -> None:
        """Args: what: with `{}` in the place of the count."""
        count, first = self._cases.get(what, (0, case))
        self._cases[what] = count + 1, first

    def lines(self) -> list[str]:
        return [f"{self.file}: {what.format(count)}, first {case}" for what, (count, case) in self._cases.items()]


def load_json(file: Path, kind: str) -> dict:
    """The content of a COCO JSON of a `kind`, with a byte order mark or without. Raises: `ValueError`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        for name in ("categories", "images", "annotations"):
            entries = content[name]
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise ValueError(f"{name} is no list of entries")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is not a COCO {kind} JSON: {error!r}") from error
    return content


def list_entries(content: Mapping, file: Path, root: Path, image_folder: Path) -> CocoJson:
    """The images and annotations of `content`, the JSON `file`; pictures lie below `image_folder` or `root`."""
    images, problems = _list_images(content["images"], file, root, image_folder)
    listed, annotations = {image.key for image in images}, defaultdict(list)
    refused = {key_of(entry.get("id")) for entry in content["images"]} - listed
    for annotation in content["annotations"]:
        key = key_of(annotation.get("image_id"))
        if key not in listed:
            if key not in refused:
                told = f"annotation {annotation.get('id')} is of image {annotation.get('image_id')}"
                problems.append(f"{file}: {told}, which is not listed")
            continue
        annotations[key].append(annotation)
    return CocoJson(images, dict(annotations), problems)


def key_of(value) -> str | None:
    """An image id as text: tools write 7, 7.0 and "7" for the same image. None for what is no id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def whole_or_none(value) -> int | None:
    """An id as a whole number, whether it is written as 7, 7.0 or "7"; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return whole_id(value, "")
    except ValueError:
        return None


def read_categories(content: Mapping, file: Path) -> list[dict]:
    """`categories` with whole ids. Raises: `ValueError` for an id that is none."""
    found = []
    for category in content["categories"]:
        name = str(category.get("name"))
        try:
            found.append(
                {**category, "id": whole_id(category.get("id"), f"The id of category {name!r}"), "name": name}
            )
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    return found


def _list_images(entries: list[dict], file: Path, root: Path, folder: Path) -> tuple[list[CocoImage], list[str]]:
    names = [str(entry.get("file_name") or "").replace("\\", "/").strip() for entry in entries]
    keys = [key_of(entry.get("id")) for entry in entries]
    key_counts, name_counts = Counter(keys), Counter(names)
    base_counts = Counter(name.rpartition("/")[2] for name in set(names))
    images, problems, told = [], [], set()
    for entry, name, key in zip(entries, names, keys, strict=True):
        if not name or key is None:
            problems.append(f"{file}: the image {json.dumps(entry)[:80]} lacks {'an id' if name else 'a file_name'}")
        elif key_counts[key] > 1:
            if key not in told:
                of = sorted({n for n, k in zip(names, keys, strict=True) if k == key})
                problems.append(f"{file}: image id {key} is given {key_counts[key]} times, to {', '.join(of[:3])}")
            told.add(key)
        elif name_counts[name] > 1:
            if name not in told:
                ids = [k for n, k in zip(names, keys, strict=True) if n == name]
                problems.append(f"{file}: {name} is listed {len(ids)} times, as images {', '.join(map(str, ids[:3]))}")
            told.add(name)
        else:
            path = _find(name, root, folder, base_counts[name.rpartition("/")[2]] == 1)
            image_id = _relative(path, folder, name).with_suffix("").as_posix()
            images.append(CocoImage(key, name, path, image_id, _declared(entry)))
    shared = Counter(image.image_id for image in images)
    for image in images:
        if shared[image.image_id] > 1:  # a.jpg and a.png
            image.image_id = _relative(image.path, folder, image.name).as_posix()
    by_place = defaultdict(list)
    for image in images:
        by_place[image.image_id].append(image)
    for same in by_place.values():
        if len(same) > 1:  # two names of one file
            problems.append(f"{file}: {' and '.join(image.name for image in same[:3])} are the same file")
            images = [image for image in images if image not in same]
    return sorted(images, key=lambda image: image.name), problems


def _find(name: str, root: Path, folder: Path, is_base_unique: bool) -> Path:
    """Where the file lies: as it is named below the folder of the images or the data set's, or, since tools write the
    folders of another machine too, by its name alone."""
    for place in (folder / name, root / name):
        if os.path.isfile(place):  # a name too long for the file system is none either, where `Path` raises
            return place
    alone = folder / name.rpartition("/")[2]
    return alone if is_base_unique and os.path.isfile(alone) else folder / name


def _relative(path: Path, folder: Path, name: str) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else Path(name)


def _declared(entry: Mapping) -> tuple[int, int] | None:
    height, width = (whole_or_none(entry.get(side)) for side in ("height", "width"))
    return (height, width) if height and width and height > 0 and width > 0 else None


def size_of(image: CocoImage, notes: Notes) -> tuple[int, int]:
    """(height, width) that an image's annotations are of: what the JSON declares, if the file has it as it is stored
    or as its EXIF rotation shows it; where it declares none, or one for the other, the file's own.

    Raises: `ValueError` if neither is known, or they differ otherwise: then the annotations are of another picture.
    """
    try:
        with open_image(image.path) as picture:
            stored = picture.height, picture.width
            turned = read_orientation(picture, loaded=False) in TRANSPOSED
    except NO_HEADER:
        if image.declared is None:
            raise ValueError("the JSON declares no size, and the file cannot be read") from None
        return image.declared
    shown = (stored[1], stored[0]) if turned else stored
    if image.declared in (stored, shown):
        return image.declared
    if image.declared is None:
        notes.add("{} images have no size in the JSON and are read at their files'", image.name)
    elif image.declared == (stored[1], stored[0]):
        notes.add("{} images have height and width in each other's place in the JSON", image.name)
    else:
        height, width = image.declared
        raise ValueError(
            f"the JSON declares {height} x {width} (height x width), and the file is {shown[0]} x {shown[1]}"
        )
    return shown


def shared_categories(
    files: Mapping[str, Path], split: str, kind: str, content: Mapping
) -> tuple[list[dict], list[dict], list[str]]:
    """The categories that give the label ids of every split, those of `split`, and notes.

    Each split has a JSON of its own, and tools number the categories of each anew. Labels are those of `train`, or of
    the first split; others are matched with them by name. A root category, which tools write as the parent of all
    others and annotate nothing with, is no label.

    Args:
        content: of the JSON of `split`, which is read already.
    Raises: `ValueError` for a split with a category that the first one lacks.
    """
    heads = {name: _head(file, kind) for name, file in files.items() if name != split}
    heads[split] = _head_of(content, files[split])
    candidates = {(c["id"], c["name"]) for head in heads.values() for c in head["categories"] if _is_root(c, head)}
    used = {(c["id"], c["name"]) for head in heads.values() for c in head["categories"] if c["id"] in head["used"]}
    roots = candidates - used
    for head in heads.values():
        head["labels"] = [c for c in head["categories"] if (c["id"], c["name"]) not in roots]
    first = "train" if "train" in heads else min(heads)
    ids = {category["name"]: category["id"] for category in heads[first]["labels"]}
    for name, head in heads.items():
        more = [category["name"] for category in head["labels"] if category["name"] not in ids]
        if more:
            raise ValueError(
                f"{files[name]} has {len(more)} categories that {files[first]} lacks, first {more[0]!r}. The labels "
                f"are those of {first}: add them to its JSON, or name all labels with data.labels (--labels)."
            )
    own = heads[split]["labels"]
    notes = [
        f"{files[split]}: the category {c['name']!r} (id {c['id']}) is the root of the others, and no label"
        for c in heads[split]["categories"]
        if c not in own
    ]
    if any(ids[category["name"]] != category["id"] for category in own):
        notes.append(f"{files[split]}: its category ids differ from those of {files[first]}; matched by name")
    return heads[first]["labels"], own, notes


def _is_root(category: Mapping, head: Mapping) -> bool:
    others = [other for other in head["categories"] if other is not category]
    return (
        bool(others)
        and category.get("supercategory") in ROOTS
        and all(other.get("supercategory") == category["name"] for other in others)
    )


def _head(file: Path, kind: str) -> dict:
    """Categories of a JSON, and the ids that it uses; kept in the cache: the JSON of a large split takes long."""
    status = file.stat()
    facts = [str(file.resolve()), status.st_size, status.st_mtime_ns, kind]
    kept = Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf" / f"categories-{fingerprint_of(facts)}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    head = _head_of(load_json(file, kind), file)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, head)
    return head


def _head_of(content: Mapping, file: Path) -> dict:
    used = set()
    for annotation in content["annotations"]:
        segments = annotation.get("segments_info")
        for entry in segments if isinstance(segments, list) else [annotation]:
            used.add(whole_or_none(entry.get("category_id")) if isinstance(entry, dict) else None)
    return {"categories": read_categories(content, file), "used": sorted(used - {None})}
