"""What people keep is a data set like any synthetic one, without what they rejected."""

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from seggen_hf import load_synthetic
from seggen_hf.data.schema import labels_of, read_image, read_map, read_panoptic
from seggen_hf.demo.decisions import Decisions
from seggen_hf.demo.drawing import Drawing
from seggen_hf.labels import LabelSet
from seggen_hf.pipelines import ColormapCodec

LABELS = LabelSet.from_id2label({0: "sky", 1: "tree"})


def save(decisions, sample_id, decision, value=0, **changes):
    image = Image.fromarray(np.full((8, 6, 3), value, np.uint8))
    drawing = Drawing(np.array([[0, 1, 255, 1, 0, 0]] * 8), ColormapCodec(LABELS))
    arguments = {"caption": "a tree", "seed": 5, "scores": {"ignored_share": 0.5}, "repainted": False} | changes
    return decisions.save(sample_id, decision, image, drawing, **arguments)


def test_decisions_are_a_column_and_can_be_changed(tmp_path):
    decisions = Decisions(tmp_path / "out", LABELS)
    first, second = decisions.new_id(), decisions.new_id()
    assert first < second
    save(decisions, first, "keep", 10)
    save(decisions, second, "keep", 20, repainted=True)
    assert decisions.counts() == {"keep": 2, "reject": 0}
    save(decisions, second, "reject", 20, repainted=True)
    assert decisions.counts() == {"keep": 1, "reject": 1}
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["decision"][:] == ["keep", "reject"] and rows["repainted"][:] == [False, True]
    assert rows["image_id"][:] == [first, second] and rows["seed"][:] == [5, 5]
    assert rows[0]["scores"]["ignored_share"] == 0.5 and rows[0]["scores"]["decode_confidence"] is None
    assert (read_image(rows[1]["image"]) == 20).all()
    assert read_map(rows[0]["segmentation_map"])[0].tolist() == [0, 1, 255, 1, 0, 0]


def test_training_reads_what_was_kept(tmp_path):
    decisions = Decisions(tmp_path, LABELS)
    for value, decision in enumerate(("reject", "keep", "keep")):
        save(decisions, decisions.new_id(), decision, value)
    kept = load_synthetic(tmp_path)
    assert [int(read_image(row["image"])[0, 0, 0]) for row in kept] == [1, 2]
    assert labels_of(kept).id2label == LABELS.id2label and "decision" not in kept.column_names
    assert len(load_synthetic(tmp_path, kinds=["masksyn"])) == 2
    for value, path in enumerate(sorted((tmp_path / "data").iterdir())):
        save(decisions, f"demo-{path.stem.rsplit('-')[-1]}", "reject", value)
    with pytest.raises(ValueError, match="all 3 were rejected"):
        load_synthetic(tmp_path)


def test_samples_of_other_labels_and_other_words_are_refused(tmp_path):
    decisions = Decisions(tmp_path, LABELS)
    with pytest.raises(ValueError, match="keep or reject, not 'maybe'"):
        save(decisions, decisions.new_id(), "maybe")
    assert not (tmp_path / "data").exists()
    with pytest.raises(ValueError, match="other labels; give another --out"):
        Decisions(tmp_path, LabelSet.from_id2label({0: "sky", 1: "car"}))
    assert Decisions(tmp_path, LABELS).counts() == {"keep": 0, "reject": 0}


def test_segments_are_kept_with_their_maps(tmp_path):
    labels = LabelSet.from_dict({"categories": [{"id": 0, "name": "sky"}, {"id": 1, "name": "tree", "isthing": True}]})
    decisions = Decisions(tmp_path, labels, panoptic=True)
    drawing = Drawing(np.array([[1, 1, 2, 4, 0, 1]] * 8, np.int32), ColormapCodec(labels), {1: 0, 2: 1, 4: 1})
    image = Image.fromarray(np.zeros((8, 6, 3), np.uint8))
    decisions.save(decisions.new_id(), "keep", image, drawing, "two trees", 1, {}, True)
    (row,) = load_synthetic(tmp_path)
    assert np.array_equal(read_panoptic(row["panoptic_map"]), drawing.ids)
    assert row["segments_info"] == drawing.segments and len(row["segments_info"]) == 3
    assert read_map(row["segmentation_map"])[0].tolist() == [0, 0, 1, 1, 255, 0]
    assert Decisions(tmp_path, labels, panoptic=True).counts() == {"keep": 1, "reject": 0}
    with pytest.raises(ValueError, match="samples with segments, not labels alone; give another --out"):
        Decisions(tmp_path, labels)
