import numpy as np
import pytest

from seggen_hf.data.scenes.records import draw_scene, scene_labels
from seggen_hf.pictures.segments import NUM_SHADES, _shade, paint_record, paint_segments
from seggen_hf.pipelines import ColormapCodec

LABELS = {
    "categories": [
        {"id": 0, "name": "sky", "isthing": 0, "color": [0, 0, 200]},
        {"id": 1, "name": "cow", "isthing": 1, "color": [200, 220, 0]},
        {"id": 2, "name": "car", "isthing": 1, "color": [90, 0, 0]},
    ]
}


@pytest.fixture
def codec():
    return ColormapCodec(LABELS, palette="dataset")


@pytest.fixture
def panoptic():
    """Sky above two cows that touch, a car apart from them, and void below."""
    panoptic_map = np.zeros((12, 16), np.int32)
    panoptic_map[:4] = 1
    panoptic_map[4:8, :5], panoptic_map[4:8, 5:10], panoptic_map[4:8, 12:] = 7, 300, 4
    segments = [(1, 0), (7, 1), (300, 1), (4, 2)]
    return panoptic_map, [{"id": i, "category_id": category} for i, category in segments]


def test_neighbours_of_one_class_differ_and_classes_keep_their_colors(codec, panoptic):
    rgb = paint_segments(*panoptic, codec)
    assert rgb.shape == (12, 16, 3) and rgb.dtype == np.uint8
    first, second = rgb[6, 1], rgb[6, 7]
    assert (first == codec.palette[1]).all() or (second == codec.palette[1]).all()
    assert np.abs(first.astype(int) - second).max() > 30
    assert (rgb[1, 3] == codec.palette[0]).all() and (rgb[6, 14] == codec.palette[2]).all()


def test_outlines_are_dark_one_pixel_wide_and_lie_between_segments(codec, panoptic):
    rgb = paint_segments(*panoptic, codec)
    assert rgb[3, :10].max() < 0.4 * rgb[1, 0].max() and (rgb[2, :] == codec.palette[0]).all()
    dark = [x for x in range(10) if rgb[6, x].max() < 100]
    assert dark == [4]
    assert (rgb[3, 10:12] == codec.palette[0]).all()  # sky above void has no outline


def test_void_has_its_own_color(codec, panoptic):
    panoptic_map, segments = panoptic
    assert (paint_segments(*panoptic, codec)[panoptic_map == 0] == codec.void_color).all()
    rgb = paint_segments(panoptic_map, segments[1:], codec)  # an id that nothing describes
    assert (rgb[panoptic_map == 1] == codec.void_color).all()
    assert (paint_segments(np.zeros((4, 4), int), [], codec) == codec.void_color).all()


def test_stuff_can_be_left_out(codec, panoptic):
    rgb = paint_segments(*panoptic, codec, things_only=True)
    assert (rgb[panoptic[0] == 1] == codec.void_color).all() and (rgb[6, 14] == codec.palette[2]).all()


def test_a_category_that_is_no_label_is_named(codec, panoptic):
    with pytest.raises(ValueError, match="Segment 9 has category 3"):
        paint_segments(panoptic[0], [{"id": 9, "category_id": 3}], codec)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (127, 127, 127), (0, 255, 255)])
def test_all_shades_of_a_color_can_be_told_apart(color):
    shades = [_shade(np.array(color), number).astype(int) for number in range(NUM_SHADES)]
    assert shades[0].tolist() == list(color)
    assert min(np.abs(a - b).max() for i, a in enumerate(shades) for b in shades[:i]) > 25


def test_a_record_without_segments_is_painted_by_its_labels():
    scene, codec = draw_scene(0, 1), ColormapCodec(scene_labels())
    record = {"segmentation_map": scene.segmentation_map, "panoptic_map": None}
    assert (paint_record(record, codec) == codec.encode(scene.segmentation_map)).all()
