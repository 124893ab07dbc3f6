"""Where pictures lie on a canvas."""

import numpy as np
from PIL import Image

from seggen_hf.pictures.grid import lay_out, save_grid


def picture(width, height, value):
    return Image.new("RGB", (width, height), (value, value, value))


def test_columns_are_as_wide_as_their_widest_and_rows_may_be_short():
    sheet = lay_out([[picture(4, 2, 0), picture(3, 5, 50)], [picture(6, 1, 100)]], gap=2, margin=1)
    pixels = np.asarray(sheet)[..., 0]
    assert sheet.size == (1 + 6 + 2 + 3 + 1, 1 + 5 + 2 + 1 + 1)
    assert (pixels[1:3, 1:5] == 0).all() and (pixels[1:6, 9:12] == 50).all() and (pixels[8, 1:7] == 100).all()
    assert (pixels == 255).sum() == pixels.size - 8 - 15 - 6


def test_a_grid_is_written_whole(tmp_path):
    rows = [[np.full((4, 5, 3), value, np.uint8) for value in (0, 90)] for _ in range(3)]
    save_grid(rows, tmp_path / "deep" / "grid.png")
    assert Image.open(tmp_path / "deep" / "grid.png").size == (12, 16)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["grid.png"]
