"""LabelSet: reading, refusing, remapping, writing."""

import json

import pytest

from seggen_hf import LabelSet
from seggen_hf.labels import LEAST_COLOR_DISTANCE, Category, differing_labels
from seggen_hf.pipelines import ColormapCodec


def entry(id, name, **more):
    return {"id": id, "name": name, **more}


def test_builtin_sets_have_the_benchmarks_labels():
    ade20k, coco = LabelSet.builtin("ade20k"), LabelSet.builtin("coco")
    assert (ade20k.num_labels, len(ade20k.things), len(ade20k.stuff)) == (150, 100, 50)
    assert ade20k.id2label[0] == "wall" and ade20k.id2label[149] == "flag"
    assert (coco.num_labels, len(coco.things), len(coco.stuff)) == (133, 80, 53)
    assert coco.source_ids[0] == 1 and coco.source_ids[-1] == 200 and coco.id2label[132] == "rug-merged"
    assert all(color is not None for color in ade20k.colors + coco.colors)


def test_a_saved_set_reads_back_equal(tmp_path):
    for labels in (LabelSet.builtin("coco"), LabelSet([Category(1, "sky"), Category(0, "car", True)], 7, (9, 9, 9))):
        labels.save(tmp_path)
        assert LabelSet.from_file(tmp_path) == labels
        assert LabelSet.from_file(tmp_path / "id2label.json").id2label == labels.id2label
    assert not list(tmp_path.glob("*.tmp"))


def test_every_form_of_label_file_is_read(tmp_path):
    categories = [entry(0, "sky"), entry(1, "car", isthing=1, color=[1, 2, 3])]
    expected = {0: "sky", 1: "car"}
    for content in (
        categories,
        {"categories": categories},
        {"0": "sky", "1": "car"},
        {"id2label": {"0": "sky", "1": "car"}},
    ):
        path = tmp_path / "classes.json"
        path.write_text(json.dumps(content))
        assert LabelSet.from_file(path).id2label == expected
    assert LabelSet.from_file("ade20k").num_labels == 150


def test_views_agree():
    labels = LabelSet.from_dict([entry(1, "car", isthing=1, color=[1, 2, 3]), entry(0, "sky")])
    assert labels.label2id == {"sky": 0, "car": 1}
    assert (labels.things, labels.stuff, labels.colors) == ([1], [0], [None, (1, 2, 3)])
    assert len(labels) == labels.num_labels == 2


def test_gaps_are_refused_unless_remapped():
    gaps = [entry(7, "sky"), entry(3, "car", isthing=1)]
    with pytest.raises(ValueError, match="remap=True"):
        LabelSet.from_dict(gaps)
    labels = LabelSet.from_dict(gaps, remap=True)
    assert labels.id2label == {0: "car", 1: "sky"} and labels.source_ids == (3, 7) and labels.things == [0]
    assert LabelSet.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


@pytest.mark.parametrize("remap", [False, True])
@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([entry(0, "sky"), entry(0, "car")], "id 0 is given twice, to 'sky' and 'car'"),
        ([entry(0, "sky"), entry(1, "sky")], "name 'sky' is given twice, to ids 0 and 1"),
        ([], "empty"),
        ([{"id": 0}], "lacks an id or a name"),
        ([entry(0, "sky", color=[0, 0, 256])], "three integers"),
    ],
)
def test_broken_sets_are_refused_by_name(categories, message, remap):
    with pytest.raises(ValueError, match=message):
        LabelSet.from_dict(categories, remap=remap)


def test_the_ignored_id_is_no_label_and_fits_the_png():
    assert LabelSet.from_id2label({0: "a", 1: "b"}).ignore_index == 255
    assert LabelSet.from_id2label({i: str(i) for i in range(255)}).ignore_index == 255
    assert LabelSet.from_id2label({i: str(i) for i in range(256)}).ignore_index == 65535
    for wrong in (-1, 1, 256):
        with pytest.raises(ValueError, match="ignore_index"):
            LabelSet.from_id2label({0: "a", 1: "b"}, ignore_index=wrong)


def test_id2label_may_have_an_ignored_id_beside_it():
    assert LabelSet.from_dict({"id2label": {"0": "sky", "1": "car"}, "ignore_index": 254}).ignore_index == 254


@pytest.mark.parametrize("content", ["null", "5", '{"categories": null}', '{"id2label": 3}', "[3]", '[{"id": null}]'])
def test_json_that_holds_no_labels_is_refused_with_its_file(content, tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"classes\.json"):
        LabelSet.from_file(path)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        LabelSet.from_file(tmp_path / "labels.json")
    with pytest.raises(ValueError, match="none of labels.json"):
        LabelSet.from_file(tmp_path)
    (tmp_path / "labels.json").write_text('{"categories": [')
    with pytest.raises(ValueError, match=r"labels\.json"):
        LabelSet.from_file(tmp_path)
    with pytest.raises(ValueError, match="ade20k, coco, cityscapes, voc"):
        LabelSet.builtin("mapillary")
    with pytest.raises(ValueError, match="must map label ids to names"):
        LabelSet.from_dict({"sky": 0})


def test_records_carry_their_labels(scene_records):
    assert LabelSet.from_records(scene_records).num_labels >= 12
    with pytest.raises(ValueError, match="attach_labels"):
        LabelSet.from_records(type(scene_records).from_dict({"a": [1]}))


def test_camvid_is_read(camvid_dir):
    labels = LabelSet.from_file(camvid_dir)
    assert labels.num_labels == 11 and labels.ignore_index == 255 and labels.id2label[0] == "sky"


def test_the_first_labels_that_differ_are_named():
    ours = LabelSet.from_id2label({0: "sky", 1: "road"})
    assert differing_labels({"0": "sky", "1": "road"}, ours) == "" and ours.fits(ours)
    assert differing_labels({0: "sky", 1: "sea", 2: "boat"}, ours, limit=1) == "1: sea / road and 1 more"
    other_void = LabelSet.from_id2label({0: "sky", 1: "road"}, ignore_index=7)
    assert differing_labels(other_void, ours) == "ignore_index: 7 / 255" and not ours.fits(other_void)


def test_a_palette_of_own_colors_travels_with_the_labels(tmp_path):
    labels = LabelSet.builtin("voc").with_own_palette()
    labels.save(tmp_path)
    read = LabelSet.from_file(tmp_path)
    assert read == labels and read.fits(LabelSet.builtin("voc"))
    codec = ColormapCodec(read)
    assert codec.palette.tolist() == [list(color) for color in labels.colors]
    assert codec.least_distance >= LEAST_COLOR_DISTANCE and codec.void_color not in labels.colors
    assert ColormapCodec(read, palette="generated") == ColormapCodec(LabelSet.builtin("voc"))
    assert "palette" not in LabelSet.builtin("voc").to_dict()


def test_own_colors_that_drawn_maps_would_mix_up_are_named_with_their_distance():
    labels = LabelSet([Category(0, "bus", color=(0, 60, 100)), Category(1, "train", color=(0, 75, 100))])
    with pytest.raises(ValueError, match=r"1 pairs of labels .* 16 apart.* 'bus' and 'train' \(15\.0\)\. Give"):
        labels.with_own_palette()
    with pytest.raises(ValueError, match=r"'road, route' and 'skyscraper' \(0\.0\)"):
        LabelSet.builtin("ade20k").with_own_palette()
    with pytest.raises(ValueError, match="1 of the 2 labels have no color of their own, such as 'sky'"):
        LabelSet([Category(0, "bus", color=(0, 60, 100)), Category(1, "sky")]).with_own_palette()
