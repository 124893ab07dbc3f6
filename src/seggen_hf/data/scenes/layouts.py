"""What is where in a built-in scene: four layouts, each a function from random draws to a plan without any light.

The scenes are meant to be learnt by a generator that trains for hours on a CPU: two to five large things, each in the
part of the picture where its kind belongs, and a few flat regions behind them.
"""

from collections.abc import Callable

import numpy as np

from .plan import GRID, Planner, Point, ScenePlan, below, height_at, snap, u, wave


def afloat(p: Planner, shore: list[Point]) -> Callable[[], Point]:
    """Places on the water between the horizon and `shore`."""

    def place() -> Point:
        x = u(p.rng, 0.18, 0.82)
        return x, u(p.rng, p.plan.horizon + 0.14, height_at(shore, x) - 0.03)

    return place


def street(rng: np.random.Generator) -> ScenePlan:
    """A road from side to side, houses and trees behind it, people and lamps before it."""
    p = Planner(rng, "street", snap(u(rng, 0.3, 0.45)))
    h = p.plan.horizon
    p.backdrop(0.1, 0.75)
    p.stuff("grass", [(0, h), (1, h), (1, 1), (0, 1)])
    y0 = snap(u(rng, 0.54, 0.65))
    y1 = y0 + 4 / GRID
    p.stuff("road", [(0, y0), (1, y0), (1, y1), (0, y1)], "across")
    p.things("car", 1, 2, lambda: (u(rng, 0.2, 0.8), y1 - (0.5 + rng.integers(0, 2)) / GRID))
    p.things("house", 1, 1, lambda: (u(rng, 0.15, 0.85), y0 - u(rng, 0.0, 0.03)))
    p.things("lamp", 1, 1, lambda: (u(rng, 0.08, 0.92), y0 + u(rng, 0.0, 0.02)))
    p.things("tree", 0, 1, lambda: (u(rng, 0.12, 0.88), y0 - u(rng, 0.0, 0.03)))
    p.things("person", 0, 1, lambda: (u(rng, 0.1, 0.9), u(rng, y1 + 0.06, 0.98)))
    return p.plan


def beach(rng: np.random.Generator) -> ScenePlan:
    """The sea, boats on it, and a strip of sand with people and balls."""
    p = Planner(rng, "beach", snap(u(rng, 0.26, 0.4)))
    h = p.plan.horizon
    p.backdrop(0.4, 0.0)
    p.stuff("water", [(0, h), (1, h), (1, 1), (0, 1)], "waves")
    shore = wave(u(rng, 0.62, 0.68), u(rng, 0.62, 0.68), 0.012, u(rng, 0, 6.3))
    p.stuff("sand", below(shore), "foam")

    def on_sand() -> Point:
        x = u(rng, 0.12, 0.88)
        return x, u(rng, height_at(shore, x) + 0.14, 0.98)

    p.things("boat", 1, 2, afloat(p, shore))
    p.things("person", 1, 2, on_sand)
    p.things("ball", 0, 1, on_sand)
    return p.plan


def lake(rng: np.random.Generator) -> ScenePlan:
    """Mountains, water with boats, and a bank with trees, lamps and people."""
    p = Planner(rng, "lake", snap(u(rng, 0.3, 0.45)))
    h = p.plan.horizon
    p.backdrop(0.7, 0.2)
    p.stuff("water", [(0, h), (1, h), (1, 1), (0, 1)], "waves")
    shore = wave(u(rng, 0.7, 0.76), u(rng, 0.7, 0.76), 0.012, u(rng, 0, 6.3))
    p.stuff("grass", below(shore))

    def on_bank() -> Point:
        x = u(rng, 0.1, 0.9)
        return x, u(rng, height_at(shore, x) + 0.06, 0.97)

    p.things("boat", 1, 2, afloat(p, shore))
    p.things("tree", 1, 1, on_bank)
    p.things("lamp", 0, 1, on_bank)
    p.things("person", 0, 1, on_bank)
    return p.plan


def field_layout(rng: np.random.Generator) -> ScenePlan:
    """A meadow with cows, trees, houses and balls."""
    p = Planner(rng, "field", snap(u(rng, 0.3, 0.45)))
    h = p.plan.horizon
    p.backdrop(0.4, 0.0)
    p.stuff("grass", below(wave(h, h, 0.02, u(rng, 0, 6.3))))

    def far() -> Point:
        return u(rng, 0.15, 0.85), u(rng, h + 0.1, h + 0.2)

    def near() -> Point:
        return u(rng, 0.15, 0.85), u(rng, h + 0.28, 0.97)

    p.things("house", 0, 1, far)
    p.things("tree", 1, 1, far)
    p.things("cow", 1, 2, near)
    p.things("ball", 0, 1, near)
    return p.plan


LAYOUTS = {"street": street, "beach": beach, "lake": lake, "field": field_layout}


def make_plan(rng: np.random.Generator) -> ScenePlan:
    """A scene's content, things sorted from far to near. Everything random in it comes from `rng`."""
    layout = list(LAYOUTS)[int(rng.integers(0, len(LAYOUTS)))]
    plan = LAYOUTS[layout](rng)
    plan.things.sort(key=lambda thing: thing.y)
    return plan
