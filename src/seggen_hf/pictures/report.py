"""Pictures of the report: thumbnails, painted maps and line charts, without a plotting library."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ..storage.files import save_image, write_text
from ..storage.names import check_name

SIDE = 160  # pixels of a thumbnail's longer side, about
LINE_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def thumbnail(pixels: np.ndarray, smooth: bool = True) -> Image.Image:
    """RGB pixels at about SIDE: small pictures enlarged by a whole factor, large ones reduced.

    Args:
        pixels (`np.ndarray` of shape `(height, width, 3)`, uint8).
        smooth (`bool`): False keeps the colors of painted maps apart.
    """
    image = Image.fromarray(np.asarray(pixels))
    longer = max(image.size)
    scale = math.ceil(SIDE / longer) if longer < 1.5 * SIDE else 1.5 * SIDE / longer
    width, height = (max(1, round(side * scale)) for side in image.size)
    size = (width, height)
    if smooth:
        return image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    return image.resize(size, Image.Resampling.NEAREST)


class PictureFolder:
    """Files of a report's pictures: written once, linked by the Markdown report and inlined by the HTML one."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, pixels: np.ndarray, alt: str, smooth: bool = True) -> dict:
        """Write a thumbnail; returns `path` (from the run folder), `uri` (the file inlined) and `alt`."""
        path = self.folder / f"{check_name(name, 'A picture')}.png"  # splits are named by results.json
        save_image(thumbnail(pixels, smooth), path, optimize=True)
        uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        return {"path": f"{self.folder.name}/{path.name}", "uri": uri, "alt": alt}

    def add_chart(self, name: str, svg: str, alt: str) -> dict:
        """Write a chart; returns `path`, `svg` and `alt`."""
        path = self.folder / f"{check_name(name, 'A chart')}.svg"
        write_text(path, svg)
        return {"path": f"{self.folder.name}/{path.name}", "svg": svg, "alt": alt}


def hex_color(color: Sequence[int]) -> str:
    """`#rrggbb`."""
    return "#" + "".join(f"{int(value):02x}" for value in color)


def line_chart(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], width: int = 460, height: int = 220
) -> str:
    """An SVG of lines over steps, from zero or the least value; points that are not finite are left out.

    Args:
        series: `{name: [(step, value), ...]}`.
    """
    lines = {name: [(x, y) for x, y in points if np.isfinite(y)] for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    left, right, top, bottom = 48, 10, 26, 22 + 16 * len(lines)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + bottom}" width="{width}" '
        f'role="img" aria-label="{escape(title)}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="{left}" y="16" font-size="13" font-weight="bold" fill="#222222">{escape(title)}</text>'
    )
    if not lines:
        return f'{head}<text x="{left}" y="40" fill="#222222">nothing was logged</text></svg>'
    steps = [x for points in lines.values() for x, _ in points]
    values = [y for points in lines.values() for _, y in points]
    low, high = min(0.0, min(values)), float(np.percentile(values, 99.5)) * 1.05 or 1.0  # one spike hides no curve
    first, last = min(steps), max(steps)

    def place(x: float, y: float) -> str:
        across = left + (x - first) / max(last - first, 1e-9) * (width - left - right)
        down = height - (min(y, high) - low) / max(high - low, 1e-9) * (height - top)
        return f"{across:.1f},{down:.1f}"

    parts = [head]
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        down = height - share * (height - top)
        parts.append(f'<path d="M{left},{down:.1f}H{width - right}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 4}" y="{down + 4:.1f}" text-anchor="end" fill="#555555">{value:.3g}</text>')
    parts.append(f'<text x="{left}" y="{height + 14}" fill="#555555">step {first:g}</text>')
    parts.append(f'<text x="{width - right}" y="{height + 14}" text-anchor="end" fill="#555555">{last:g}</text>')
    for number, (name, points) in enumerate(lines.items()):
        color = LINE_COLORS[number % len(LINE_COLORS)]
        drawn = points[:: max(1, len(points) // 300)]
        drawn = drawn if drawn[-1] == points[-1] else [*drawn, points[-1]]
        corners = " ".join(place(x, y) for x, y in drawn)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        down = height + 30 + 16 * number
        parts.append(f'<path d="M{left},{down - 4}h18" stroke="{color}" stroke-width="3"/>')
        entry = f"{escape(name)} (last {points[-1][1]:.3g})"
        parts.append(f'<text x="{left + 24}" y="{down}" fill="#222222">{entry}</text>')
    return "".join(parts) + "</svg>"
