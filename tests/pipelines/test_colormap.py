"""The codec: properties on random maps, against brute force, and what is refused."""

import json
import pickle
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seggen_hf import ColormapCodec, LabelSet
from seggen_hf.pipelines import encode_condition, resize_nearest

CODECS = {}


def codec_of(num_labels):
    """A codec with generated colors; kept, because its table takes a moment."""
    if num_labels not in CODECS:
        CODECS[num_labels] = ColormapCodec({i: f"label {i}" for i in range(num_labels)})
    return CODECS[num_labels]


def all_colors(codec):
    return np.array([*codec.palette.tolist(), codec.void_color, codec.edge_color])


def random_map(codec, rng, shape):
    ids = rng.integers(0, codec.num_labels + 1, shape)
    return np.where(ids == codec.num_labels, codec.ignore_index, ids)


def brute_force(codec, rgb):
    squares = ((rgb.reshape(-1, 1, 3).astype(np.int64) - all_colors(codec)) ** 2).sum(-1)
    ids = squares.argmin(1)
    ids[ids >= codec.num_labels] = codec.ignore_index
    return ids.reshape(rgb.shape[:-1]), np.sqrt(squares.min(1)).astype(np.float32).reshape(rgb.shape[:-1])


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.sampled_from([1, 2, 11, 21, 150]), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_decode_inverts_encode(num_labels, height, width, seed):
    codec = codec_of(num_labels)
    segmentation_map = random_map(codec, np.random.default_rng(seed), (height, width))
    decoded = codec.decode(codec.encode(segmentation_map))
    assert np.array_equal(decoded.segmentation_map, segmentation_map)
    assert decoded.distance.max() == 0 and decoded.distance.dtype == np.float32


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.sampled_from([2, 11, 21, 150]), st.integers(0, 2**32 - 1))
def test_noise_below_half_the_least_distance_decodes_exactly(num_labels, seed):
    codec, rng = codec_of(num_labels), np.random.default_rng(seed)
    segmentation_map = random_map(codec, rng, (12, 12))
    noise = rng.normal(size=(12, 12, 3))
    noise *= (codec.least_distance / 2 - 1) / np.linalg.norm(
        noise, axis=-1, keepdims=True
    )  # 1: rounding, at most 0.87
    rgb = np.clip(np.rint(codec.encode(segmentation_map) + noise), 0, 255).astype(np.uint8)
    assert np.array_equal(codec.decode(rgb).segmentation_map, segmentation_map)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.sampled_from([2, 11, 21, 150]), st.integers(0, 2**32 - 1))
def test_decode_equals_brute_force(num_labels, seed):
    codec = codec_of(num_labels)
    rgb = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    decoded = codec.decode(rgb)
    ids, distance = brute_force(codec, rgb)
    assert np.array_equal(decoded.segmentation_map, ids)
    assert np.allclose(decoded.distance, distance, rtol=1e-6)


@pytest.mark.slow
def test_given_palettes_decode_like_brute_force_too():
    """Clustered, unequal colors stress the bound that keeps the table exact."""
    rng = np.random.default_rng(0)
    palette = np.unique(np.concatenate([rng.integers(0, 30, (40, 3)), [[255, 255, 255]]]), axis=0)
    codec = ColormapCodec({i: str(i) for i in range(len(palette))}, palette=palette, edge_color=(200, 0, 0))
    rgb = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    assert np.array_equal(codec.decode(rgb).segmentation_map, brute_force(codec, rgb)[0])


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_flips_commute(seed):
    codec = codec_of(11)
    rgb = np.random.default_rng(seed).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    for axis in (0, 1):
        flipped = codec.decode(np.flip(rgb, axis), 60.0)
        assert np.array_equal(flipped.segmentation_map, np.flip(codec.decode(rgb, 60.0).segmentation_map, axis))
    segmentation_map = random_map(codec, np.random.default_rng(seed), (9, 14))
    assert np.array_equal(codec.encode(segmentation_map[:, ::-1]), codec.encode(segmentation_map)[:, ::-1])


def test_numpy_torch_pil_floats_and_batches_agree():
    codec = codec_of(21)
    maps = random_map(codec, np.random.default_rng(0), (3, 8, 10))
    rgb = codec.encode(maps)
    assert rgb.shape == (3, 8, 10, 3) and rgb.dtype == np.uint8
    tensor = codec.encode(torch.from_numpy(maps))
    assert tensor.shape == (3, 3, 8, 10) and tensor.dtype == torch.uint8
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), rgb)
    images = [Image.fromarray(one) for one in rgb]
    for given_maps in (rgb, rgb / 255, (rgb / 255).astype(np.float32), images):
        assert np.array_equal(codec.decode(given_maps).segmentation_map, maps)
    for given_maps in (tensor, tensor.float() / 255, tensor.half() / 255, list(tensor)):
        decoded = codec.decode(given_maps)
        assert isinstance(decoded.distance, torch.Tensor) and decoded.segmentation_map.dtype == torch.int64
        assert np.array_equal(decoded.segmentation_map.numpy(), maps)
    assert np.array_equal(codec.decode(images[0]).segmentation_map, maps[0])
    assert np.array_equal(codec.encode(Image.fromarray(maps[0].astype(np.uint8))), rgb[0])


@pytest.mark.slow
def test_more_than_255_labels_work():
    codec = codec_of(300)
    segmentation_map = random_map(codec, np.random.default_rng(0), (50, 50))
    assert codec.ignore_index == 65535
    assert np.array_equal(codec.decode(codec.encode(segmentation_map)).segmentation_map, segmentation_map)


def test_pixels_far_from_every_color_are_ignored():
    codec = codec_of(11)
    rgb = np.array([[codec.palette[3], codec.palette[3] ^ 7]])
    distance = float(np.linalg.norm(rgb[0, 1].astype(float) - codec.palette[3]))
    assert codec.decode(rgb).segmentation_map.tolist() == [[3, 3]]
    assert codec.decode(rgb, max_distance=distance + 0.01).segmentation_map.tolist() == [[3, 3]]
    assert codec.decode(rgb, max_distance=distance - 0.01).segmentation_map.tolist() == [[3, codec.ignore_index]]
    assert codec.decode(rgb).distance[0, 1] == pytest.approx(distance)


def test_unreadable_pixels_take_the_nearest_label_within_reach():
    """What was drawn void stays ignored; so does what is further away."""
    codec = codec_of(11)
    segmentation_map = np.zeros((12, 20), dtype=np.int64)
    segmentation_map[:, 12:] = 4
    segmentation_map[:3, :3] = codec.ignore_index
    rgb = codec.encode(np.stack([segmentation_map, segmentation_map]))
    border = ((np.array(codec.palette[0], dtype=int) + codec.palette[4]) // 2).astype(np.uint8)
    rgb[0, :, 8:16] = border  # soft, 4 pixels to each side
    near = min(np.linalg.norm(np.array(color, dtype=float) - border) for color in [*codec.palette, codec.void_color])
    filled = codec.decode(rgb, max_distance=near - 1, fill_distance=3)
    expected = segmentation_map.copy()
    expected[:, 11:13] = codec.ignore_index
    assert np.array_equal(filled.segmentation_map[0], expected)
    assert np.array_equal(filled.segmentation_map[1], segmentation_map)
    whole = codec.decode(torch.from_numpy(rgb).movedim(-1, 1), max_distance=near - 1, fill_distance=4)
    assert np.array_equal(whole.segmentation_map[0].numpy(), segmentation_map)
    unfilled = codec.decode(rgb, max_distance=near - 1).segmentation_map[0]
    assert (unfilled[:, 8:16] == codec.ignore_index).all()
    assert (filled.distance[0, :, 8:16] > near - 1).all()  # how clean the colors were is told as it was


def test_void_and_edge_colors_decode_to_the_ignored_id():
    codec = codec_of(11)
    rgb = np.array([[codec.void_color, codec.edge_color]], dtype=np.uint8)
    assert (codec.decode(rgb).segmentation_map == codec.ignore_index).all()


def test_small_regions_join_their_surroundings():
    codec = codec_of(11)
    segmentation_map = np.zeros((20, 30), dtype=np.int64)
    segmentation_map[:, 15:] = 4
    clean = segmentation_map.copy()
    segmentation_map[3, 3] = 7  # 1 pixel
    segmentation_map[10:12, 20:23] = codec.ignore_index  # 6 pixels
    segmentation_map[5:7, 8] = 2
    segmentation_map[7:9, 9] = 2  # touches the one above at a corner only: two regions of 2 pixels
    segmentation_map[15:18, 2:5] = 9  # 9 pixels: stays
    clean[15:18, 2:5] = 9
    batch = codec.encode(np.stack([segmentation_map, clean]))
    joined = codec.decode(batch, min_region_area=7).segmentation_map
    assert np.array_equal(joined[0], clean) and np.array_equal(joined[1], clean)
    assert np.array_equal(codec.decode(batch, min_region_area=1).segmentation_map[0], segmentation_map)


def test_a_map_of_small_regions_only_stays_as_it_is():
    codec = codec_of(11)
    segmentation_map = np.arange(9).reshape(3, 3)
    assert np.array_equal(codec.decode(codec.encode(segmentation_map), None, 5).segmentation_map, segmentation_map)


def test_a_codec_survives_json_and_pickle():
    for codec in (codec_of(21), ColormapCodec(LabelSet.builtin("coco"), palette="dataset", void_color=(1, 1, 1))):
        again = ColormapCodec.from_dict(json.loads(json.dumps(codec.to_dict())))
        assert again == codec and again.id2label == codec.id2label and again.things == codec.things
        assert list(again.id2label) == list(range(codec.num_labels))
        codec.decode(np.zeros((1, 1, 3), dtype=np.uint8))
        pickled = pickle.dumps(codec)
        assert len(pickled) < 100_000 and pickle.loads(pickled) == codec
    labels = LabelSet.from_dict(codec.to_dict())
    assert labels.id2label == codec.id2label and labels.things == codec.things


def test_own_colors_are_taken_unless_two_collide():
    coco = LabelSet.builtin("coco")
    assert ColormapCodec(coco, palette="dataset").palette.tolist() == [list(color) for color in coco.colors]
    ade20k = LabelSet.builtin("ade20k")
    seen = {}
    pair = next(
        (seen[c.color], c.name) for c in ade20k.categories if c.color in seen or seen.update({c.color: c.name})
    )
    with pytest.raises(ValueError, match=f"{pair[0]!r} and {pair[1]!r} have the same color"):
        ColormapCodec(ade20k, palette="dataset")
    with pytest.raises(ValueError, match="'a' has no color"):
        ColormapCodec({0: "a"}, palette="dataset")
    with pytest.raises(ValueError, match=r"'b' and '\(ignored pixels\)'"):
        ColormapCodec({0: "a", 1: "b"}, palette=[[0, 0, 0], [9, 9, 9]], void_color=(9, 9, 9))


def test_a_given_palette_gets_a_distant_void_color():
    codec = ColormapCodec({0: "a", 1: "b"}, palette=[[0, 0, 0], [255, 255, 255]])
    assert codec.edge_color is None and codec.least_distance > 200


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full((2, 2), 11), r"ids \[11\]"),
        (np.full((2, 2), -1), r"ids \[-1\]"),
        (np.full((2, 2), 70000), r"ids \[70000\]"),
        (np.zeros((2, 2)), "float64"),
        (np.zeros((1, 2, 2, 3), dtype=int), "cannot be encoded"),
    ],
)
def test_maps_that_cannot_be_encoded_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        codec_of(11).encode(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.full((4, 4, 3), 1.2),
        np.full((4, 4, 3), np.nan),
        np.zeros((4, 4, 3), dtype=np.int32),
        torch.zeros(4, 4, 3),
        torch.full((3, 4, 4), -0.5),
        [np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((4, 5, 3), dtype=np.uint8)],
    ],
    ids=str,
)
def test_color_maps_that_cannot_be_decoded_are_refused(wrong):
    with pytest.raises(ValueError, match=r"color map|Float"):
        codec_of(11).decode(wrong)


def test_label_ids_with_gaps_are_refused():
    with pytest.raises(ValueError, match="without gaps"):
        ColormapCodec({0: "a", 2: "b"})


# The condition of Mask2Img


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
def test_resized_maps_take_the_nearest_pixel(height, width, new_height, new_width):
    rows, columns = np.indices((height, width))
    for index, old, new in ((rows, height, new_height), (columns, width, new_width)):
        resized = resize_nearest(index, new_height, new_width)
        assert resized.shape == (new_height, new_width)
        taken = resized[:, 0] if index is rows else resized[0]
        wanted = (np.arange(new) + 0.5) * old / new - 0.5  # in source pixels
        assert (np.abs(taken - wanted) <= 0.5 + 1e-9).all()


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (24, 36), (5, 7)])
def test_nearest_resize_is_that_of_pillow(size):
    segmentation_map = np.arange(8 * 12, dtype=np.int32).reshape(8, 12)
    expected = Image.fromarray(segmentation_map).resize(size[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(resize_nearest(segmentation_map, *size), np.asarray(expected))


def test_the_condition_is_the_color_map_in_unit_range():
    codec = codec_of(11)
    maps = random_map(codec, np.random.default_rng(0), (2, 16, 24))
    expected = codec.encode(torch.from_numpy(maps)).float() / 255
    for given_maps in (maps, torch.from_numpy(maps), list(maps), [Image.fromarray(m.astype(np.uint8)) for m in maps]):
        assert torch.equal(encode_condition(codec, given_maps, 16, 24), expected)
    assert encode_condition(codec, maps[0], 8, 12).shape == (1, 3, 8, 12)
    assert encode_condition(codec, [maps[0], maps[1][:5, :7]], 8, 8).shape == (2, 3, 8, 8)


# Speed and memory


@pytest.mark.slow
def test_decode_is_fast_and_small():
    """At least 20 times faster than brute force, and under 50 MB, at 768 x 768 and 150 labels."""
    codec = ColormapCodec.from_dict(codec_of(150).to_dict())  # without a table
    rgb = np.random.default_rng(0).integers(0, 256, (768, 768, 3), dtype=np.uint8)
    tracemalloc.start()
    decoded = codec.decode(rgb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6

    def seconds(function, times):
        spent = []
        for _ in range(times):
            start = time.process_time()
            function()
            spent.append(time.process_time() - start)
        return min(spent)

    pixels = torch.from_numpy(rgb.reshape(-1, 3)[: 768 * 64]).float()
    colors = torch.from_numpy(all_colors(codec)).float()
    brute = 12 * seconds(
        lambda: torch.cdist(pixels, colors).min(1), 2
    )  # a twelfth of the pixels, torch's own distances
    assert brute > 20 * seconds(lambda: codec.decode(rgb), 20)  # the least of many: others use the machine too
    part = rgb[:64]
    assert np.array_equal(decoded.segmentation_map[:64], brute_force(codec, part)[0])
