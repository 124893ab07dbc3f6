"""Pairs stay aligned, maps stay labels, and the generator alone decides."""

import time

import numpy as np
import pytest
from PIL import Image

from seggen_hf.data.mixture import DecodedRecords
from seggen_hf.data.schema import encode_image, encode_map
from seggen_hf.data.transforms import (
    STYLES,
    color_jitter,
    cover_crop,
    cover_crop_map,
    crop_pair,
    flip_pair,
    large_scale_jitter,
    random_zoom_crop,
    style_augment,
)
from seggen_hf.pipelines import resize_nearest

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 250, 0]], np.uint8)


def make_pair(height: int = 48, width: int = 64):
    """A map of four blocks and the image that paints it: alignment is visible in the colors."""
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 2 // width
    segmentation_map = (rows[:, None] * 2 + columns).astype(np.int32)
    return COLORS[segmentation_map], segmentation_map


def agreement(image, segmentation_map) -> float:
    """Share of labelled pixels whose color is nearest to their label's."""
    labelled = segmentation_map != 255
    distances = np.abs(image[labelled][:, None].astype(int) - COLORS[None].astype(int)).sum(-1)
    return (distances.argmin(-1) == segmentation_map[labelled]).mean()


@pytest.mark.parametrize("size", [(24, 32), (96, 128), (17, 41), (48, 64), (200, 120)])
def test_resizing_keeps_the_pair_aligned_and_makes_no_new_labels(size):
    image, segmentation_map, _ = cover_crop(*make_pair(), size)
    assert image.shape == (*size, 3) and segmentation_map.shape == size
    assert image.dtype == np.uint8 and segmentation_map.dtype == np.int32
    assert set(np.unique(segmentation_map)) == {0, 1, 2, 3}
    assert agreement(image, segmentation_map) > 0.9


@pytest.mark.parametrize("size", [(24, 24), (47, 47), (101, 101)])
def test_maps_are_resized_like_pil_nearest_and_images_with_antialiasing(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    segmentation_map = rng.integers(0, 9, (48, 48))
    small_image, small_map, _ = cover_crop(image, segmentation_map, size)
    nearest = Image.fromarray(segmentation_map.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    assert (small_map == np.array(nearest)).mean() > 0.94  # PIL's running sum breaks the ties of odd sizes otherwise
    if size[0] < 48:
        assert small_image.std() < 0.8 * image.std()  # without antialiasing noise would keep its spread


def test_flips_mirror_both_and_undo_themselves():
    pair = make_pair()
    flipped = flip_pair(*pair)
    assert np.array_equal(flipped[1], pair[1][:, ::-1]) and agreement(*flipped) == 1
    assert all(np.array_equal(a, b) for a, b in zip(flip_pair(*flipped), pair, strict=True))
    rng = np.random.default_rng(0)
    share = np.mean([flip_pair(*pair, rng)[1][0, 0] for _ in range(400)])
    assert 0.4 < share < 0.6


def test_flip_and_resize_commute():
    pair = make_pair(49, 64)
    first = cover_crop(*flip_pair(*pair), (24, 32))[1]
    second = flip_pair(*cover_crop(*pair, (24, 32))[:2])[1]
    assert np.array_equal(first, second)


def test_a_crop_beyond_the_border_is_padded_with_void_and_the_mean_color():
    image, segmentation_map = make_pair()
    out_image, out_map = crop_pair(image, segmentation_map, -5, 40, 60, 50, ignore_index=254)
    assert out_image.shape == (60, 50, 3) and out_map.shape == (60, 50)
    inside = np.zeros((60, 50), bool)
    inside[5:53, :24] = True
    assert (out_map[~inside] == 254).all() and (out_map[inside] != 254).all()
    assert (out_image[~inside] == np.rint(image.mean((0, 1))).astype(np.uint8)).all()
    assert np.array_equal(out_map[5:53, :24], segmentation_map[:, 40:])
    assert (crop_pair(image, segmentation_map, 500, 500, 4, 4)[1] == 255).all()


def test_a_crop_inside_is_a_copy():
    image, segmentation_map = make_pair()
    out_image, out_map = crop_pair(image, segmentation_map, 3, 4, 10, 12)
    assert np.array_equal(out_image, image[3:13, 4:16])
    out_map[:] = 9
    assert segmentation_map.max() == 3


@pytest.mark.parametrize("size", [(48, 64), (32, 32), (96, 64)])
@pytest.mark.parametrize("max_zoom", [1.0, 2.5])
def test_zoom_crops_are_aligned_and_say_where_they_lie(size, max_zoom):
    for seed in range(20):
        pair = make_pair()
        image, segmentation_map, facts = random_zoom_crop(*pair, size, max_zoom, np.random.default_rng(seed))
        assert image.shape == (*size, 3) and segmentation_map.shape == size
        assert agreement(image, segmentation_map) > 0.95
        assert facts["original_size"] == (48, 64)
        top, left = facts["crop_top_left"]
        scale = max(size[0] / 48, size[1] / 64) * max_zoom
        assert 0 <= top <= 48 * scale - size[0] + 1 and 0 <= left <= 64 * scale - size[1] + 1


def test_zoom_one_at_the_same_aspect_is_the_whole_pair():
    image, segmentation_map = make_pair()
    out = random_zoom_crop(image, segmentation_map, (48, 64), 1.0, np.random.default_rng(3))
    assert np.array_equal(out[0], image) and np.array_equal(out[1], segmentation_map)
    assert out[2]["crop_top_left"] == (0, 0)


def test_the_crop_position_is_that_of_the_scaled_image():
    columns = np.arange(128, dtype=np.int32) * np.ones((64, 1), np.int32)
    image = np.repeat(columns[..., None], 3, 2).astype(np.uint8)
    _, segmentation_map, facts = random_zoom_crop(image, columns, (64, 64), 1.0, np.random.default_rng(5))
    assert abs(segmentation_map[0, 0] - facts["crop_top_left"][1]) <= 1 and facts["crop_top_left"][0] == 0


@pytest.mark.parametrize("size", [(24, 32), (96, 128), (36, 48), (7, 7), (60, 20)])
def test_a_cover_crop_takes_the_whole_pair_or_the_window_at_its_place(size):
    image, segmentation_map = make_pair()[0], np.arange(48 * 64).reshape(48, 64)
    middle, corner = (cover_crop(image, segmentation_map, size, place=place)[1] for place in ((0.5, 0.5), (0, 0)))
    assert np.array_equal(cover_crop_map(segmentation_map, size), middle)
    assert np.array_equal(cover_crop_map(segmentation_map, size, (0, 0)), corner)
    if size[0] * 4 == size[1] * 3:
        assert np.array_equal(middle, resize_nearest(segmentation_map, *size)) and np.array_equal(middle, corner)
    else:
        side = 48 * size[1] // size[0]  # of 64 columns
        columns = segmentation_map[:, (64 - side) // 2 :][:, :side]
        assert np.array_equal(middle, resize_nearest(columns, *size))
        assert np.array_equal(corner, resize_nearest(segmentation_map[:, :side], *size))


def test_jitter_covers_crops_and_pads_what_is_smaller():
    pair, shares = make_pair(), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        image, segmentation_map = large_scale_jitter(*pair, 0.25, 2.0, (40, 40), rng, ignore_index=255)
        assert image.shape == (40, 40, 3) and segmentation_map.shape == (40, 40)
        assert agreement(image, segmentation_map) > 0.9
        void = segmentation_map == 255
        assert not void[0, 0]
        shares.append(void.mean())
    assert min(shares) == 0 and 0.5 < max(shares) < 1 - 0.25**2 + 0.05


def test_jitter_at_scale_one_covers_the_crop_without_padding():
    for crop in ((40, 40), (20, 60), (48, 64)):
        _, segmentation_map = large_scale_jitter(*make_pair(), 1, 1, crop, np.random.default_rng(0))
        assert (segmentation_map != 255).all()


def test_jitter_that_fits_shows_the_whole_image_at_scale_one():
    image, whole = make_pair()
    for crop in ((40, 40), (20, 60), (48, 64)):
        fitted, segmentation_map = large_scale_jitter(
            image, whole, 1, 1, crop, np.random.default_rng(0), scale_reference="fit"
        )
        scale = min(crop[0] / whole.shape[0], crop[1] / whole.shape[1])
        rows, columns = (round(side * scale) for side in whole.shape)
        assert (rows, columns) != crop or scale == crop[0] / whole.shape[0] == crop[1] / whole.shape[1]
        assert np.array_equal(segmentation_map[:rows, :columns], resize_nearest(whole, rows, columns))
        assert (segmentation_map[rows:] == 255).all() and (segmentation_map[:, columns:] == 255).all()
        assert fitted.shape == (*crop, 3) and agreement(fitted, segmentation_map) > 0.9


@pytest.mark.parametrize("function", ["color", "style", "zoom", "jitter"])
def test_the_generator_alone_decides(function):
    image, segmentation_map = make_pair()

    def apply(seed):
        rng = np.random.default_rng(seed)
        if function == "color":
            return color_jitter(image, 0.5, rng)
        if function == "style":
            return style_augment(image, rng, probability=1.0)
        if function == "zoom":
            return random_zoom_crop(image, segmentation_map, (32, 32), 2.0, rng)[0]
        return large_scale_jitter(image, segmentation_map, 0.5, 2, (32, 32), rng)[0]

    state = np.random.get_state()[1].copy()
    before = image.copy()
    assert np.array_equal(apply(1), apply(1))
    assert any(not np.array_equal(apply(1), apply(seed)) for seed in range(2, 6))
    assert np.array_equal(image, before) and np.array_equal(np.random.get_state()[1], state)


def test_color_jitter_without_strength_changes_nothing_and_with_it_stays_in_range():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    rng = np.random.default_rng(0)
    assert np.array_equal(color_jitter(image, 0.0, rng), image)
    changed = [np.abs(color_jitter(image, 0.5, rng).astype(int) - image).mean() for _ in range(200)]
    assert 10 < np.mean(changed) < 60 and min(changed) == 0  # 1 in 16 is left alone


def test_color_jitter_brightens_by_what_detectron2_would():
    image = np.full((8, 8, 3), 100, np.uint8)
    levels = [int(color_jitter(image, 0.5, np.random.default_rng(seed))[0, 0, 0]) for seed in range(500)]
    assert min(levels) >= (100 - 32) * 0.5 - 1 and max(levels) <= (100 + 32) * 1.5 + 1
    assert min(levels) < 60 and max(levels) > 150


@pytest.mark.parametrize("style", STYLES)
def test_each_style_changes_the_image_in_its_direction(style):
    image, _ = make_pair()
    image = (image // 2 + 50).astype(np.uint8)
    means = []
    for seed in range(20):
        painted = style_augment(image, np.random.default_rng(seed), styles=(style,), probability=1.0)
        assert painted.shape == image.shape and painted.dtype == np.uint8
        assert np.abs(painted.astype(int) - image).mean() > 5
        means.append(painted.mean())
    if style == "night":
        assert max(means) < 0.7 * image.mean()
    if style in ("fog", "snow"):
        assert np.mean(means) > 1.15 * image.mean()


def test_styles_leave_the_rest_of_the_images_alone_and_unknown_ones_are_refused():
    image, _ = make_pair()
    rng = np.random.default_rng(0)
    share = np.mean([style_augment(image, rng, probability=0.6) is not image for _ in range(500)])
    assert 0.52 < share < 0.68
    with pytest.raises(ValueError, match="rain"):
        style_augment(image, rng, styles=("rain",))


def test_pairs_of_different_sizes_are_refused():
    image, segmentation_map = make_pair()
    with pytest.raises(ValueError, match="must be equal"):
        cover_crop(image, segmentation_map[1:], (8, 8))
    with pytest.raises(ValueError, match="uint8"):
        flip_pair(image.astype(np.float32), segmentation_map)


def test_small_pairs_are_transformed_in_a_millisecond():
    image, segmentation_map = make_pair(64, 64)
    rng = np.random.default_rng(0)
    for function in (
        lambda: random_zoom_crop(image, segmentation_map, (64, 64), 1.5, rng),
        lambda: large_scale_jitter(image, segmentation_map, 0.5, 2, (64, 64), rng),
        lambda: color_jitter(image, 0.5, rng),
        lambda: style_augment(image, rng, probability=1.0),
    ):
        times = []
        for _ in range(50):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        assert np.median(times) < 0.004  # 0.1 to 0.7 ms on an idle core; slack for busy machines


def test_many_labels_are_padded_with_their_ignore_index():
    image = np.zeros((24, 32, 3), np.uint8)
    record = {"image": encode_image(image), "segmentation_map": encode_map(np.zeros((24, 32), np.int64), 300)}
    image, segmentation_map, _ = DecodedRecords([record], ignore_index=65535)[0]
    _, padded = large_scale_jitter(image, segmentation_map, 0.5, 0.5, (48, 64), np.random.default_rng(0), 65535)
    assert set(np.unique(padded)) == {0, 65535}
