"""How a source's masks become label ids: ids with gaps, class colors, palettes, COCO panoptic PNGs."""

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ...labels import BUILTIN_LABEL_SETS, LabelSet
from ...segments import measure_segments
from ..schema import MAX_LABELS_8BIT, ignore_index_for, read_map, read_panoptic

UNKNOWN = -1
MOST_ID = 65_535  # of 16-bit masks
FEW = 8  # ids that a message lists


@dataclass(frozen=True)
class MapDecoder:
    """Turns an opened mask into label ids 0..C-1 and `ignore_index`.

    Args:
        num_labels (`int`): C.
        ids (`dict`): id in the mask -> label id or `ignore_index`; every id that is absent is an error.
        colors (`dict`): RGB triple -> label id or `ignore_index`, for masks that are painted; may be empty.
        panoptic (`bool`): masks are COCO panoptic PNGs (id = R + 256 G + 65536 B), records have segments_info, whose
            categories `ids` maps.
        things (`tuple` of `int`): label ids of things, for panoptic masks.
    """

    num_labels: int
    ids: dict[int, int]
    colors: dict[tuple[int, int, int], int] = field(default_factory=dict)
    panoptic: bool = False
    things: tuple[int, ...] = ()

    @classmethod
    def of_panoptic(cls, labels: LabelSet) -> "MapDecoder":
        """Of panoptic PNGs whose segments_info holds label ids."""
        void = ignore_index_for(labels.num_labels)
        ids = {label: label for label in range(labels.num_labels)} | {void: void}
        return cls(labels.num_labels, ids, panoptic=True, things=tuple(labels.things))

    @property
    def ignore_index(self) -> int:
        return ignore_index_for(self.num_labels)

    @cached_property
    def is_identity(self) -> bool:
        """Whether a one-channel mask already holds label ids."""
        return not self.panoptic and all(raw == label for raw, label in self.ids.items())

    @cached_property
    def _id_table(self) -> np.ndarray:
        largest = max(self.ids, default=0)
        if largest > MOST_ID:
            raise ValueError(f"the label file has the id {largest}; a mask holds ids up to {MOST_ID}")
        table = np.full(max(largest + 1, 256), UNKNOWN, np.int32)
        for raw, label in self.ids.items():
            table[raw] = label
        return table

    @cached_property
    def _color_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """The 24-bit keys of `colors`, sorted, and their label ids."""
        colors = np.array(list(self.colors), np.int64).reshape(-1, 3)
        keys = colors @ (65536, 256, 1)
        order = np.argsort(keys)
        return keys[order], np.array(list(self.colors.values()), np.int32)[order]

    def keeps(self, mask: Image.Image) -> bool:
        """Whether the file can serve as segmentation_map as it is: a PNG of the schema's mode that holds label ids."""
        mode = "L" if self.num_labels <= MAX_LABELS_8BIT else "I;16"
        return self.is_identity and mask.format == "PNG" and mask.mode == mode

    def decode(self, mask: Image.Image, segments_info: list[dict] | None = None) -> np.ndarray:
        """Label ids as int32 `(height, width)`. Raises `ValueError` with the reason if a pixel has no label."""
        if self.panoptic:
            return self._decode_panoptic(mask, segments_info or [])
        if mask.mode == "P" and not self._holds_ids(mask):
            return self._decode_colors(np.array(mask.convert("RGB")))
        if mask.mode in ("RGB", "RGBA") and self.colors:
            pixels = np.array(mask)[..., :3]
            if not (pixels == pixels[..., :1]).all() or self._grays_are_colors(pixels):
                return self._decode_colors(pixels)
        raw = read_map(mask)
        table = self._id_table
        labels = table[np.clip(raw, 0, len(table) - 1)]
        labels[(raw < 0) | (raw >= len(table))] = UNKNOWN
        if (labels == UNKNOWN).any():
            bad = np.unique(raw[labels == UNKNOWN])
            named = " ".join(f"--void_ids {number}" for number in bad[:FEW])
            hint = f"; if they are void, say so with {named}" if len(bad) <= FEW and bad.min() >= 0 else ""
            if bad.tolist() == [self.num_labels] and self.ids.get(0) == 0:
                hint = f"; if 0 is void and the ids are 1..{self.num_labels}, say so with --zero_is_void"
            if not hint and len(bad) > FEW:
                hint = '; if they number instances, say so in classes.json with "masks": "instances"'
            raise ValueError(f"label ids {_few(bad)} are outside the label set ({self._describe_ids()}){hint}")
        return labels

    def with_zero_void(self) -> "MapDecoder":
        """The decoder of masks that hold 1..C instead of 0..C-1, and 0 where a pixel is void."""
        ids = {0: self.ignore_index, self.ignore_index: self.ignore_index}
        return replace(self, ids=ids | {label + 1: label for label in range(self.num_labels)})

    def with_void(self, ids: Iterable[int]) -> "MapDecoder":
        """The decoder of masks in which `ids` are void too. Raises: `ValueError` for the id of a label."""
        for number in ids:
            if self.panoptic or self.ids.get(number, self.ignore_index) != self.ignore_index:
                raise ValueError(
                    f"data.void_ids (--void_ids) names {number}, which is the id of a label in the masks."
                )
        return replace(self, ids=self.ids | dict.fromkeys(ids, self.ignore_index))

    def _describe_ids(self) -> str:
        known = sorted(raw for raw, label in self.ids.items() if label != self.ignore_index)
        void = [raw for raw, label in self.ids.items() if label == self.ignore_index]
        ids = f"{known[0]}..{known[-1]}" if known == list(range(known[0], known[-1] + 1)) else _few(known)
        return f"{ids}; void {_few(void)}" if void else ids

    def _holds_ids(self, mask: Image.Image) -> bool:
        """Whether a palette PNG's indices are ids: no color in use is a class's, or each class id has its own color.

        Otherwise the mask was painted, and the order of its palette means nothing.
        """
        indices = [index for index, count in enumerate(mask.histogram()) if count]
        palette = Image.fromarray(np.array([indices], np.uint8))
        palette.putpalette(mask.getpalette() or [])
        found = [self.colors.get(tuple(color)) for color in np.array(palette.convert("RGB"))[0].tolist()]
        if all(label is None for label in found):
            return True
        colored = set(self.colors.values())
        wanted = [self.ids.get(index, self.ignore_index) for index in indices]
        return all(
            label == own or (label is None and own not in colored)
            for label, own in zip(found, wanted, strict=True)
            if own != self.ignore_index
        )

    def _grays_are_colors(self, pixels: np.ndarray) -> bool:
        """Whether an all-gray RGB mask is painted (an image of void and gray classes) rather than ids in RGB."""
        return all((int(gray),) * 3 in self.colors for gray in np.unique(pixels[..., 0]))

    def _decode_colors(self, pixels: np.ndarray) -> np.ndarray:
        keys = (pixels[..., 0].astype(np.int32) << 16) | (pixels[..., 1].astype(np.int32) << 8) | pixels[..., 2]
        known, values = self._color_keys
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        labels = values[places]
        wrong = known[places] != keys
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            raise ValueError(
                f"{int(wrong.sum())} pixels have colors that no class has, first {tuple(pixels[y, x].tolist())} at "
                f"x={x}, y={y}; list every color in classes.json (one for void as `void_color`)"
            )
        return labels

    def _decode_panoptic(self, mask: Image.Image, segments_info: list[dict]) -> np.ndarray:
        if mask.mode not in ("RGB", "RGBA"):
            raise ValueError(f"a panoptic PNG is RGB, this is {mask.mode}")
        pixels = np.array(mask)[..., :3].astype(np.int32)
        segment_ids = pixels[..., 0] | (pixels[..., 1] << 8) | (pixels[..., 2] << 16)
        segments = sorted(segments_info, key=lambda segment: segment["id"])
        known = np.array([0] + [segment["id"] for segment in segments], np.int64)
        values = np.array([self.ignore_index] + [self.label_of(segment) for segment in segments], np.int32)
        # Small ids go through a table: ten times faster than a search. COCO's ids are colors, up to 2^24.
        if known[-1] < 1 << 16:
            table = np.full(known[-1] + 2, UNKNOWN, np.int32)
            table[known] = np.arange(len(known))
            places = table[np.minimum(segment_ids, known[-1] + 1)]
            wrong = places == UNKNOWN
        else:
            places = np.minimum(np.searchsorted(known, segment_ids), len(known) - 1)
            wrong = known[places] != segment_ids
        if wrong.any():
            raise ValueError(f"segment ids {_few(np.unique(segment_ids[wrong]))} are not in the JSON's segments_info")
        return values[places]

    def read_segments(self, mask: Image.Image, segments_info: list[dict]) -> list[dict]:
        """segments_info of a panoptic mask as records hold it: label ids, and area and bbox as they are."""
        segments = [
            {"id": s["id"], "category_id": self.label_of(s), "iscrowd": bool(s.get("iscrowd"))} for s in segments_info
        ]
        segments = [segment | {"isthing": segment["category_id"] in self.things} for segment in segments]
        return measure_segments(read_panoptic(mask), segments)

    def label_of(self, segment: dict) -> int:
        """Label id of a segment of the source. Raises: `ValueError` for a category that is none."""
        label = self.ids.get(segment["category_id"])
        if label is None:
            raise ValueError(f"segment {segment['id']} has category {segment['category_id']}, which is no label")
        return label


@dataclass
class LabelFile:
    """What classes.json, labels.json or a similar file says."""

    labels: LabelSet
    decoder: MapDecoder
    collisions: list[str]  # colors that two labels share
    of_instances: bool = False  # the masks hold the number of an instance, see `instance_masks`


def read_label_file(content, name: str = "classes.json") -> LabelFile:
    """Understand a label file's JSON, or a path to one, or the name of a built-in set (`BUILTIN_LABEL_SETS`).

    A path may also be of names alone, one a line (.txt), or of Roboflow's table of pixel values and classes (.csv).

    Takes `{"categories": [{"id", "name", "isthing", "color"}], "ignore_index"}`, such a list alone, a list of names,
    or `{id: name}`. Ids with gaps are renumbered in their order; a category whose id is `ignore_index` is void; masks
    hold the file's ids. `void_color` names the color of void pixels in painted masks. A negative `ignore_index` is no
    pixel's and is passed over. `"masks": "instances"` says that masks hold numbers of instances.

    Raises: `ValueError` that names the file for anything else.
    """
    if isinstance(content, (str, Path)):
        name = str(content)
        if name in BUILTIN_LABEL_SETS and not Path(name).exists():
            return label_file_of(LabelSet.builtin(name), source_ids=True)
        if not Path(name).is_file():
            raise ValueError(f"{name} does not exist; give a label file, or one of {', '.join(BUILTIN_LABEL_SETS)}.")
        try:
            content = _read_content(Path(name))
        except ValueError as error:
            raise ValueError(f"{name} is not {Path(name).suffix[1:].upper() or 'JSON'}: {error}") from error
    settings = content if isinstance(content, dict) and "categories" in content else {"categories": content}
    try:
        entries = _read_entries(settings["categories"])
        void_id = settings.get("ignore_index")
        void_id = None if void_id is None else whole_id(void_id, "ignore_index")
        void = [entry for entry in entries if entry["id"] == void_id]
        labels = LabelSet.from_dict(
            {"categories": [e for e in entries if e["id"] != void_id], "edge_color": settings.get("edge_color")},
            remap=True,
        )
        if labels.source_ids[0] < 0:
            raise ValueError(f"the label {labels.id2label[0]!r} has the id {labels.source_ids[0]}; no pixel holds it")
        void_colors = [entry["color"] for entry in void] + [_color(settings.get("void_color"), "void_color")]
        if settings.get("masks") not in (None, "labels", "instances"):
            raise ValueError(f'masks is {settings["masks"]!r}; it must be "labels" or "instances".')
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
    void_ids = [void_id] if void_id is not None and void_id >= 0 else []
    found = label_file_of(labels, True, void_ids, [color for color in void_colors if color is not None])
    return replace(found, of_instances=settings.get("masks") == "instances")


def _read_content(path: Path):
    """What a label file holds, as JSON would say it."""
    text = path.read_text(encoding="utf-8-sig")  # some editors write a BOM
    if path.suffix.lower() == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if path.suffix.lower() != ".csv":
        return json.loads(text)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if len(row) > 1]
    if rows and not rows[0][0].isdigit():  # Pixel Value, Class
        del rows[0]
    if not rows:
        raise ValueError("it has no lines of a pixel value and a class")
    return [{"id": row[0], "name": row[1]} for row in rows]


def _read_entries(entries) -> list[dict]:
    """Categories with a whole id, a name, a color of three and a flag that is one. Raises `ValueError`."""
    if isinstance(entries, dict):
        entries = entries.get("id2label", entries)
    if isinstance(entries, dict):
        entries = [{**(e if isinstance(e, dict) else {"name": e}), "id": key} for key, e in entries.items()]
    if not isinstance(entries, list):
        raise ValueError(f"it holds {json.dumps(entries)[:40]}, not a list of categories or names, nor {{id: name}}.")
    checked = []
    for place, entry in enumerate(entries):
        entry = {"id": place, "name": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not {"id", "name"} <= set(entry) or not isinstance(entry["name"], str):
            raise ValueError(f"The category {json.dumps(entry)} lacks an id or a name; each category needs both.")
        name = entry["name"]
        if entry.get("isthing") not in (None, 0, 1):
            raise ValueError(f"isthing of {name!r} is {entry['isthing']!r}; it must be true, false, 1 or 0.")
        color = _color(entry.get("color"), f"The color of {name!r}")
        checked.append(entry | {"id": whole_id(entry["id"], f"The id of {name!r}"), "color": color})
    return checked


def whole_id(value, what: str) -> int:
    """An id; the keys of JSON are text."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be a whole number.")
    return value


def _color(value, what: str) -> tuple[int, int, int] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 3 or any(v not in range(256) for v in value):
        raise ValueError(f"{what} is {value!r}; it must be three integers in 0..255.")
    red, green, blue = (int(v) for v in value)
    return red, green, blue


def label_file_of(labels: LabelSet, source_ids: bool = False, void_ids=(), void_colors=()) -> LabelFile:
    """The decoder of masks that hold `labels`' own ids, or, with `source_ids`, those that they had in their source."""
    ignore_index = ignore_index_for(labels.num_labels)
    raw_ids = labels.source_ids if source_ids else range(labels.num_labels)
    ids = {ignore_index: ignore_index, labels.ignore_index: ignore_index} if not void_ids else {}
    ids |= dict.fromkeys(void_ids, ignore_index)
    if ignore_index not in ids and ignore_index not in raw_ids:
        ids[ignore_index] = ignore_index
    ids |= {raw: label for label, raw in enumerate(raw_ids)}
    colors = {tuple(color): ignore_index for color in void_colors}
    names, collisions = {color: "void" for color in colors}, []
    for category in labels.categories:
        if category.color is None:
            continue
        if category.color in names:
            collisions.append(f"{names[category.color]!r} and {category.name!r} share the color {category.color}")
        names.setdefault(category.color, category.name)
        colors.setdefault(category.color, category.id)
    # Records always hold 255 (65535), and in which colors maps are painted says who reads them.
    labels = LabelSet(labels.categories, ignore_index, labels.edge_color, labels.source_ids)
    return LabelFile(labels, MapDecoder(labels.num_labels, ids, colors), collisions)


def _few(values) -> str:
    values = [int(value) for value in values]
    return ", ".join(map(str, values[:FEW])) + (", ..." if len(values) > FEW else "")
