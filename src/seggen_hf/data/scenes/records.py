"""The built-in scenes: pictures drawn in code with captions and exact ground truth, for tests and the quickstart.

A scene follows from (seed, index) alone. Its content is planned before its light, so one content can be drawn in
every style with identical maps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import PIL
from datasets.fingerprint import Hasher
from PIL import Image

from ...labels import Category, LabelSet
from ..schema import attach_labels, encode_image, encode_map, encode_panoptic, record_features
from .canvas import Canvas
from .layouts import LAYOUTS, make_plan
from .plan import THING_COLORS, ScenePlan
from .styles import SEEN_STYLES, STYLE_TABLE, STYLES, UNSEEN_STYLES
from .things import draw_thing

_STUFF_COLORS = {
    "sky": (135, 206, 250),
    "mountain": (120, 100, 160),
    "grass": (110, 190, 70),
    "water": (30, 110, 200),
    "road": (110, 110, 110),
    "sand": (235, 205, 130),
    "building": (180, 110, 90),
}
_THING_COLORS = {
    "tree": (0, 100, 40),
    "house": (255, 120, 0),
    "car": (220, 20, 60),
    "boat": (0, 230, 230),
    "person": (250, 240, 40),
    "ball": (255, 0, 255),
    "cow": (90, 50, 20),
    "lamp": (255, 255, 255),
}
SCENE_CATEGORIES: list[dict] = [
    {"id": i, "name": name, "isthing": int(name in _THING_COLORS), "color": list(color)}
    for i, (name, color) in enumerate({**_STUFF_COLORS, **_THING_COLORS}.items())
]
_LABEL2ID = {category["name"]: category["id"] for category in SCENE_CATEGORIES}

# How many records each split has by default, and the styles in them. `unlabelled` is for the generators' prior: it has
# the unseen styles too, and although its records carry maps, as all do, the prior's training must not read them.
SCENE_SPLITS: dict[str, tuple[int, tuple[str, ...]]] = {
    "unlabelled": (24_000, STYLES),
    "train": (100, SEEN_STYLES),
    "val": (100, SEEN_STYLES),
    "test": (300, SEEN_STYLES),
    "unseen": (300, UNSEEN_STYLES),
}
MAX_SPLIT_RECORDS = 10_000_000  # each split has as many scene indices to itself

COUNTS = ("a", "two", "three", "four", "five", "six")
PLURALS = {"person": "people"}
MAX_MENTIONS = 4
MIN_VISIBLE = 6 / 64**2  # share of the picture from which a thing counts as visible


def _plural(kind: str) -> str:
    return PLURALS.get(kind, kind + "s")


def _words() -> tuple[str, ...]:
    words = {",", "a", "an", "and", "of", "with", "the", *COUNTS, *_LABEL2ID, *LAYOUTS, "mountains"}
    words.update(word for style in STYLES for word in style.split())
    words.update(color for colors in THING_COLORS.values() for color in colors if color)
    words.update(_plural(kind) for kind in THING_COLORS)
    return tuple(sorted(words))


SCENE_WORDS: tuple[str, ...] = _words()


@dataclass
class Scene:
    """One drawn scene.

    `image` is PIL RGB; `segmentation_map` (H, W) uint8 holds ids of SCENE_CATEGORIES, without void; `panoptic_map`
    (H, W) int32 holds segment ids from 1; `segments_info` describes those that can be seen (COCO's keys, bbox as
    x, y, width, height in pixels); `colors` gives the caption's adjective of each thing's segment.
    """

    image: Image.Image
    segmentation_map: np.ndarray
    panoptic_map: np.ndarray
    segments_info: list[dict]
    caption: str
    style: str
    layout: str
    colors: dict[int, str] = field(default_factory=dict)


def draw_scene(
    seed: int,
    index: int,
    styles: tuple[str, ...] = STYLES,
    size: tuple[int, int] = (64, 64),
    style: str | None = None,
) -> Scene:
    """Draws scene `index` of the stream `seed`, at `size` = (height, width).

    The style is drawn from `styles`, or is `style`: the same content in another light, with identical maps.

    Raises:
        ValueError: for an unknown style, or a size under 16 pixels.
    """
    height, width = size
    if min(height, width) < 16:
        raise ValueError(f"Scene size is {height} x {width}; both must be at least 16 pixels.")
    for name in styles if style is None else (style,):
        if name not in STYLE_TABLE:
            raise ValueError(f"Unknown scene style {name!r}; it must be one of {', '.join(STYLES)}.")
    plan = make_plan(np.random.default_rng([seed, index, 0]))
    look = np.random.default_rng([seed, index, 1])
    drawn = styles[int(look.integers(0, len(styles)))]
    style = style or drawn

    canvas = Canvas(plan, STYLE_TABLE[style], height, width)
    names = ["sky"]  # of segments 1, 2, ...
    canvas.sky(1)
    for region in plan.stuff:
        if region.category not in names:
            names.append(region.category)
        canvas.stuff(region, names.index(region.category) + 1)
    lights, colors = [], {}
    for thing in plan.things:
        names.append(thing.kind)
        colors[len(names)] = thing.color
        lights += draw_thing(canvas, thing, len(names))
    image, segments = canvas.finish(lights)

    label_of_segment = np.array([0, *(_LABEL2ID[name] for name in names)], np.uint8)
    infos = _segments_info(segments, label_of_segment)
    colors = {info["id"]: colors[info["id"]] for info in infos if info["isthing"]}
    caption = f"{_content(plan, infos, colors, segments.size)}, {style}"
    return Scene(
        image, label_of_segment[segments], segments.astype(np.int32), infos, caption, style, plan.layout, colors
    )


def _segments_info(segments: np.ndarray, label_of_segment: np.ndarray) -> list[dict]:
    infos = []
    for segment, area in enumerate(np.bincount(segments.ravel()).tolist()):
        if not area:
            continue
        box = Image.fromarray(segments == segment).getbbox()
        assert box is not None  # it has pixels
        x0, y0, x1, y1 = box
        label = int(label_of_segment[segment])
        isthing = SCENE_CATEGORIES[label]["isthing"]
        bbox = [x0, y0, x1 - x0, y1 - y0]
        info = {"id": segment, "category_id": label, "isthing": isthing, "iscrowd": 0, "area": area, "bbox": bbox}
        infos.append(info)
    return infos


def _content(plan: ScenePlan, infos: list[dict], colors: dict[int, str], num_pixels: int) -> str:
    """The layout, then the visible things by kind and colour with their number, the largest together first."""
    place = f"a {plan.layout}"
    if any(info["category_id"] == _LABEL2ID["mountain"] and info["area"] > 0.01 * num_pixels for info in infos):
        place += " and mountains"
    groups: dict[tuple[str, str], list[int]] = {}
    for info in infos:
        if info["isthing"] and info["area"] >= MIN_VISIBLE * num_pixels:
            kind = SCENE_CATEGORIES[info["category_id"]]["name"]
            groups.setdefault((colors[info["id"]], kind), []).append(info["area"])
    mentions = []
    for (color, kind), areas in sorted(groups.items(), key=lambda item: -sum(item[1]))[:MAX_MENTIONS]:
        noun = kind if len(areas) == 1 else _plural(kind)
        words = " ".join(word for word in (color, noun) if word)
        count = COUNTS[len(areas) - 1] if len(areas) > 1 else "an" if words[0] == "o" else "a"
        mentions.append(f"{count} {words}")
    if not mentions:
        return place
    *first, last = mentions
    return f"{place} with " + (f"{', '.join(first)} and {last}" if first else last)


def scene_labels() -> LabelSet:
    """The label set of the scenes: 7 stuff and 8 thing classes, ignore_index 255 (no scene has void pixels)."""
    return LabelSet(
        tuple(Category(c["id"], c["name"], bool(c["isthing"]), tuple(c["color"])) for c in SCENE_CATEGORIES)
    )


def scene_index(split: str, number: int) -> int:
    """The index at which `draw_scene` draws record `number` of `split`; splits share no index.

    Raises:
        ValueError: for an unknown split, or a number outside 0..9,999,999.
    """
    if split not in SCENE_SPLITS:
        raise ValueError(f"The scenes have no split {split!r}; it must be one of {', '.join(SCENE_SPLITS)}.")
    if not 0 <= number < MAX_SPLIT_RECORDS:
        raise ValueError(f"Scene number {number} of split {split!r}; it must be in 0..{MAX_SPLIT_RECORDS - 1}.")
    return list(SCENE_SPLITS).index(split) * MAX_SPLIT_RECORDS + number


def scene_records(
    split: str,
    num_records: int | None = None,
    size: tuple[int, int] = (64, 64),
    seed: int = 0,
    style: str | None = None,
) -> datasets.Dataset:
    """The records of one split: image, segmentation_map, panoptic_map, segments_info, caption, image_id.

    The first records of a split are the same however many are asked for. They are drawn once and kept in the cache of
    `datasets`, on disk and memory-mapped, until the drawing code changes.

    Args:
        split (`str`): unlabelled, train, val, test or unseen; see `SCENE_SPLITS` for their sizes and styles.
        num_records (`int`, optional): the split's own number if absent.
        size (`tuple` of `int`): (height, width) in pixels.
        seed (`int`): another seed is another world of scenes.
        style (`str`, optional): draw every scene in this style instead of its own; the maps stay the same.
    Raises: `ValueError` for an unknown split or style, fewer than one record, or a size under 16 pixels.
    """
    num_records = SCENE_SPLITS.get(split, (1,))[0] if num_records is None else num_records
    if num_records < 1:
        raise ValueError(f"Asked for {num_records} records of split {split!r}; it must be at least 1.")
    scene_index(split, num_records - 1)
    if seed < 0:
        raise ValueError(f"The seed of the scenes is {seed}; it must not be negative.")
    request = {"split": split, "num_records": num_records, "size": tuple(size), "seed": seed, "style": style}
    draw_scene(seed, 0, size=size, style=style)  # refuses a wrong size or style before anything is written
    records = datasets.Dataset.from_generator(
        _generate,
        features=record_features(panoptic=True),
        gen_kwargs=request,
        fingerprint=Hasher.hash([sorted(request.items(), key=str), _drawing_code()]),
        split=datasets.NamedSplit(split),
    )
    return attach_labels(records, scene_labels())


def _generate(split: str, num_records: int, size: tuple[int, int], seed: int, style: str | None) -> Iterator[dict]:
    styles = SCENE_SPLITS[split][1]
    for number in range(num_records):
        scene = draw_scene(seed, scene_index(split, number), styles, size, style)
        image_id = f"{split}-{number:06d}"
        yield {
            "image": encode_image(scene.image, image_id),
            "segmentation_map": encode_map(scene.segmentation_map, len(SCENE_CATEGORIES), image_id),
            "panoptic_map": encode_panoptic(scene.panoptic_map, image_id),
            "segments_info": scene.segments_info,
            "caption": scene.caption,
            "image_id": image_id,
        }


def _drawing_code() -> list[str]:
    """What decides the pixels: a cached split drawn by other code is not taken for this one."""
    sources = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return [*sources, PIL.__version__, np.__version__]
