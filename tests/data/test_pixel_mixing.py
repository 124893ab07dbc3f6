import numpy as np
import pytest
from datasets import Dataset

from seggen_hf.data.mixture import DecodedRecords
from seggen_hf.data.pixel_mixing import RealPartners
from seggen_hf.data.schema import encode_image, encode_map
from seggen_hf.data.transforms import cover_crop, cover_crop_map, place_of

SIZE = (24, 16)


@pytest.fixture
def pair():
    """A real record that is wider than what was drawn for a window of its map, and the drawn one."""
    rng = np.random.default_rng(0)
    image, ids = rng.integers(0, 256, (24, 40, 3), np.uint8), rng.integers(0, 3, (24, 40)).astype(np.uint8)
    real = Dataset.from_dict(
        {"image": [encode_image(image, "a")], "segmentation_map": [encode_map(ids, 3, "a")], "image_id": ["a"]}
    )
    made = Dataset.from_dict(
        {"kind": ["imgsyn", "masksyn", "imgsyn"], "source_id": ["a", "a", "b"], "seed": [7, 8, 9]}
    )
    drawn = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    return DecodedRecords(real), made, (drawn, cover_crop_map(ids, SIZE, place_of(7)), None)


def test_an_image_is_mixed_with_the_window_of_its_map(pair):
    real, made, record = pair
    partners = RealPartners(real, made, 1.0)
    source, source_map, _ = real[0]
    window, window_map, _ = cover_crop(source, source_map, SIZE, place=place_of(7))
    np.testing.assert_array_equal(window_map, record[1])  # it is that of the drawn image
    ended, same_map, _ = partners.mix(0, record, np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(ended, window)
    assert same_map is record[1]
    mixed = partners.mix(0, record, np.random.default_rng(0), 1.0)[0].astype(int)
    low, high = np.minimum(window, record[0]), np.maximum(window, record[0])
    assert ((low <= mixed) & (mixed <= high)).all() and (mixed != window).any() and (mixed != record[0]).any()


def test_what_has_no_partner_is_left_and_draws_nothing(pair):
    real, made, record = pair
    partners, rng = RealPartners(real, made, 1.0), np.random.default_rng(0)
    assert all(partners.mix(index, record, rng, 1.0) is record for index in (1, 2))  # MaskSyn; a record that is gone
    assert rng.random() == np.random.default_rng(0).random()
    none = RealPartners(real, made, 1e-9)
    assert none.mix(0, record, rng, 1.0) is record  # not in its share
    for without in (made.select([1]), made.remove_columns("seed")):
        with pytest.raises(ValueError, match="needs ImgSyn's samples"):
            RealPartners(real, without, 1.0)
