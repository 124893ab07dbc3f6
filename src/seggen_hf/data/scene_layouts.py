"""What is where in a built-in scene: six layouts, planned in normalised coordinates and without any light.

x and y run from 0 to 1 over the image, y downwards; sizes are fractions of the image's shorter side.
"""

import math
from dataclasses import dataclass, field

import numpy as np

Point = tuple[float, float]

# Size of a thing that stands at the lower border: the height, or the length of cars, boats and cows.
NEAR_SIZE = {
    "tree": 0.54,
    "house": 0.52,
    "car": 0.44,
    "boat": 0.46,
    "person": 0.38,
    "ball": 0.17,
    "cow": 0.4,
    "lamp": 0.56,
}
# Half width and height in units of that size.
EXTENT = {
    "tree": (0.33, 1.0),
    "house": (0.5, 0.8),
    "car": (0.5, 0.45),
    "boat": (0.5, 0.95),
    "person": (0.18, 1.0),
    "ball": (0.5, 1.0),
    "cow": (0.5, 0.68),
    "lamp": (0.12, 1.0),
}
THING_COLORS = {
    "tree": ("green", "green", "orange", "pink", "pine", "pine"),
    "house": ("white", "red", "yellow", "blue"),
    "car": ("red", "blue", "yellow", "white"),
    "boat": ("red", "blue", "yellow", "white"),
    "person": ("red", "blue", "yellow", "green"),
    "ball": ("red", "blue", "yellow", "orange"),
    "cow": ("brown", "white", "black"),
    "lamp": ("",),
}


@dataclass
class Stuff:
    """One region of a stuff class; `tone` in [0, 1] picks its hue, `texture` the large pattern on it."""

    category: str
    polygon: list[Point]
    tone: float = 0.5
    texture: str = ""
    center: float = 0.5  # where the texture's lines meet, or the number it is drawn with


@dataclass
class Thing:
    """One thing that stands on (x, y)."""

    kind: str
    color: str
    x: float
    y: float
    size: float
    depth: float
    flip: bool
    variant: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        half, height = EXTENT[self.kind]
        return self.x - half * self.size, self.y - height * self.size, self.x + half * self.size, self.y


@dataclass
class Plan:
    """A scene before light: regions from back to front, things from far to near."""

    layout: str
    horizon: float
    sun_x: float
    clouds: list[tuple[float, float, float]]
    stuff: list[Stuff] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)

    def depth(self, y: float) -> float:
        """0 at the lower border, 1 at the horizon."""
        return min(max((1 - y) / (1 - self.horizon), 0.0), 1.0)


class Planner:
    """Draws the random choices of one scene."""

    def __init__(self, rng: np.random.Generator, layout: str, horizon: float):
        self.rng = rng
        clouds = [(u(rng, 0, 1), u(rng, 0.06, horizon * 0.62), u(rng, 0.1, 0.17)) for _ in range(5)]
        self.plan = Plan(layout, horizon, u(rng, 0.12, 0.88), clouds)
        self.tones = {name: u(rng, 0, 1) for name in ("grass", "water", "sand", "road", "mountain", "building")}

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def stuff(self, category: str, polygon: list[Point], texture: str = "", center: float = 0.5) -> None:
        self.plan.stuff.append(Stuff(category, polygon, self.tones[category], texture, center))

    def mountains(self) -> None:
        """Two to four peaks behind everything; each peak is one triangle, lit from the left."""
        h = self.plan.horizon
        count = int(self.rng.integers(2, 5))
        for k in self.rng.permutation(count):
            x = (k + u(self.rng, 0.25, 0.75)) / count
            height = u(self.rng, 0.13, 0.27) * h / 0.4
            half = height * u(self.rng, 1.0, 1.5)
            self.stuff("mountain", [(x - half, h + 0.005), (x, h - height), (x + half, h + 0.005)], "peak")

    def skyline(self) -> None:
        """A row of blocks along the horizon."""
        h = self.plan.horizon
        x = u(self.rng, -0.1, 0.0)
        while x < 1:
            width, height = u(self.rng, 0.13, 0.22), u(self.rng, 0.13, 0.28) * h / 0.4
            if self.chance(0.88):
                box = [(x, h - height), (x + width, h - height), (x + width, h + 0.01), (x, h + 0.01)]
                self.stuff("building", box, "windows", float(self.rng.integers(0, 1 << 16)))
            x += width + (0 if self.chance(0.7) else 0.02)

    def backdrop(self, mountain: float, building: float) -> None:
        draw = self.rng.random()
        if draw < mountain:
            self.mountains()
        elif draw < mountain + building:
            self.skyline()

    def things(self, kind: str, low: int, high: int, place, spread: float = 1.0) -> None:
        """Adds `low`..`high` things at points of `place()`, none hidden by more than a part by another one."""
        color = self.pick(kind)
        for _ in range(int(self.rng.integers(low, high + 1))):
            if self.chance(0.45):
                color = self.pick(kind)
            for _attempt in range(8):
                if self.stand(kind, color, *place(), spread):
                    break

    def pick(self, kind: str) -> str:
        return str(self.rng.choice(THING_COLORS[kind]))

    def stand(self, kind: str, color: str, x: float, y: float, spread: float) -> bool:
        plan = self.plan
        near = 0.36 + 0.64 * (1 - plan.depth(y))
        size = NEAR_SIZE[kind] * near * u(self.rng, 0.88, 1.12) * spread
        flip, variant = self.chance(0.5), int(self.rng.integers(0, 4))
        thing = Thing(kind, color, x, y, size, plan.depth(y), flip, variant)
        if any(hides(thing.box, other.box) for other in plan.things):
            return False
        plan.things.append(thing)
        return True


def u(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low + (high - low) * rng.random())


def hides(a, b) -> bool:
    """Whether two boxes share more than a third of the smaller one."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return False
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height > 0.34 * smaller


def wave(y0: float, y1: float, height: float, phase: float, turns: float = 1.0) -> list[Point]:
    """Points of a gently waving line from the left to the right border."""
    steps = 24
    return [
        (k / steps, y0 + (y1 - y0) * k / steps + height * math.sin(phase + 2 * math.pi * turns * k / steps))
        for k in range(steps + 1)
    ]


def below(line: list[Point]) -> list[Point]:
    return [*line, (1.0, 1.0), (0.0, 1.0)]


def height_at(line: list[Point], x: float) -> float:
    k = min(max(x, 0.0), 1.0) * (len(line) - 1)
    i = min(int(k), len(line) - 2)
    return line[i][1] + (line[i + 1][1] - line[i][1]) * (k - i)


def street(rng: np.random.Generator) -> Plan:
    p = Planner(rng, "street", u(rng, 0.34, 0.44))
    h = p.plan.horizon
    p.backdrop(0.25, 0.6)
    p.stuff("grass", [(0, h), (1, h), (1, 1), (0, 1)])
    if p.chance(0.5):  # the road comes towards us
        x0, x1 = u(rng, 0.4, 0.6), u(rng, 0.4, 0.6)

        def road(y: float) -> tuple[float, float]:
            t = (y - h) / (1 - h)
            return x0 + (x1 - x0) * t, 0.035 + 0.4 * t

        top, bottom = road(h), road(1.0)
        p.stuff(
            "road",
            [(top[0] - top[1], h), (top[0] + top[1], h), (bottom[0] + bottom[1], 1), (bottom[0] - bottom[1], 1)],
            "lane",
            x0,
        )

        def beside(low: float, high: float, gap: float):
            def place() -> Point:
                y = u(rng, low, high)
                x, half = road(y)
                side = -1 if p.chance(0.5) else 1
                return x + side * (half + gap * u(rng, 0.75, 1.6)), y

            return place

        def on_road() -> Point:
            y = u(rng, h + 0.2, 0.95)
            x, half = road(y)
            return x + half * 0.5 * (-1 if p.chance(0.5) else 1), y

        p.things("house", 1, 3, beside(h + 0.08, h + 0.24, 0.2))
        p.things("car", 1, 2, on_road, 0.9)
        p.things("lamp", 1, 2, beside(h + 0.14, 0.88, 0.05))
        p.things("tree", 1, 3, beside(h + 0.06, 0.92, 0.14))
        p.things("person", 0, 2, beside(h + 0.3, 0.97, 0.07))
    else:  # the road runs across
        y0, y1 = u(rng, 0.6, 0.68), u(rng, 0.86, 0.94)
        p.stuff("road", [(0, y0), (1, y0), (1, y1), (0, y1)], "across")
        p.things("house", 1, 3, lambda: (u(rng, 0.08, 0.92), y0 - u(rng, 0.015, 0.05)))
        p.things("tree", 1, 2, lambda: (u(rng, 0.05, 0.95), y0 - u(rng, 0.01, 0.1)))
        p.things("car", 1, 2, lambda: (u(rng, 0.12, 0.88), u(rng, y0 + 0.1, y1 - 0.02)), 0.85)
        p.things("lamp", 0, 2, lambda: (u(rng, 0.05, 0.95), y0 + 0.01), 0.9)
        p.things("person", 0, 2, lambda: (u(rng, 0.08, 0.92), u(rng, y1 + 0.02, 0.99)), 0.85)
    return p.plan


def beach(rng: np.random.Generator) -> Plan:
    p = Planner(rng, "beach", u(rng, 0.3, 0.4))
    h = p.plan.horizon
    p.backdrop(0.45, 0.1)
    p.stuff("water", [(0, h), (1, h), (1, 1), (0, 1)], "waves")
    shore = wave(u(rng, 0.54, 0.7), u(rng, 0.54, 0.7), u(rng, 0.01, 0.03), u(rng, 0, 6.3), u(rng, 0.6, 1.4))
    p.stuff("sand", below(shore), "ripples")

    def on_water() -> Point:
        x = u(rng, 0.1, 0.9)
        return x, u(rng, h + 0.05, height_at(shore, x) - 0.03)

    def on_sand(low: float = 0.08, high: float = 0.98):
        def place() -> Point:
            x = u(rng, 0.08, 0.92)
            return x, u(rng, height_at(shore, x) + low, high)

        return place

    p.things("boat", 1, 3, on_water, 1.05)
    p.things("person", 1, 3, on_sand())
    p.things("ball", 1, 2, on_sand(0.14))
    p.things("tree", 0, 2, on_sand(0.04, 0.92))
    if p.chance(0.25):
        p.things("house", 1, 1, on_sand(0.08, 0.86), 0.8)
    return p.plan


def lake(rng: np.random.Generator) -> Plan:
    p = Planner(rng, "lake", u(rng, 0.34, 0.44))
    h = p.plan.horizon
    p.backdrop(0.8, 0.0)
    far = wave(h, h, 0.012, u(rng, 0, 6.3))
    p.stuff("grass", below(far), "meadow")
    y0 = h + u(rng, 0.06, 0.1)
    shore = wave(u(rng, 0.66, 0.8), u(rng, 0.66, 0.8), u(rng, 0.015, 0.04), u(rng, 0, 6.3), u(rng, 0.6, 1.2))
    p.stuff("water", [*wave(y0, y0, 0.008, u(rng, 0, 6.3)), *reversed(shore)], "waves")

    def near_shore(low: float, high: float):
        def place() -> Point:
            x = u(rng, 0.06, 0.94)
            return x, u(rng, height_at(shore, x) + low, high)

        return place

    def on_water() -> Point:
        x = u(rng, 0.12, 0.88)
        return x, u(rng, y0 + 0.06, height_at(shore, x) - 0.03)

    p.things("house", 0, 2, lambda: (u(rng, 0.08, 0.92), u(rng, h + 0.03, y0 - 0.015)), 0.95)
    p.things("tree", 0, 2, lambda: (u(rng, 0.05, 0.95), u(rng, h + 0.02, y0 - 0.015)), 0.9)
    p.things("boat", 1, 3, on_water)
    p.things("tree", 1, 3, near_shore(0.03, 0.97))
    p.things("person", 0, 1, near_shore(0.05, 0.98))
    p.things("cow", 0, 1, near_shore(0.07, 0.98), 0.9)
    return p.plan


def field_layout(rng: np.random.Generator) -> Plan:
    p = Planner(rng, "field", u(rng, 0.34, 0.44))
    h = p.plan.horizon
    p.backdrop(0.4, 0.0)
    p.stuff("grass", below(wave(h, h, 0.025, u(rng, 0, 6.3), u(rng, 0.6, 1.3))), "furrows", u(rng, 0.2, 0.8))
    road = None
    if p.chance(0.45):
        y0, thick = u(rng, 0.6, 0.72), u(rng, 0.13, 0.16)
        road = wave(y0, y0 + u(rng, -0.05, 0.05), 0.015, u(rng, 0, 6.3))
        p.stuff("road", [*road, *((x, y + thick) for x, y in reversed(road))])
        p.things("car", 1, 1, lambda: (x := u(rng, 0.15, 0.85), height_at(road, x) + thick * 0.7), 0.85)

    def anywhere(low: float, high: float):
        return lambda: (u(rng, 0.06, 0.94), u(rng, low, high))

    p.things("house", 0, 2, anywhere(h + 0.05, h + 0.14), 1.0)
    p.things("tree", 1, 3, anywhere(h + 0.04, h + 0.22))

    def pasture() -> Point:
        for _ in range(20):  # off the road
            x, y = u(rng, 0.08, 0.92), u(rng, h + 0.16, 0.97)
            if road is None or not -0.01 < y - height_at(road, x) < thick + 0.03:
                break
        return x, y

    p.things("cow", 1, 4, pasture)
    p.things("tree", 0, 1, anywhere(0.86, 0.98))
    p.things("person", 0, 1, anywhere(0.82, 0.98))
    if p.chance(0.15):
        p.things("ball", 1, 1, anywhere(0.84, 0.98))
    return p.plan


def harbour(rng: np.random.Generator) -> Plan:
    p = Planner(rng, "harbour", u(rng, 0.32, 0.42))
    h = p.plan.horizon
    p.backdrop(0.2, 0.75)
    p.stuff("water", [(0, h), (1, h), (1, 1), (0, 1)], "waves")
    quay = u(rng, 0.7, 0.78)
    lean = u(rng, -0.04, 0.04)
    p.stuff("road", [(0, quay + lean), (1, quay - lean), (1, 1), (0, 1)], "slabs")

    def on_quay(low: float = 0.06):
        return lambda: (u(rng, 0.08, 0.92), u(rng, quay + low, 0.98))

    p.things("boat", 2, 4, lambda: (u(rng, 0.1, 0.9), u(rng, h + 0.08, quay - 0.06)), 1.05)
    p.things("lamp", 1, 2, on_quay(0.05), 0.95)
    p.things("person", 0, 2, on_quay())
    p.things("car", 0, 1, on_quay(0.1), 0.9)
    return p.plan


def park(rng: np.random.Generator) -> Plan:
    p = Planner(rng, "park", u(rng, 0.36, 0.46))
    h = p.plan.horizon
    p.backdrop(0.15, 0.6)
    p.stuff("grass", [(0, h), (1, h), (1, 1), (0, 1)], "meadow")
    x0, x1, bend = u(rng, 0.3, 0.7), u(rng, 0.2, 0.8), u(rng, -0.14, 0.14)

    def path(t: float) -> tuple[float, float]:
        return x0 + (x1 - x0) * t + bend * math.sin(math.pi * t), 0.02 + 0.14 * t

    steps = [k / 12 for k in range(13)]
    left = [(path(t)[0] - path(t)[1], h + (1 - h) * t) for t in steps]
    right = [(path(t)[0] + path(t)[1], h + (1 - h) * t) for t in steps]
    p.stuff("sand", [*left, *reversed(right)])
    if p.chance(0.5):
        cx = 0.24 if x0 + x1 + bend > 1 else 0.76
        cy, rx, ry = u(rng, h + 0.2, 0.76), u(rng, 0.17, 0.22), u(rng, 0.07, 0.1)
        ring = [(cx + rx * math.cos(a * math.pi / 12), cy + ry * math.sin(a * math.pi / 12)) for a in range(24)]
        p.stuff("water", ring, "waves")

        def dry() -> Point:
            for _ in range(20):
                x, y = u(rng, 0.06, 0.94), u(rng, h + 0.05, 0.98)
                if abs(x - cx) > rx + 0.05 or y < cy - ry - 0.02 or y > cy + ry + 0.05:
                    break
            return x, y
    else:

        def dry() -> Point:
            return u(rng, 0.06, 0.94), u(rng, h + 0.05, 0.98)

    def close() -> Point:
        x, y = dry()
        return x, max(y, 0.78)

    p.things("tree", 2, 4, dry)
    p.things("lamp", 0, 2, dry, 0.95)
    p.things("person", 1, 3, dry)
    p.things("ball", 1, 2, close)
    return p.plan


LAYOUTS = {
    "street": street,
    "beach": beach,
    "lake": lake,
    "field": field_layout,
    "harbour": harbour,
    "park": park,
}


def make_plan(rng: np.random.Generator) -> Plan:
    """A scene's content, things sorted from far to near. Everything random in it comes from `rng`."""
    layout = list(LAYOUTS)[int(rng.integers(0, len(LAYOUTS)))]
    plan = LAYOUTS[layout](rng)
    plan.things.sort(key=lambda thing: thing.y)
    return plan
