"""A contact sheet of synthetic samples, so that people can look: map, image, the real image, and the caption."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont

from ..data.schema import open_image
from ..files import save_image
from .segments import paint_record

CELL = 192  # height of a picture in pixels
MARGIN = 6
CAPTION_WIDTH = 260


def write_preview(path: Path, rows: Sequence[dict], codec, records: Dataset) -> None:
    """One row a sample: caption | map in the codec's colors | image, and for ImgSyn the real image of the same map.

    Args:
        rows: synthetic records, decoded or as a shard holds them.
        codec (`ColormapCodec`): paints the maps.
        records: the real records, for the images that ImgSyn started from; blank where they have none.
    """
    font = ImageFont.load_default(size=12)
    wanted = {row["source_id"] for row in rows if row["kind"] == "imgsyn"}
    real = {id: index for index, id in enumerate(records["image_id"][:]) if id in wanted}
    lines = [_line(row, codec, records, real) for row in rows]
    widths = [max(line[column].width for line in lines) for column in range(3)]
    heights = [max(picture.height for picture in line) for line in lines]
    header = 20 + MARGIN
    sheet = Image.new(
        "RGB",
        (CAPTION_WIDTH + sum(widths) + 5 * MARGIN, header + sum(heights) + MARGIN * (len(lines) + 1)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN]
    for width in (CAPTION_WIDTH, *widths[:-1]):
        lefts.append(lefts[-1] + width + MARGIN)
    for left, title in zip(lefts, ("caption", "segmentation map", "synthetic image", "real image"), strict=True):
        draw.text((left, MARGIN), title, "black", font)
    top = header + MARGIN
    for row, line, height in zip(rows, lines, heights, strict=True):
        text = textwrap.fill(row["caption"], 40) + f"\n\n{row['image_id']}"
        draw.multiline_text((MARGIN, top), text, "black", font)
        for left, picture in zip(lefts[1:], line, strict=True):
            sheet.paste(picture, (left, top))
        top += height + MARGIN
    save_image(sheet, path)


def _line(row: dict, codec, records: Dataset, real: dict[str, int]) -> list[Image.Image]:
    color_map = Image.fromarray(paint_record(row, codec))
    pictures = [(color_map, Image.Resampling.NEAREST), (open_image(row["image"]), Image.Resampling.BICUBIC)]
    source = records[real[row["source_id"]]] if row["source_id"] in real else {}
    if source.get("image") is not None:
        pictures.append((open_image(source["image"]), Image.Resampling.BICUBIC))
    else:
        pictures.append((Image.fromarray(np.full((CELL, CELL, 3), 255, np.uint8)), Image.Resampling.NEAREST))
    return [_fit(picture.convert("RGB"), resample) for picture, resample in pictures]


def _fit(image: Image.Image, resample) -> Image.Image:
    width = min(max(1, round(image.width * CELL / image.height)), 2 * CELL)
    return image.resize((width, CELL), resample)
