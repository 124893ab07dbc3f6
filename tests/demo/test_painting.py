"""Pictures on the page."""

import numpy as np

from seggen_hf.demo.painting import SHOWN, magnification, magnify


def test_small_maps_are_magnified_without_mixing():
    rgb = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    large = magnify(rgb)
    factor = magnification(60, 40)
    assert large.shape[0] >= SHOWN > large.shape[0] - 60 and (large[::factor, ::factor] == rgb).all()
    assert magnify(large) is not None and magnification(2000, 1000) == 1
