"""LabelSet: which label ids a data set has, what they mean, and the files that say so."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from .storage.files import write_json

# ADE20K SceneParsing 150; COCO panoptic 133; the 19 that Cityscapes is scored on; the 21 of Pascal VOC.
BUILTIN_LABEL_SETS = ("ade20k", "coco", "cityscapes", "voc")
LABEL_FILES = ("labels.json", "classes.json", "id2label.json")
# In 0-255 RGB units: colors that come back from an autoencoder up to half of it off are still told apart.
LEAST_COLOR_DISTANCE = 16


@dataclass(frozen=True)
class Category:
    """One label: `id` in 0..C-1, its name, whether it is a thing (countable) or stuff, and its RGB color, if any."""

    id: int
    name: str
    isthing: bool = False
    color: tuple[int, int, int] | None = None

    def __post_init__(self):
        if self.color is not None and (len(self.color) != 3 or not all(0 <= value <= 255 for value in self.color)):
            raise ValueError(f"The color of label {self.name!r} is {self.color}; it must be three integers in 0..255.")


@dataclass(frozen=True)
class LabelSet:
    """The labels of a data set. Ids run from 0 to C-1 without gaps; sources with gaps are remapped on reading.

    Args:
        categories (iterable of `Category`): ids 0..C-1, in any order; names unique.
        ignore_index (`int`, optional): the id that no loss or metric counts; 255, or 65535 above 255 labels.
        edge_color (RGB triple, optional): the color that outlines segments in color maps, where a codec uses one.
        source_ids (iterable of `int`, optional): the id that each label had in its source; 0..C-1 if absent.
        palette (`str`): which colors color maps take: `generated`, or the labels' own, `dataset`.
    Raises: `ValueError` for ids that repeat or leave gaps, repeated names, and an `ignore_index` that is a label.
    """

    categories: tuple[Category, ...]
    ignore_index: int = None  # pyright: ignore[reportAssignmentType]  # __post_init__ puts a number in its place
    edge_color: tuple[int, int, int] | None = None
    source_ids: tuple[int, ...] = None  # pyright: ignore[reportAssignmentType]  # and the ids
    palette: str = "generated"

    def __post_init__(self):
        categories = tuple(sorted(self.categories, key=lambda category: category.id))
        _check_unique(categories)
        ids = [category.id for category in categories]
        if ids != list(range(len(ids))):
            raise ValueError(
                f"The label ids run from {ids[0]} to {ids[-1]} but there are {len(ids)} labels; ids must be 0.."
                f"{len(ids) - 1} without gaps. Read the set with remap=True to renumber it in the order of its ids."
            )
        limit = 255 if len(ids) <= 255 else 65535  # 8-bit or 16-bit PNG
        ignore_index = limit if self.ignore_index is None else int(self.ignore_index)
        if not len(ids) <= ignore_index <= limit:
            raise ValueError(
                f"ignore_index is {ignore_index}; with {len(ids)} labels it must be in {len(ids)}..{limit}, "
                f"so that it is no label and fits a segmentation map's PNG."
            )
        source_ids = tuple(ids if self.source_ids is None else map(int, self.source_ids))
        if len(source_ids) != len(ids):
            raise ValueError(f"There are {len(source_ids)} source_ids for {len(ids)} labels; give one for each label.")
        edge_color = None if self.edge_color is None else tuple(int(value) for value in self.edge_color)
        for name, value in (
            ("categories", categories),
            ("ignore_index", ignore_index),
            ("edge_color", edge_color),
            ("source_ids", source_ids),
        ):
            object.__setattr__(self, name, value)  # frozen: this is the one place that sets

    # Reading

    @classmethod
    def from_file(cls, path: str | Path, remap: bool = False) -> "LabelSet":
        """Read labels.json, classes.json, an id2label mapping, a COCO annotation file, or the folder that has one.

        The names of the built-in sets (`ade20k`, ...) are accepted too. See `from_dict` for `remap`.
        """
        if str(path) in BUILTIN_LABEL_SETS and not Path(path).exists():
            return cls.builtin(str(path))
        path = Path(path)
        if path.is_dir():
            found = [path / name for name in LABEL_FILES if (path / name).is_file()]
            if not found:
                raise ValueError(f"{path} has none of {', '.join(LABEL_FILES)}; write one, or name a label file.")
            path = found[0]
        if not path.is_file():
            raise ValueError(f"{path} does not exist; give a label file, or one of {', '.join(BUILTIN_LABEL_SETS)}.")
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")), remap=remap)
        except (TypeError, ValueError) as error:  # JSONDecodeError is one; an ignore_index that is a list another
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, d: Mapping | list, remap: bool = False) -> "LabelSet":
        """Build a set from `{"categories": [...], "ignore_index": ..., "edge_color": ...}`, its list of categories
        alone, or `{id: name}`.

        Args:
            remap (`bool`): renumber ids with gaps (COCO has them) to 0..C-1 in the order of the ids, which are kept in
                `source_ids`. Without it such ids raise.
        """
        if isinstance(d, Mapping) and "categories" not in d:
            if "id2label" in d:
                return cls.from_id2label(d["id2label"], d.get("ignore_index"), remap=remap)
            return cls.from_id2label(d, remap=remap)
        settings: Mapping[str, Any] = d if isinstance(d, Mapping) else {"categories": d}
        entries = settings["categories"]
        if not isinstance(entries, (list, tuple)):
            raise ValueError(f"Labels are a list of categories or {{id: name}}, not {entries!r}.")
        missing = [e for e in entries if not isinstance(e, Mapping) or None in (e.get("id"), e.get("name"))]
        if missing:
            raise ValueError(f"The category {missing[0]} lacks an id or a name; each category needs both.")
        categories = [
            Category(int(entry["id"]), str(entry["name"]), bool(entry.get("isthing", False)), _rgb(entry.get("color")))
            for entry in entries
        ]
        source_ids: Any = None  # a list is made a tuple below
        if remap:
            _check_unique(categories)
            categories.sort(key=lambda category: category.id)
            source_ids = [category.id for category in categories]
            categories = [Category(i, c.name, c.isthing, c.color) for i, c in enumerate(categories)]
        elif any("source_id" in entry for entry in entries):
            by_id = sorted(entries, key=lambda entry: int(entry["id"]))
            source_ids = [entry.get("source_id", entry["id"]) for entry in by_id]
        ignore_index: Any = settings.get("ignore_index")
        palette = settings.get("palette", cls.palette)
        return cls(tuple(categories), ignore_index, _rgb(settings.get("edge_color")), source_ids, palette)

    @classmethod
    def from_id2label(cls, id2label: Mapping, ignore_index: int | None = None, remap: bool = False) -> "LabelSet":
        """Build a set from `{id: name}`, the transformers convention; keys may be strings, as JSON makes them."""
        try:
            entries = [{"id": int(key), "name": name} for key, name in id2label.items()]
        except (AttributeError, TypeError, ValueError):
            keys = f"its keys are {list(id2label)[:5]}" if isinstance(id2label, Mapping) else f"it is {id2label!r}"
            raise ValueError(f"id2label must map label ids to names, and {keys}.") from None
        return cls.from_dict({"categories": entries, "ignore_index": ignore_index}, remap=remap)

    @classmethod
    def from_records(cls, dataset) -> "LabelSet":
        """Read the labels that `data.schema.attach_labels` wrote into a dataset's description (key "labels").

        Raises: `ValueError` if the dataset carries none.
        """
        try:
            settings = json.loads(dataset.info.description)["labels"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                "The dataset carries no labels in its description. Read it with load_records, "
                "or attach them with seggen_hf.data.schema.attach_labels(dataset, labels)."
            ) from None
        return cls.from_dict(settings)

    @classmethod
    def builtin(cls, name: str) -> "LabelSet":
        """One of `BUILTIN_LABEL_SETS`; ids with gaps (COCO, Cityscapes) are renumbered, see `source_ids`."""
        if name not in BUILTIN_LABEL_SETS:
            raise ValueError(f"There is no built-in label set {name!r}; there are {', '.join(BUILTIN_LABEL_SETS)}.")
        text = (files("seggen_hf") / "assets" / "label_sets" / f"{name}.json").read_text(encoding="utf-8")
        return cls.from_dict(json.loads(text), remap=True)

    # Views

    def __len__(self) -> int:
        return len(self.categories)

    @property
    def num_labels(self) -> int:
        return len(self.categories)

    @property
    def id2label(self) -> dict[int, str]:
        return {category.id: category.name for category in self.categories}

    @property
    def label2id(self) -> dict[str, int]:
        return {category.name: category.id for category in self.categories}

    @property
    def things(self) -> list[int]:
        return [category.id for category in self.categories if category.isthing]

    @property
    def stuff(self) -> list[int]:
        return [category.id for category in self.categories if not category.isthing]

    @property
    def colors(self) -> list[tuple[int, int, int] | None]:
        return [category.color for category in self.categories]

    # Writing

    def with_own_palette(self) -> "LabelSet":
        """The same labels, whose color maps take the labels' own colors.

        Raises: `ValueError` if a label has no color, or two have colors nearer than `LEAST_COLOR_DISTANCE`, with names
        and distances.
        """
        bare = [category.name for category in self.categories if category.color is None]
        if bare:
            raise ValueError(
                f"data.palette is 'dataset', and {len(bare)} of the {len(self)} labels have no color of their own, "
                f"such as {bare[0]!r}. Give each a `color` in the label file, or set data.palette=generated."
            )
        pairs = itertools.combinations(self.categories, 2)
        distances = [(math.dist(one.color or (), other.color or ()), one.name, other.name) for one, other in pairs]
        near = sorted(entry for entry in distances if entry[0] < LEAST_COLOR_DISTANCE)
        if near:
            told = ", ".join(f"{one!r} and {other!r} ({distance:.1f})" for distance, one, other in near[:5])
            raise ValueError(
                f"data.palette is 'dataset', and {len(near)} pairs of labels have colors less than "
                f"{LEAST_COLOR_DISTANCE} apart, which drawn maps would mix up: {told}. Give them others in the label "
                "file, or set data.palette=generated."
            )
        return replace(self, palette="dataset")

    def fits(self, other: "LabelSet") -> bool:
        """Whether maps of both sets can be used together: the same names under the same ids, the same void."""
        return not differing_labels(self, other)

    def to_dict(self) -> dict:
        """What labels.json holds: plain lists, numbers and strings."""
        categories = []
        for category, source_id in zip(self.categories, self.source_ids, strict=True):
            entry = {"id": category.id, "name": category.name, "isthing": int(category.isthing)}
            if category.color is not None:
                entry["color"] = list(category.color)
            if source_id != category.id:
                entry["source_id"] = source_id
            categories.append(entry)
        edge_color = None if self.edge_color is None else list(self.edge_color)
        palette = {} if self.palette == LabelSet.palette else {"palette": self.palette}
        return {"categories": categories, "ignore_index": self.ignore_index, "edge_color": edge_color} | palette

    def save(self, folder: str | Path) -> None:
        """Write labels.json and id2label.json (the transformers convention) into `folder`."""
        folder = Path(folder)
        for name, content in (("labels.json", self.to_dict()), ("id2label.json", self.id2label)):
            write_json(folder / name, content, ensure_ascii=False)


def differing_labels(theirs, ours, limit: int = 5) -> str:
    """`id: their name / our name` of the first labels that differ, and both void ids if they do; empty if all agree.

    Args:
        theirs, ours: `LabelSet`, `ColormapCodec`, or what else has `id2label`, or is one; a segmenter's configuration
            does not say what void is.
    """
    found = [labels if isinstance(labels, Mapping) else labels.id2label for labels in (theirs, ours)]
    first, second = ({int(i): name for i, name in names.items()} for names in found)
    ids = [i for i in sorted(first.keys() | second.keys()) if first.get(i) != second.get(i)]
    lines = [f"{i}: {first.get(i, 'none')} / {second.get(i, 'none')}" for i in ids[:limit]]
    voids = [getattr(labels, "ignore_index", None) for labels in (theirs, ours)]
    if None not in voids and voids[0] != voids[1]:
        lines.append(f"ignore_index: {voids[0]} / {voids[1]}")
    return ", ".join(lines) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")


def _check_unique(categories: Iterable[Category]) -> None:
    """Refuse an empty set, and two categories of one id or one name."""
    if not categories:
        raise ValueError("The label set is empty; it needs at least one category.")
    name_of, id_of = {}, {}
    for category in categories:
        if category.id in name_of:
            raise ValueError(
                f"Label id {category.id} is given twice, to {name_of[category.id]!r} and {category.name!r}; "
                f"give each label its own id."
            )
        if category.name in id_of:
            raise ValueError(
                f"The name {category.name!r} is given twice, to ids {id_of[category.name]} and {category.id}; "
                f"give each label its own name."
            )
        name_of[category.id] = category.name
        id_of[category.name] = category.id


def _rgb(color) -> tuple[int, int, int] | None:
    rgb: Any = None if color is None else tuple(int(value) for value in color)
    return rgb
