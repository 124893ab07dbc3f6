"""What is broken is named before anything starts, and images are turned as their masks are."""

import numpy as np
import pytest
from makers import HEIGHT, WIDTH, block_map, make_folder, photo, save_rotated
from PIL import Image

from seggen_hf.data.schema import read_image, read_map
from seggen_hf.data.sources.load import load_records


def test_every_broken_record_is_named_with_its_reason(tmp_path):
    root = make_folder(tmp_path / "data", count=12)
    images, masks = root / "train/images", root / "train/masks"
    (masks / "0001.png").unlink()
    (images / "0002.jpg").unlink()
    whole = (images / "0003.jpg").read_bytes()
    (images / "0003.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "0004.jpg").write_bytes(b"")
    (masks / "0005.png").write_bytes(b"not a picture")
    Image.fromarray(block_map()[:-2]).save(masks / "0006.png")
    Image.fromarray(block_map(labels=(0, 9, 2))).save(masks / "0007.png")
    whole = (masks / "0008.png").read_bytes()
    (masks / "0008.png").write_bytes(whole[: len(whole) * 2 // 3])
    Image.fromarray(photo()[..., 0].astype(np.uint16) * 200).save(images / "0009.png")
    (images / "0009.jpg").unlink()
    Image.fromarray(np.repeat(block_map(), 2, 0).repeat(2, 1)).save(masks / "0010.jpg", quality=30)
    (masks / "0010.png").unlink()
    with pytest.raises(ValueError) as caught:
        load_records(root)
    lines = {line.split(":")[0].split("/")[-1].strip(): line for line in str(caught.value).splitlines()}
    assert "no mask" in lines["0001.jpg"] and "no image" in lines["0002.png"]
    assert "has 10 broken of 12" in str(caught.value) and "seggen doctor SOURCE --fix FOLDER" in str(caught.value)
    assert (
        "truncated" in lines["0003.jpg"].lower()
        and "empty" in lines["0004.jpg"]
        and "not an image" in lines["0005.png"]
    )
    assert "22 x 32" in lines["0006.png"] and "24 x 32" in lines["0006.png"]
    assert "label ids 9 are outside the label set (0..2; void 255)" in lines["0007.png"]
    assert "more than 8 bits" in lines["0009.png"] and "0008.png" in lines and "lossy" in lines["0010.jpg"]


def test_only_twenty_are_listed_and_all_are_counted(tmp_path):
    root = make_folder(tmp_path / "data", count=30)
    for path in sorted((root / "train/masks").iterdir())[:25]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="25 broken of 30 records") as caught:
        load_records(root)
    assert str(caught.value).count("empty") == 20 and "and 5 more" in str(caught.value)


def test_without_the_check_the_rest_can_be_read(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    (root / "train/masks/0001.png").write_bytes(b"")
    records = load_records(root, check=False)
    assert len(records) == 3 and np.array_equal(read_map(records[2]["segmentation_map"]), block_map(2))


def test_exif_rotation_follows_the_mask(tmp_path):
    root = make_folder(tmp_path / "data", count=4)
    upright, images = np.repeat(block_map()[..., None], 3, 2) // 2 * 2, root / "train/images"
    save_rotated(images / "0000.jpg", upright)  # annotated without the rotation: the mask fits the stored pixels
    save_rotated(images / "0001.jpg", np.rot90(upright).copy(), 6)  # annotated as viewers show it
    records = load_records(root)
    for index in (0, 1):
        image = read_image(records[index]["image"])
        assert image.shape == (HEIGHT, WIDTH, 3)
        dark, bright = image[:11].mean(), image[-1].mean()
        assert dark < 10 and bright > 200  # sky is 0 and void 254: neither turned nor mirrored
    save_rotated(images / "0002.jpg", photo()[:20], 6)
    with pytest.raises(ValueError, match="0002.png: the mask is 24 x 32 .* and its image 32 x 20"):
        load_records(root)


def test_dropping_exif_leaves_the_pixels_of_a_jpeg_untouched(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    save_rotated(root / "train/images/0000.jpg", photo(), 8)
    stored = np.array(Image.open(root / "train/images/0000.jpg"))
    assert np.array_equal(read_image(load_records(root)[0]["image"]), stored)


def test_half_turns_that_fit_both_ways_are_read_as_shown_with_a_warning(tmp_path):
    root = make_folder(tmp_path / "data", count=1)
    save_rotated(root / "train/images/0000.jpg", photo(), 3)
    with pytest.warns(UserWarning, match="fit their masks either way"):
        records = load_records(root)
    stored = np.array(Image.open(root / "train/images/0000.jpg"))
    assert np.array_equal(read_image(records[0]["image"]), stored[::-1, ::-1])
    with pytest.warns(UserWarning, match="first 0000"):  # on later loads too
        load_records(root)


@pytest.mark.parametrize("drawn_rotated", [False, True])
def test_half_turns_are_read_as_the_splits_other_images(tmp_path, drawn_rotated, recwarn):
    root = make_folder(tmp_path / "data", count=3)
    save_rotated(root / "train/images/0000.jpg", photo(), 3)
    save_rotated(root / "train/images/0001.jpg", np.rot90(photo()).copy() if drawn_rotated else photo(), 6)
    stored = np.array(Image.open(root / "train/images/0000.jpg"))
    image = read_image(load_records(root)[0]["image"])
    assert np.array_equal(image, stored[::-1, ::-1] if drawn_rotated else stored)
    assert not [warning for warning in recwarn if "either way" in str(warning.message)]
