"""What is where in a built-in scene: six layouts, each a function from random draws to a plan without any light."""

import math

import numpy as np

from .scene_plan import Plan, Planner, Point, below, height_at, u, wave


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
