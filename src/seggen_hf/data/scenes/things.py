"""The things of the built-in scenes, each drawn from a few flat shapes with a light and a shaded side."""

from .canvas import WINDOW_LIGHT, Canvas
from .plan import Thing
from .styles import PAINTS, Color, shade

SKIN = ((246, 206, 170), (222, 168, 126), (150, 102, 72), (236, 190, 150))
HAIR = ((70, 46, 34), (40, 34, 36), (34, 26, 24), (196, 140, 60))
GLASS: Color = (172, 214, 236)
SNOW: Color = (250, 251, 254)
PINE: Color = (30, 104, 72)


class Brush:
    """Draws in a thing's own units: x to the right of its foot, y upwards, 1 = its size.

    Outlines go into the picture and the segment map; details, which lie inside the outline, into the picture only.
    """

    def __init__(self, canvas: Canvas, thing: Thing, segment: int):
        self.canvas, self.thing, self.segment, self.style = canvas, thing, segment, canvas.style
        self.scale = thing.size * canvas.unit
        self.x, self.y = thing.x * canvas.width, thing.y * canvas.height
        self.side = -1 if thing.flip else 1
        self.lights: list[tuple[float, float, float]] = []

    def color(self, color: Color, glows: bool = False) -> Color:
        return self.style.color(color, self.thing.depth * 0.9, glows)

    def points(self, points):
        return [(self.x + self.side * x * self.scale, self.y - y * self.scale) for x, y in points]

    def box(self, x0, y0, x1, y1):
        (a, d), (b, c) = self.points([(x0, y0), (x1, y1)])
        return min(a, b), c, max(a, b), d

    def polygon(self, points, color: Color, detail: bool = False, glows: bool = False) -> None:
        points = self.points(points)
        self.canvas.pen.polygon(points, fill=self.color(color, glows))
        if not detail:
            self.canvas.on_map.polygon(points, fill=self.segment)

    def rectangle(self, x0, y0, x1, y1, color: Color, detail: bool = False, glows: bool = False) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, detail, glows)

    def ellipse(self, x, y, rx, ry, color: Color, detail: bool = False, glows: bool = False) -> None:
        box = self.box(x - rx, y - ry, x + rx, y + ry)
        self.canvas.pen.ellipse(box, fill=self.color(color, glows))
        if not detail:
            self.canvas.on_map.ellipse(box, fill=self.segment)

    def arc(self, x, y, rx, ry, start, end, color: Color) -> None:
        """A slice of an ellipse's disc cut off by a chord, as a detail; degrees, clockwise from the right."""
        self.canvas.pen.chord(self.box(x - rx, y - ry, x + rx, y + ry), start, end, fill=self.color(color))

    def bar(self, x0, y0, x1, y1, width: float, color: Color, detail: bool = False) -> None:
        """A stroke of `width` units, never thinner than two pixels of a 64-pixel picture."""
        points = self.points([(x0, y0), (x1, y1)])
        pixels = round(max(width * self.scale, 2 * self.canvas.pixel))
        self.canvas.pen.line(points, fill=self.color(color), width=pixels)
        if not detail:
            self.canvas.on_map.line(points, fill=self.segment, width=pixels)

    def shadow(self, half: float, x: float = 0.08) -> None:
        box = self.box(x - half, -0.05, x + half, 0.05)
        self.canvas.pen.ellipse(box, fill=(16, 14, 40, self.style.shadow))

    def light(self, x: float, y: float, radius: float) -> None:
        """Lets a lamp shine at night."""
        if self.style.lit:
            ((px, py),) = self.points([(x, y)])
            self.lights.append((px / self.canvas.width, py / self.canvas.height, radius * self.thing.size))


def tree(b: Brush, color: str, variant: int) -> None:
    snowy = b.style.snowy
    b.shadow(0.3)
    if color == "pine":
        b.rectangle(-0.05, 0, 0.05, 0.2, (104, 72, 52))
        for y, half, height in ((0.12, 0.3, 0.42), (0.36, 0.24, 0.38), (0.6, 0.18, 0.4)):
            b.polygon([(-half, y), (half, y), (0, y + height)], PINE)
            b.polygon([(0.02 * b.side, y), (half * b.side, y), (0, y + height)], shade(PINE, -0.34), detail=True)
            if snowy:
                top = [(-half * 0.5, y + height * 0.5), (0, y + height), (half * 0.5, y + height * 0.5)]
                b.polygon([*top, (0, y + height * 0.6)], SNOW, detail=True)
        return
    leaf = PAINTS[color]
    dark, light = shade(leaf, -0.28), shade(leaf, 0.2)
    b.rectangle(-0.055, 0, 0.055, 0.42, (122, 82, 54))
    s = b.side  # the light comes from the left, whichever way the crown leans
    for x, y, r in ((0.12, 0.5, 0.2), (-0.14, 0.54, 0.2), (0.05, 0.76, 0.24), (0.0, 0.6, 0.26)):
        b.ellipse(x, y, r, r, dark)
    for x, y, r in ((-0.16 * s, 0.56, 0.16), (0.04, 0.62, 0.18), (-0.02 * s, 0.78, 0.2)):
        b.ellipse(x, y, r, r, leaf, detail=True)
    b.ellipse(-0.08 * s, 0.8, 0.1, 0.1, light, detail=True)
    if snowy:
        b.arc(0.05, 0.76, 0.23, 0.23, 205, 335, SNOW)
        b.arc(-0.14, 0.54, 0.19, 0.19, 190, 270, SNOW)


def house(b: Brush, color: str, variant: int) -> None:
    wall = PAINTS[color]
    roof = ((168, 72, 56), (96, 84, 100))[variant % 2]
    if color == "red":
        roof = ((86, 76, 88), (90, 84, 98))[variant % 2]
    front, side = (wall, shade(wall, -0.22)) if not b.thing.flip else (shade(wall, -0.22), wall)
    lit = b.style.lit
    glass = WINDOW_LIGHT if lit else (96, 132, 168)
    b.shadow(0.52, 0.04)
    b.rectangle(0.24, 0.5, 0.34, 0.76, (150, 84, 70))  # chimney
    b.rectangle(-0.08, 0, 0.46, 0.42, side)
    b.polygon([(-0.46, 0), (-0.06, 0), (-0.06, 0.42), (-0.26, 0.72), (-0.46, 0.42)], front)
    b.polygon([(-0.28, 0.74), (0.3, 0.74), (0.5, 0.4), (-0.05, 0.4)], SNOW if b.style.snowy else roof)
    edge = shade(roof, -0.2)
    b.polygon([(-0.27, 0.74), (-0.22, 0.74), (0.0, 0.4), (-0.07, 0.38)], edge, detail=True)
    b.polygon([(-0.5, 0.38), (-0.43, 0.38), (-0.24, 0.7), (-0.28, 0.76)], edge)
    b.rectangle(-0.33, 0, -0.19, 0.27, shade(roof, -0.25), detail=True)
    b.rectangle(0.05, 0.14, 0.18, 0.3, glass, detail=True, glows=lit)
    b.rectangle(0.27, 0.14, 0.4, 0.3, glass, detail=True, glows=lit)
    b.rectangle(-0.32, 0.4, -0.2, 0.52, glass, detail=True, glows=lit)


def car(b: Brush, color: str, variant: int) -> None:
    paint, dark = PAINTS[color], shade(PAINTS[color], -0.3)
    b.shadow(0.52, 0.02)
    top = 0.44 if variant < 2 else 0.42
    back = -0.36 if variant % 2 else -0.46
    b.polygon([(back, 0.24), (back + 0.1, top), (0.12, top), (0.28, 0.24)], paint)
    b.polygon([(-0.5, 0.08), (-0.49, 0.26), (0.34, 0.27), (0.48, 0.21), (0.5, 0.08)], paint)
    b.rectangle(-0.49, 0.08, 0.49, 0.14, dark, detail=True)
    b.polygon([(back + 0.07, 0.25), (back + 0.14, top - 0.05), (-0.11, top - 0.05), (-0.11, 0.25)], GLASS, detail=True)
    b.polygon([(-0.05, 0.25), (-0.05, top - 0.05), (0.09, top - 0.05), (0.2, 0.25)], GLASS, detail=True)
    for x in (-0.28, 0.28):
        b.ellipse(x, 0.1, 0.115, 0.115, (38, 36, 44))
        b.ellipse(x, 0.1, 0.05, 0.05, (170, 172, 180), detail=True)
    b.rectangle(0.42, 0.15, 0.49, 0.21, (255, 240, 170), detail=True, glows=b.style.lit)
    b.rectangle(-0.49, 0.16, -0.43, 0.22, (206, 40, 40), detail=True, glows=b.style.lit)
    b.light(0.52, 0.18, 0.22)
    if b.style.snowy:
        b.rectangle(back + 0.1, top - 0.04, 0.12, top, SNOW, detail=True)


def boat(b: Brush, color: str, variant: int) -> None:
    paint, dark = PAINTS[color], shade(PAINTS[color], -0.28)
    cream = (250, 244, 228)
    b.shadow(0.46, 0.0)
    if variant < 3:  # a sail
        b.bar(-0.02, 0.15, -0.02, 0.95, 0.035, (110, 78, 56))
        b.polygon([(0.02, 0.26), (0.02, 0.94), (0.4, 0.3)], cream)
        b.polygon(
            [(0.02, 0.26), (0.02, 0.48), (0.28, 0.5), (0.4, 0.3)],
            paint if color != "white" else (226, 226, 232),
            detail=True,
        )
        b.polygon([(-0.06, 0.28), (-0.06, 0.86), (-0.34, 0.32)], shade(cream, -0.14))
    else:  # a cabin
        b.rectangle(-0.26, 0.18, 0.12, 0.44, cream)
        b.rectangle(-0.3, 0.42, 0.17, 0.49, dark)
        b.rectangle(-0.19, 0.27, -0.06, 0.37, GLASS, detail=True, glows=b.style.lit)
        b.rectangle(0.0, 0.27, 0.08, 0.37, GLASS, detail=True, glows=b.style.lit)
    b.polygon([(-0.46, 0.22), (0.5, 0.24), (0.36, 0.0), (-0.34, 0.0)], paint)
    b.polygon([(-0.4, 0.1), (0.42, 0.1), (0.36, 0.0), (-0.34, 0.0)], dark, detail=True)


def person(b: Brush, color: str, variant: int) -> None:
    shirt, skin = PAINTS[color], SKIN[variant]
    trousers = ((52, 60, 98), (74, 66, 64))[variant % 2]
    b.shadow(0.2)
    b.polygon(
        [(-0.12, 0.44), (0.12, 0.44), (0.13, 0.0), (0.03, 0.0), (0.0, 0.3), (-0.03, 0.0), (-0.13, 0.0)], trousers
    )
    for side in (-1, 1):
        b.bar(side * 0.12, 0.7, side * 0.19, 0.46, 0.075, shade(shirt, -0.2))
    b.polygon([(-0.15, 0.74), (0.15, 0.74), (0.13, 0.4), (-0.13, 0.4)], shirt)
    b.polygon(
        [(0.04 * b.side, 0.74), (0.15 * b.side, 0.74), (0.13 * b.side, 0.4), (0.04 * b.side, 0.4)],
        shade(shirt, -0.18),
        detail=True,
    )
    b.ellipse(0, 0.86, 0.125, 0.14, HAIR[variant])
    b.ellipse(0.02, 0.82, 0.115, 0.105, skin, detail=True)


def ball(b: Brush, color: str, variant: int) -> None:
    paint = PAINTS[color]
    b.shadow(0.5, 0.12)
    b.ellipse(0, 0.5, 0.5, 0.5, shade(paint, -0.25))
    b.ellipse(-0.07 * b.side, 0.55, 0.42, 0.42, paint, detail=True)
    b.polygon([(-0.44, 0.62), (0.36, 0.84), (0.44, 0.62), (-0.42, 0.4)], (250, 248, 240), detail=True)


def cow(b: Brush, color: str, variant: int) -> None:
    coat = PAINTS[color]
    patch = {"brown": (238, 226, 208), "white": (52, 48, 52), "black": (240, 238, 234)}[color]
    dark = shade(coat, -0.25)
    b.shadow(0.46, 0.02)
    for x in (-0.34, -0.2, 0.1, 0.24):
        b.rectangle(x, 0, x + 0.09, 0.28, dark if x in (-0.2, 0.1) else coat)
    b.polygon(
        [
            (-0.42, 0.24),
            (-0.42, 0.5),
            (-0.36, 0.56),
            (0.3, 0.56),
            (0.36, 0.48),
            (0.34, 0.24),
            (0.26, 0.2),
            (-0.36, 0.2),
        ],
        coat,
    )
    b.rectangle(-0.36, 0.2, 0.3, 0.27, dark, detail=True)
    b.ellipse(-0.16, 0.44, 0.13, 0.1, patch, detail=True)
    b.ellipse(0.16, 0.36, 0.09, 0.09, patch, detail=True)
    b.polygon([(0.24, 0.5), (0.3, 0.66), (0.44, 0.66), (0.5, 0.46), (0.42, 0.38), (0.28, 0.42)], coat)
    b.polygon([(0.41, 0.5), (0.49, 0.48), (0.46, 0.4), (0.4, 0.41)], (244, 186, 178), detail=True)
    b.bar(0.27, 0.66, 0.33, 0.7, 0.05, dark)
    b.bar(-0.42, 0.5, -0.46, 0.24, 0.05, dark)


def lamp(b: Brush, color: str, variant: int) -> None:
    iron = (62, 64, 76)
    b.shadow(0.12)
    b.bar(0, 0, 0, 0.8, 0.09, iron)
    b.rectangle(-0.1, 0, 0.1, 0.07, iron)
    b.polygon([(-0.1, 0.7), (0.1, 0.7), (0.15, 0.9), (-0.15, 0.9)], (255, 226, 130), glows=b.style.lit)
    b.polygon([(-0.17, 0.89), (0.17, 0.89), (0.0, 1.0)], SNOW if b.style.snowy else iron)
    b.light(0, 0.84, 0.42)


DRAW = {
    "tree": tree,
    "house": house,
    "car": car,
    "boat": boat,
    "person": person,
    "ball": ball,
    "cow": cow,
    "lamp": lamp,
}


def draw_thing(canvas: Canvas, thing: Thing, segment: int) -> list[tuple[float, float, float]]:
    """Draws one thing as `segment`; returns its lights as (x, y, radius), to be added over everything."""
    brush = Brush(canvas, thing, segment)
    DRAW[thing.kind](brush, thing.color, thing.variant)
    return brush.lights
