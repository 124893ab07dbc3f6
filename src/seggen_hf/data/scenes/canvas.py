"""Paints a planned scene in one style: the picture and, with the same strokes, the map of its segments."""

import numpy as np
from PIL import Image, ImageDraw

from .plan import ScenePlan, Stuff
from .styles import Color, Style, mix, shade

SUPERSAMPLING = 3  # odd, so that a pixel's label is the one exactly at its centre

# The two ends of each stuff class's hue.
STUFF_PAINTS: dict[str, tuple[Color, Color]] = {
    "grass": ((104, 176, 62), (134, 184, 70)),
    "water": ((30, 112, 190), (36, 158, 184)),
    "sand": ((232, 202, 138), (240, 216, 166)),
    "road": ((112, 112, 122), (132, 126, 130)),
    "mountain": ((124, 120, 152), (150, 124, 122)),
    "building": ((158, 148, 178), (212, 166, 130)),
}
SNOWY_PAINTS: dict[str, Color] = {
    "grass": (228, 236, 247),
    "sand": (236, 226, 210),
    "mountain": (176, 186, 206),
}
WINDOW_LIGHT: Color = (255, 214, 110)


class Canvas:
    """A picture and its segment map, drawn together on a grid `SUPERSAMPLING` times finer than asked for."""

    def __init__(self, plan: ScenePlan, style: Style, height: int, width: int):
        self.plan, self.style = plan, style
        self.height, self.width = height * SUPERSAMPLING, width * SUPERSAMPLING
        self.unit = min(self.height, self.width)
        self.pixel = self.unit / 64  # strokes are at least two of these
        self.segments = Image.new("L", (self.width, self.height), 0)
        self.on_map = ImageDraw.Draw(self.segments)
        self.picture = self.gradient(*style.sky, 0.0, plan.horizon + 0.02)
        self.pen = ImageDraw.Draw(self.picture, "RGBA")

    def gradient(self, top: Color, bottom: Color, y0: float, y1: float) -> Image.Image:
        """The whole picture filled with a vertical gradient that runs from y0 to y1."""
        y = (np.arange(self.height) + 0.5) / self.height
        share = np.clip((y - y0) / (y1 - y0), 0, 1)[:, None]
        column = np.asarray(top) + (np.asarray(bottom, float) - np.asarray(top)) * share
        column = np.rint(column).astype(np.uint8)[:, None, :]
        return Image.fromarray(column).resize((self.width, self.height), Image.Resampling.NEAREST)

    def at(self, points) -> list[tuple[float, float]]:
        return [(x * self.width, y * self.height) for x, y in points]

    # -- the sky ----------------------------------------------------------------------------------------------

    def sky(self, segment: int) -> None:
        self.on_map.rectangle((0, 0, self.width, self.height), fill=segment)
        style, plan = self.style, self.plan
        if style.sun:
            y = plan.horizon * (0.8 if style.low_sun else 0.3)
            glow = style.sun_size * (1.8 if style.low_sun else 1.5)
            self.disc(plan.sun_x, y, glow, (*style.sun, 70))
            self.disc(plan.sun_x, y, style.sun_size, (*style.sun, 255))
        for x, y, size in plan.clouds[: style.clouds]:
            under = mix(style.cloud, style.sky[0], 0.25)
            for dx, dy, r, color in (
                (0, 0.03, 1.0, under),
                (-0.55, 0.0, 0.55, style.cloud),
                (0.5, 0.05, 0.6, style.cloud),
                (0.0, -0.2, 0.75, style.cloud),
            ):
                rx, ry = r * size * self.unit, r * size * self.unit * 0.42
                cx, cy = x * self.width + dx * size * self.unit, y * self.height + dy * size * self.unit
                self.pen.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=(*color, 235))

    def disc(self, x: float, y: float, radius: float, color) -> None:
        r = radius * self.unit
        cx, cy = x * self.width, y * self.height
        self.pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=color)

    # -- stuff ------------------------------------------------------------------------------------------------

    def stuff(self, region: Stuff, segment: int) -> None:
        outline = self.at(region.polygon)
        self.on_map.polygon(outline, fill=segment)
        if region.category == "mountain":
            self.mountain(region, outline)
        elif region.category == "building":
            self.building(region, outline)
        else:
            self.ground(region, outline)

    def base(self, region: Stuff) -> Color:
        if self.style.snowy and region.category in SNOWY_PAINTS:
            return SNOWY_PAINTS[region.category]
        return mix(*STUFF_PAINTS[region.category], region.tone)

    def mountain(self, region: Stuff, outline) -> None:
        base, (left, peak, right) = self.base(region), outline
        depth = 0.9
        self.pen.polygon(outline, fill=self.style.color(shade(base, 0.12), depth))
        foot = (peak[0] + (right[0] - peak[0]) * 0.1, right[1])
        self.pen.polygon([peak, right, foot], fill=self.style.color(shade(base, -0.22), depth))
        cap = 0.55 if self.style.snowy else 0.3
        a = (peak[0] + (left[0] - peak[0]) * cap, peak[1] + (left[1] - peak[1]) * cap)
        b = (peak[0] + (right[0] - peak[0]) * cap, peak[1] + (right[1] - peak[1]) * cap)
        mid = (peak[0] + (foot[0] - peak[0]) * cap, a[1] - (a[1] - peak[1]) * 0.22)
        self.pen.polygon([peak, a, mid], fill=self.style.color((250, 250, 252), depth))
        self.pen.polygon([peak, mid, b], fill=self.style.color((206, 212, 230), depth))

    def building(self, region: Stuff, outline) -> None:
        style, number = self.style, region.number
        (x0, y0), _, (x1, y1), _ = outline
        base = shade(self.base(region), (number % 4 - 1.5) * 0.14)
        self.pen.rectangle((x0, y0, x1, y1), fill=style.color(base, 0.6))
        self.pen.rectangle((x1 - (x1 - x0) * 0.28, y0, x1, y1), fill=style.color(shade(base, -0.25), 0.6))
        step = 7 * self.pixel
        columns = max(1, round((x1 - x0) * 0.66 / step))
        rows = max(1, int((y1 - y0 - step) / step))
        gap = (x1 - x0) * 0.7 / columns
        for k in range(columns * rows):
            i, j = k % columns, k // columns
            lit = style.lit and number >> (k % 13) & 1
            color = style.color(WINDOW_LIGHT, 0.3, glows=True) if lit else style.color(shade(base, -0.42), 0.6)
            x, y = x0 + gap * (i + 0.5), y0 + step * (j + 0.8)
            half = 1.6 * self.pixel
            self.pen.rectangle((x - half, y - half, x + half, y + half), fill=color)
        if style.snowy:
            self.pen.rectangle((x0, y0, x1, y0 + 2 * self.pixel), fill=style.color((250, 250, 252), 0.4))

    def ground(self, region: Stuff, outline) -> None:
        """A region in perspective: a gradient to the distance under a large pattern, cut out by its outline."""
        style, plan, base = self.style, self.plan, self.base(region)
        far = shade(base, 0.22 if region.category == "water" else 0.1)
        layer = self.gradient(style.color(far, 1.0), style.color(shade(base, -0.06), 0.0), plan.horizon, 1.0)
        pen = ImageDraw.Draw(layer, "RGBA")
        if region.texture:
            getattr(self, region.texture)(pen, region, base)
        cut = Image.new("1", layer.size, 0)
        ImageDraw.Draw(cut).polygon(outline, fill=1)
        self.picture.paste(layer, mask=cut)

    # -- large patterns on the ground -------------------------------------------------------------------------

    def line(self, pen, points, color, width: float) -> None:
        pen.line(self.at(points), fill=color, width=max(1, round(width * self.pixel)), joint="curve")

    def waves(self, pen, region: Stuff, base: Color) -> None:
        """A few broad bright crests, longer near by; the low sun's or the moon's track on the water."""
        h, style = self.plan.horizon, self.style
        if style.sun is not None and (style.low_sun or style.lit):
            x, color = self.plan.sun_x, style.sun
            for k in range(3):
                y, half = h + 0.04 + 0.1 * k, 0.05 + 0.02 * k
                self.line(pen, [(x - half, y), (x + half, y)], (*color, 120 - 25 * k), 2.5)
        crest = (*style.color(shade(base, 0.5), 0.2), 110)
        for k in range(3):
            y = h + (1 - h) * (0.14, 0.4, 0.72)[k]
            x = (region.tone * 7.3 + k * 0.618) % 1.0
            for start in (x - 0.7, x):
                self.line(pen, [(start, y), (start + 0.2 + 0.08 * k, y)], crest, 2)

    def foam(self, pen, region: Stuff, base: Color) -> None:
        """Wet sand and foam along the shore."""
        shore = region.polygon[:-2]
        self.line(pen, [(x, y + 0.04) for x, y in shore], (*self.style.color(shade(base, -0.16)), 255), 3)
        self.line(pen, [(x, y + 0.016) for x, y in shore], (*self.style.color((252, 252, 250), 0.1), 230), 2.4)

    def across(self, pen, region: Stuff, base: Color) -> None:
        """Kerbs and dashes of a road from side to side."""
        (_, y0), _, (_, y1), _ = region.polygon
        kerb = (*self.style.color(shade(base, 0.35), 0.1), 255)
        self.line(pen, [(0, y0), (1, y0)], kerb, 2.4)
        self.line(pen, [(0, y1), (1, y1)], kerb, 3)
        white = (*self.style.color((244, 242, 230), 0.1), 255)
        for k in range(4):
            x = (region.tone + 0.333 * k) % 1.333 - 0.167
            self.line(pen, [(x, (y0 + y1) / 2), (x + 0.16, (y0 + y1) / 2)], white, 2)

    # -- over everything --------------------------------------------------------------------------------------

    def finish(self, lights) -> tuple[Image.Image, np.ndarray]:
        """The picture at the size asked for, and the segment ids (H, W) uint8 at its pixels' centres."""
        for x, y, radius in lights:
            for share, opacity in ((1.0, 30), (0.62, 40), (0.3, 60)):
                self.disc(x, y, radius * share, (255, 222, 140, opacity))
        middle = SUPERSAMPLING // 2
        segments = np.asarray(self.segments)[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
        return self.picture.reduce(SUPERSAMPLING), segments
