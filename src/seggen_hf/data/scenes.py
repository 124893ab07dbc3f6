"""The built-in scenes: pictures drawn in code with captions and exact ground truth, for tests and the quickstart.

A scene follows from (seed, index) alone. Its content is planned before its light, so one content can be drawn in
every style with identical maps.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .scene_canvas import Canvas
from .scene_layouts import LAYOUTS, THING_COLORS, Plan, make_plan
from .scene_styles import SEEN_STYLES, STYLE_TABLE, STYLES, UNSEEN_STYLES
from .scene_things import draw_thing

__all__ = ["SCENE_CATEGORIES", "SCENE_WORDS", "SEEN_STYLES", "STYLES", "UNSEEN_STYLES", "Scene", "draw_scene"]

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
    image, segments = canvas.finish(look, lights)

    label_of_segment = np.array([0, *(_LABEL2ID[name] for name in names)], np.uint8)
    infos = _segments_info(segments, label_of_segment)
    colors = {info["id"]: colors[info["id"]] for info in infos if info["isthing"]}
    caption = f"{_content(plan, infos, colors, segments.size)}, {style}"
    return Scene(
        image, label_of_segment[segments], segments.astype(np.int32), infos, caption, style, plan.layout, colors
    )


def _segments_info(segments: np.ndarray, label_of_segment: np.ndarray) -> list[dict]:
    infos = []
    for segment in np.flatnonzero(np.bincount(segments.ravel(), minlength=1)):
        inside = segments == segment
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        x, y = int(columns[0]), int(rows[0])
        label = int(label_of_segment[segment])
        infos.append(
            {
                "id": int(segment),
                "category_id": label,
                "isthing": SCENE_CATEGORIES[label]["isthing"],
                "iscrowd": 0,
                "area": int(inside.sum()),
                "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
            }
        )
    return infos


def _content(plan: Plan, infos: list[dict], colors: dict[int, str], num_pixels: int) -> str:
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
