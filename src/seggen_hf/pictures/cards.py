"""Pictures beside a card: the labels with their colors, and samples that were generated."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from seggen_hf.pipelines import ColormapCodec

from ..data.schema import read_image
from ..storage.files import save_image
from .grid import lay_out
from .markdown import one_line
from .report import thumbnail
from .segments import paint_record

GAP, COLUMNS = 4, 6
NUM_SAMPLES = 6  # that a card shows
LONGEST = 60  # characters of a name


def draw_legend(codec: ColormapCodec, path: Path) -> Path:
    """One swatch and name a label, in columns."""
    names = [one_line(name)[:LONGEST] for name in codec.id2label.values()]
    font = ImageFont.load_default(14)
    rows = -(-len(names) // min(COLUMNS, max(1, len(names) // 5)))
    cell = 40 + max(int(font.getlength(name)) for name in names)
    columns = -(-len(names) // rows)
    canvas = Image.new("RGB", (columns * cell + GAP, rows * 24 + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (name, color) in enumerate(zip(names, codec.palette, strict=True)):
        left, top = GAP + index // rows * cell, GAP + index % rows * 24
        draw.rectangle([left, top, left + 22, top + 18], fill=tuple(int(v) for v in color), outline="black")
        draw.text((left + 28, top + 1), name, fill="black", font=font)
    return save_image(canvas, path, optimize=True)


def draw_samples(rows: Sequence[dict], codec: ColormapCodec, path: Path) -> Path:
    """Two lines: the maps of `rows`, painted, above the images that were generated for them."""
    maps = [thumbnail(paint_record(row, codec), smooth=False) for row in rows]
    images = [thumbnail(read_image(row["image"])) for row in rows]
    return save_image(lay_out([maps, images], GAP), path, optimize=True)
