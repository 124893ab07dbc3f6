"""Appearance of the built-in scenes: a style maps every drawing colour to what it looks like in that light."""

from dataclasses import dataclass

Color = tuple[int, int, int]

# Colours that captions name, as they look on a clear day.
PAINTS: dict[str, Color] = {
    "red": (218, 56, 48),
    "blue": (46, 100, 206),
    "yellow": (246, 200, 52),
    "white": (244, 243, 238),
    "green": (72, 158, 66),
    "orange": (240, 132, 40),
    "brown": (140, 88, 54),
    "black": (50, 48, 56),
}


def mix(a: Color, b: Color, share: float) -> Color:
    """Colour on the way from `a` (share 0) to `b` (share 1)."""
    (r0, g0, b0), (r1, g1, b1) = a, b
    return round(r0 + (r1 - r0) * share), round(g0 + (g1 - g0) * share), round(b0 + (b1 - b0) * share)


def shade(color: Color, amount: float) -> Color:
    """Lighter for a positive, darker for a negative amount in [-1, 1]."""
    return mix(color, (255, 255, 250) if amount > 0 else (18, 14, 34), abs(amount))


@dataclass(frozen=True)
class Style:
    """One light and weather.

    `saturation` scales the distance to grey, `gain` and `lift` act per channel, and `haze` fills the view with
    `haze_color`, by `haze[0]` close by and `haze[1]` at the horizon.
    """

    name: str
    sky: tuple[Color, Color]  # at the top, at the horizon
    cloud: Color
    clouds: int  # how many of the planned clouds are there
    saturation: float = 1.0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    haze: tuple[float, float] = (0.0, 0.25)
    haze_color: Color = (200, 222, 240)
    sun: Color | None = None  # disc in the sky
    sun_size: float = 0.06
    low_sun: bool = False
    shadow: int = 60  # opacity of the shadow under a thing, 0..255
    lit: bool = False  # lamps and windows glow
    snowy: bool = False  # white ground and roofs

    def color(self, color: Color, depth: float = 0.0, glows: bool = False) -> Color:
        """What `color` looks like at `depth` (0 close by .. 1 at the horizon); a glowing one keeps its light."""
        haze = self.haze[0] + (self.haze[1] - self.haze[0]) * min(max(depth, 0.0), 1.0)
        if glows:
            return mix(color, self.haze_color, 0.4 * haze)
        grey = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]
        red, green, blue = (
            min(255, max(0, round((grey + (c - grey) * self.saturation) * g + o)))
            for c, g, o in zip(color, self.gain, self.lift, strict=True)
        )
        return mix((red, green, blue), self.haze_color, haze)


_STYLES = (
    Style("on a clear day", ((58, 140, 226), (176, 220, 248)), (252, 253, 255), 2, sun=(255, 236, 130)),
    Style(
        "under a cloudy sky",
        ((140, 152, 166), (196, 204, 210)),
        (222, 227, 232),
        3,
        saturation=0.62,
        gain=(0.82, 0.86, 0.9),
        haze=(0.0, 0.35),
        haze_color=(186, 196, 204),
        shadow=30,
    ),
    Style(
        "at sunset",
        ((96, 74, 150), (255, 164, 78)),
        (255, 150, 128),
        2,
        gain=(0.98, 0.86, 0.75),
        lift=(12, 2, 8),
        haze=(0.0, 0.35),
        haze_color=(250, 150, 96),
        sun=(255, 226, 120),
        sun_size=0.1,
        low_sun=True,
        shadow=80,
    ),
    Style(
        "at night",
        ((10, 14, 44), (38, 48, 100)),
        (30, 38, 78),
        1,
        saturation=0.9,
        gain=(0.44, 0.48, 0.6),
        lift=(2, 6, 24),
        haze=(0.0, 0.35),
        haze_color=(28, 36, 80),
        sun=(246, 244, 214),
        sun_size=0.055,
        shadow=70,
        lit=True,
    ),
    Style(
        "in fog",
        ((196, 202, 206), (214, 217, 218)),
        (214, 217, 218),
        0,
        saturation=0.7,
        gain=(0.9, 0.92, 0.94),
        haze=(0.18, 0.84),
        haze_color=(212, 215, 217),
        shadow=25,
    ),
    Style(
        "in snow",
        ((158, 176, 204), (214, 224, 236)),
        (226, 232, 242),
        2,
        saturation=0.85,
        gain=(0.92, 0.95, 1.0),
        haze=(0.0, 0.4),
        haze_color=(216, 226, 238),
        shadow=45,
        snowy=True,
    ),
)
STYLE_TABLE: dict[str, Style] = {style.name: style for style in _STYLES}
SEEN_STYLES: tuple[str, ...] = ("on a clear day", "under a cloudy sky", "at sunset")
UNSEEN_STYLES: tuple[str, ...] = ("at night", "in fog", "in snow")
STYLES: tuple[str, ...] = SEEN_STYLES + UNSEEN_STYLES
