"""Masks of ids, colors and palettes become label ids, by what the label file says."""

import numpy as np
import pytest
from makers import CATEGORIES, assert_blocks, block_map, make_folder, maps_of, paint, palette_image, write_classes
from PIL import Image

from seggen_hf.data.schema import labels_of, read_map
from seggen_hf.data.sources.load import load_records
from seggen_hf.data.sources.map_decoder import read_label_file


def test_ids_with_gaps_and_another_void_are_renumbered(tmp_path):
    root = make_folder(tmp_path / "data", count=2)
    for index in range(2):
        raw = block_map(index, labels=(7, 23, 40), void=0)
        Image.fromarray(raw).save(root / "train/masks" / f"{index:04d}.png")
    categories = [dict(c, id=i) for c, i in zip(CATEGORIES, (7, 23, 40), strict=True)]
    write_classes(root, categories, ignore_index=0)
    records = load_records(root)
    assert_blocks(records, 2)
    assert labels_of(records).source_ids == (7, 23, 40) and labels_of(records).ignore_index == 255


def test_painted_masks_are_read_through_the_colors(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    for index in range(3):
        Image.fromarray(paint(block_map(index))).save(root / "train/masks" / f"{index:04d}.png")
    with pytest.raises(ValueError, match=r"colors that no class has, first \(0, 0, 0\) at x=0, y=23"):
        load_records(root)
    write_classes(root, CATEGORIES, void_color=[0, 0, 0])
    assert_blocks(load_records(root), 3)


def test_palette_masks_are_read_by_index_or_by_color(tmp_path):
    root = make_folder(tmp_path / "data", count=3)
    rainbow = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 9)], -1)  # says nothing: indices are ids
    palette_image(block_map(0), rainbow).save(root / "train/masks/0000.png")
    shuffled = np.zeros((256, 3))  # an optimizer's palette: the colors are the classes, the order is not
    order = [2, 0, 1, 255]
    for place, label in enumerate(order):
        shuffled[place] = (0, 0, 0) if label == 255 else CATEGORIES[label]["color"]
    places = np.zeros(256, int)
    places[order] = range(4)
    palette_image(places[block_map(1)], shuffled).save(root / "train/masks/0001.png")
    write_classes(root, CATEGORIES, ignore_index=255, void_color=[0, 0, 0])
    assert_blocks(load_records(root), 3)


@pytest.mark.parametrize("order", [(0, 1, 255), (1, 255, 0), (255, 1, 0)])
def test_painted_masks_with_a_palette_name_the_color_that_is_not_listed(tmp_path, order):
    root = make_folder(tmp_path / "data", count=1)
    palette, places = np.zeros((256, 3)), np.zeros(256, int)
    for place, label in enumerate(order):
        palette[place] = (9, 9, 9) if label == 255 else CATEGORIES[label]["color"]
        places[label] = place
    palette_image(places[block_map(0, labels=(0, 1, 1))], palette).save(root / "train/masks/0000.png")
    with pytest.raises(ValueError, match=r"colors that no class has, first \(9, 9, 9\)"):
        load_records(root)


def test_palette_masks_of_ids_may_show_void_in_any_color(tmp_path):
    root = make_folder(tmp_path / "data", count=2)
    palette = paint(np.arange(256), void=(224, 224, 192))
    for index in range(2):
        palette_image(block_map(index), palette).save(root / "train/masks" / f"{index:04d}.png")
    assert_blocks(load_records(root), 2)
    write_classes(root, [dict(CATEGORIES[0], color=[0, 0, 0]), *CATEGORIES[1:]], void_color=[224, 224, 192])
    palette[0], palette[255] = 0, 0  # void looks like a class whose id has the same color
    for index in range(2):
        palette_image(block_map(index), palette).save(root / "train/masks" / f"{index:04d}.png")
    assert_blocks(load_records(root), 2)


def test_masks_of_0_and_255_ask_which_label_255_is(tmp_path):
    root = make_folder(tmp_path / "data", count=2, categories=["background", "cell"])
    for index in range(2):
        inside = block_map(index) == 2
        Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(root / "train/masks" / f"{index:04d}.png")
    with pytest.raises(ValueError, match="hold 0 and 255 and never 1.*name id 255 in classes.json") as caught:
        load_records(root)
    (root / "classes.json").write_text(str(caught.value).split("classes.json: ")[1].removesuffix("."))
    records = load_records(root)
    assert labels_of(records).id2label == {0: "background", 1: "cell"}
    for index, segmentation_map in enumerate(maps_of(records)):
        assert np.array_equal(segmentation_map, block_map(index) == 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("null", "it holds null"),
        ("[", "is not JSON"),
        ("7", "it holds 7"),
        ('{"id2label": ["a"]}', None),
        ('{"sky": 0}', "lacks an id or a name"),
        ('{"classes": "sky"}', "'classes'; it must be a whole number"),
        ('[{"id": 0, "label": "sky"}]', "lacks an id or a name"),
        ('[{"id": null, "name": "sky"}]', "id of 'sky' is None"),
        ('[{"id": -1, "name": "plate"}]', "'plate' has the id -1"),
        ('[{"id": 0, "name": "sky", "color": "#ff0000"}]', "color of 'sky' is '#ff0000'"),
        ('[{"id": 0, "name": "sky", "isthing": "false"}]', "isthing of 'sky' is 'false'"),
        ('{"categories": ["sky"], "void_color": [0, 0, 0, 255]}', "void_color is"),
        ('{"categories": ["sky"], "ignore_index": "none"}', "ignore_index is 'none'"),
        ('{"0": {"name": "sky"}, "1": {"name": "road"}, "2": {"name": "car"}}', None),
        ('\ufeff["sky", "road", "car"]', None),
    ],
)
def test_label_files_are_understood_or_refused_by_name(tmp_path, content, told):
    (tmp_path / "classes.json").write_text(content, encoding="utf-8")
    if told is None:
        assert read_label_file(tmp_path / "classes.json").labels.id2label[0] in ("sky", "a")
        return
    with pytest.raises(ValueError, match="classes.json") as caught:
        read_label_file(tmp_path / "classes.json")
    assert told in str(caught.value)


def test_a_negative_void_is_no_pixels(tmp_path):
    decoder = read_label_file({"categories": ["sky", "road"], "ignore_index": -100}).decoder
    with pytest.raises(ValueError, match="label ids 156 are outside"):
        decoder.decode(Image.fromarray(np.array([[0, 1, 156]], np.uint8)))
    assert decoder.decode(Image.fromarray(np.array([[0, 1, 255]], np.uint8))).tolist() == [[0, 1, 255]]


def test_ids_above_255_make_16_bit_maps(tmp_path):
    categories = [{"id": i, "name": f"class {i}"} for i in range(300)]
    root = make_folder(tmp_path / "data", count=2, categories=categories, ignore_index=65535)
    wide = block_map(0).astype(np.uint16)
    wide[0, 0], wide[-1] = 299, 65535
    Image.fromarray(wide).save(root / "train/masks/0000.png")
    Image.fromarray(wide.astype(np.int32)).save(root / "train/masks/0001.tiff")
    (root / "train/masks/0001.png").unlink()
    records = load_records(root)
    assert labels_of(records).ignore_index == 65535
    for record in records:
        assert record["segmentation_map"].mode == "I;16" and record["segmentation_map"].format == "PNG"
        assert np.array_equal(read_map(record["segmentation_map"]), wide)
