"""The plan of a built-in scene: regions and things in normalised coordinates, and the draws that fill it.

x and y run from 0 to 1 over the image, y downwards; sizes are fractions of the image's shorter side.
"""

import math
from dataclasses import dataclass, field

import numpy as np

Point = tuple[float, float]

MAX_THINGS = 5
# Things stand on a grid, and come in sizes that are multiples of it: four pixels of a 64-pixel picture, a cell of the
# miniature's latents. In hours on a CPU a generator learns some hundred patterns, but not each of them at any offset.
GRID = 16
# Size of a thing that stands at the lower border: the height, or the length of cars, boats and cows.
NEAR_SIZE = {
    "tree": 0.6,
    "house": 0.56,
    "car": 0.46,
    "boat": 0.5,
    "person": 0.46,
    "ball": 0.28,
    "cow": 0.46,
    "lamp": 0.66,
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
    "lamp": (0.17, 1.0),
}
THING_COLORS = {
    "tree": ("green", "orange", "pine"),
    "house": ("white", "red", "blue"),
    "car": ("red", "blue", "yellow"),
    "boat": ("red", "blue", "yellow"),
    "person": ("red", "blue", "yellow"),
    "ball": ("red", "blue", "yellow"),
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
    number: int = 0  # that decides what the texture draws at random


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
class ScenePlan:
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
        clouds = [(snap(u(rng, 0, 1)), snap(u(rng, 0.04, 0.2)), 0.16) for _ in range(3)]
        self.plan = ScenePlan(layout, horizon, snap(u(rng, 0.12, 0.88)), clouds)
        self.tones = {name: u(rng, 0, 1) for name in ("grass", "water", "sand", "road", "mountain", "building")}

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def stuff(self, category: str, polygon: list[Point], texture: str = "", number: int = 0) -> None:
        self.plan.stuff.append(Stuff(category, polygon, self.tones[category], texture, number))

    def mountains(self) -> None:
        """One to three peaks behind everything; each peak is one triangle, lit from the left."""
        h = self.plan.horizon
        count = int(self.rng.integers(1, 4))
        for k in self.rng.permutation(count):
            x = snap((k + u(self.rng, 0.25, 0.75)) / count)
            height = snap(u(self.rng, 0.16, 0.28))
            half = height * 1.25
            self.stuff("mountain", [(x - half, h + 0.005), (x, h - height), (x + half, h + 0.005)], "peak")

    def skyline(self) -> None:
        """A row of blocks along the horizon."""
        h = self.plan.horizon
        x = -1 / GRID if self.chance(0.5) else 0.0
        while x < 1:
            width, height = snap(u(self.rng, 0.16, 0.34)), snap(u(self.rng, 0.1, 0.28))
            if self.chance(0.88):
                box = [(x, h - height), (x + width, h - height), (x + width, h + 0.01), (x, h + 0.01)]
                self.stuff("building", box, "windows", int(self.rng.integers(0, 1 << 16)))
            x += width

    def backdrop(self, mountain: float, building: float) -> None:
        draw = self.rng.random()
        if draw < mountain:
            self.mountains()
        elif draw < mountain + building:
            self.skyline()

    def things(self, kind: str, low: int, high: int, place) -> None:
        """Adds `low`..`high` things at points of `place()`, none hidden by more than a part by another one."""
        color = self.pick(kind)
        for _ in range(int(self.rng.integers(low, high + 1))):
            if len(self.plan.things) == MAX_THINGS:
                return
            if self.chance(0.45):
                color = self.pick(kind)
            for _attempt in range(8):
                if self.stand(kind, color, *place()):
                    break

    def pick(self, kind: str) -> str:
        return str(self.rng.choice(THING_COLORS[kind]))

    def stand(self, kind: str, color: str, x: float, y: float) -> bool:
        plan = self.plan
        near = 0.6 + 0.4 * (1 - plan.depth(y))
        size = snap(NEAR_SIZE[kind] * near * u(self.rng, 0.88, 1.12))
        flip, variant = self.chance(0.5), int(self.rng.integers(0, 4))
        thing = Thing(kind, color, snap(x), snap(y), size, plan.depth(y), flip, variant)
        if any(hides(thing.box, other.box) for other in plan.things):
            return False
        plan.things.append(thing)
        return True


def u(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low + (high - low) * rng.random())


def snap(value: float) -> float:
    """The nearest line of the grid."""
    return round(value * GRID) / GRID


def hides(a, b) -> bool:
    """Whether two boxes share more than a sixth of the smaller one."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return False
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height > smaller / 6


def wave(y0: float, y1: float, height: float, phase: float) -> list[Point]:
    """Points of a gently waving line from the left to the right border."""
    steps = 24
    return [
        (k / steps, y0 + (y1 - y0) * k / steps + height * math.sin(phase + 2 * math.pi * k / steps))
        for k in range(steps + 1)
    ]


def below(line: list[Point]) -> list[Point]:
    return [*line, (1.0, 1.0), (0.0, 1.0)]


def height_at(line: list[Point], x: float) -> float:
    k = min(max(x, 0.0), 1.0) * (len(line) - 1)
    i = min(int(k), len(line) - 2)
    return line[i][1] + (line[i + 1][1] - line[i][1]) * (k - i)
