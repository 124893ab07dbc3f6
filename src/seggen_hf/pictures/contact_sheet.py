"""A contact sheet of synthetic samples, so that people can look: map, image, the real image, and the caption."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont

from ..data.schema import open_image
from ..storage.files import save_image
from .grid import lay_out
from .segments import paint_record

CELL = 192  # height of a picture in pixels
MARGIN = 6
CAPTION_WIDTH = 260
TITLES = ("caption", "segmentation map", "synthetic image", "real image")


def write_preview(path: Path, rows: Sequence[dict], codec, records: Dataset) -> None:
    """One row a sample: caption | map in the codec's colors | image, and for ImgSyn the real image of the same map.

    Args:
        rows: synthetic records, decoded or as a shard holds them.
        codec (`ColormapCodec`): paints the maps.
        records: the real records, for the images that ImgSyn started from; blank where they have none.
    """
    wanted = {row["source_id"] for row in rows if row["kind"] == "imgsyn"}
    real = {id: index for index, id in enumerate(records["image_id"][:]) if id in wanted}
    lines = [[_text(title) for title in TITLES]]
    for row in rows:
        caption = _text(textwrap.fill(row["caption"], 40) + f"\n\n{row['image_id']}", CAPTION_WIDTH)
        lines.append([caption, *_pictures(row, codec, records, real)])
    save_image(lay_out(lines, MARGIN, MARGIN), path)


def _text(text: str, width: int = 0) -> Image.Image:
    """Black text on white, at least `width` pixels wide."""
    font = ImageFont.load_default(size=12)
    _, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    picture = Image.new("RGB", (max(width, int(right) + 1), int(bottom) + 1), "white")
    ImageDraw.Draw(picture).multiline_text((0, 0), text, "black", font)
    return picture


def _pictures(row: dict, codec, records: Dataset, real: dict[str, int]) -> list[Image.Image]:
    color_map = Image.fromarray(paint_record(row, codec))
    pictures = [(color_map, Image.Resampling.NEAREST), (open_image(row["image"]), Image.Resampling.BICUBIC)]
    source = records[real[row["source_id"]]] if row["source_id"] in real else {}
    if source.get("image") is not None:
        pictures.append((open_image(source["image"]), Image.Resampling.BICUBIC))
    return [_fit(picture.convert("RGB"), resample) for picture, resample in pictures]


def _fit(image: Image.Image, resample) -> Image.Image:
    width = min(max(1, round(image.width * CELL / image.height)), 2 * CELL)
    return image.resize((width, CELL), resample)
