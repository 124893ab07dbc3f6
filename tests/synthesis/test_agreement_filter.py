"""The filter voids what a segmenter of real records does not see: by hand, by its own scores, and in a run."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from synthesis_settings import SIZE, make_config

from seggen_hf import load_synthetic
from seggen_hf.config import FilterConfig, load_recipe
from seggen_hf.data.schema import labels_of, read_image, read_map, read_panoptic
from seggen_hf.labels import LabelSet
from seggen_hf.pipelines import Mask2ImgPipeline
from seggen_hf.runs.records import load_train_records
from seggen_hf.runs.runner import run_stages
from seggen_hf.segmenter.build import build_segmenter, load_segmenter
from seggen_hf.segmenter.inference import predict_semantic, without_windows
from seggen_hf.segmenter.postprocessing import QueryOutput
from seggen_hf.segments import label_map, measure_segments
from seggen_hf.synthesis import filter_records, synthesize
from seggen_hf.synthesis.alignment import align_rows, class_losses, differs_from_most, pixel_losses

LABELS = LabelSet.from_dict([{"id": i, "name": str(i), "isthing": i > 0} for i in range(3)])


def test_losses_are_the_cross_entropy_of_normalized_scores():
    # Two queries over a row of four pixels: probabilities of the labels 0, 1, 2 and of no object.
    class_logits = torch.tensor([[0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.5, 0.3]]).log()
    masks = torch.tensor([[[0.9, 0.9, 0.5, 0.1]], [[0.1, 0.5, 0.5, 0.8]]])
    output = QueryOutput(class_logits, masks.logit(), (1, 4), (1, 4), (1, 4))
    found = pixel_losses(output, np.array([[0, 255, 1, 2]], np.int32), LABELS, things_only=False)
    first = np.array([0.6 * 0.9 + 0.1 * 0.1, 0.2 * 0.9 + 0.1 * 0.1, 0.1 * 0.9 + 0.5 * 0.1])
    third = np.array([0.6 + 0.1, 0.2 + 0.1, 0.1 + 0.5]) * 0.5
    fourth = np.array([0.6 * 0.1 + 0.1 * 0.8, 0.2 * 0.1 + 0.1 * 0.8, 0.1 * 0.1 + 0.5 * 0.8])
    expected = -np.log([first[0] / first.sum(), third[1] / third.sum(), fourth[2] / fourth.sum()])
    assert np.isnan(found[0, 1]) and found[0, [0, 2, 3]] == pytest.approx(expected, abs=1e-5)
    # Things alone: stuff is what they leave of 1.
    (stuff, _, one, two) = pixel_losses(output, np.array([[0, 255, 1, 2]], np.int32), LABELS, things_only=True)[0]
    assert stuff == pytest.approx(-np.log(1 - first[1] - first[2]), abs=1e-5)
    assert one == pytest.approx(-np.log(third[1]), abs=1e-5) and two == pytest.approx(-np.log(fourth[2]), abs=1e-5)


@pytest.mark.parametrize("task", ["semantic", "panoptic", "instance"])
def test_what_is_kept_is_what_the_limits_allow(scene_records, task):
    labels = labels_of(scene_records)
    model, processor = build_segmenter("unit", labels, short_side=64)
    means = class_losses(model, processor, scene_records, labels, task, batch_size=3)
    shown = np.unique(np.concatenate([read_map(row["segmentation_map"]).ravel() for row in scene_records]))
    assert set(np.flatnonzero(~np.isnan(means))) >= set(shown[shown != labels.ignore_index])
    rows, alignments = [scene_records[i] for i in range(4)], []
    for row, (after, segments, alignment) in zip(
        rows, align_rows(model, processor, rows, means, labels, task, 4), strict=True
    ):
        before = read_map(row["segmentation_map"])
        kept, labelled = after != labels.ignore_index, before != labels.ignore_index
        assert (after[kept] == before[kept]).all()
        alignments.append(alignment)
        assert alignment == pytest.approx(kept.sum() / labelled.sum())
        if task == "semantic":
            scores = predict_semantic(model, processor, [read_image(row["image"])], return_scores=True)[0]
            own = np.take_along_axis(scores, np.minimum(before, labels.num_labels - 1)[None], 0)[0] / scores.sum(0)
            over = -np.log(own) - means[np.minimum(before, labels.num_labels - 1)]
            expected, sure = labelled & (over <= 0), np.abs(over) > 1e-4
            assert (expected == kept)[sure].all() and segments is None
        else:
            panoptic_map, segments_info = segments
            assert segments_info == measure_segments(panoptic_map, segments_info)
            assert np.array_equal(label_map(panoptic_map, segments_info, labels.ignore_index), after)
            areas = {s["id"]: s["area"] for s in row["segments_info"]}
            for segment in segments_info:
                assert segment["category_id"] not in labels.things or 2 * segment["area"] >= areas[segment["id"]]
    assert 0 < min(alignments) and max(alignments) < 1
    for (after, segments, alignment), row in zip(
        align_rows(model, processor, rows, 1e9 * means, labels, task), rows, strict=True
    ):
        assert alignment == 1.0 and np.array_equal(after, read_map(row["segmentation_map"]))
        assert segments is None or np.array_equal(segments[0], read_panoptic(row["panoptic_map"]))


def test_an_image_differs_from_most_only_where_there_is_a_majority():
    seen = np.array([[1, 1, 0, 2], [1, 1, 1, 2], [2, 1, 2, 2], [1, 0, 3, 3]])[:, None]
    differs = differs_from_most(seen)[:, 0]
    assert differs.astype(int).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1]]


@pytest.mark.parametrize("task", ["semantic", "panoptic", "instance"])
def test_of_siblings_the_odd_one_is_void(scene_records, task):
    """Four images of one map, of which one is half inverted; of two images nothing can be said."""
    labels = labels_of(scene_records)
    model, processor = build_segmenter("unit", labels, short_side=64)
    rows = [scene_records[0] | {"source_id": "a"} for _ in range(4)]
    pixels = read_image(rows[2]["image"]).copy()
    pixels[:, 32:] = 255 - pixels[:, 32:]
    rows[2] |= {"image": Image.fromarray(pixels)}
    nothing = np.zeros(labels.num_labels)  # every pixel has a larger loss
    found = align_rows(model, processor, rows, nothing, labels, task, 4, siblings=True)
    assert [alignment == 1 for _, _, alignment in found] == [True, True, False, True]
    for alone in (align_rows(model, processor, rows[:2], nothing, labels, task, 4, siblings=True),
                  align_rows(model, processor, rows, nothing, labels, task, 4)):  # fmt: skip
        assert all(alignment == 0 for _, _, alignment in alone)


@pytest.mark.slow
def test_the_relative_rule_reads_all_images_of_a_map_together(tiny_run, tiny_recipe, generator_dirs, tmp_path):
    records = load_train_records(load_recipe(tiny_recipe))
    config = make_config(imgsyn_variants=4, masksyn_variants=0, shard_size=16)
    source = tmp_path / "four"
    synthesize(records, source, config, mask2img=Mask2ImgPipeline.from_pretrained(generator_dirs[1]), **SIZE)
    judge = load_segmenter(tiny_run / "segmenter-real" / "seed-0", labels_of(records))
    found = {}
    for size in (3, 64):  # whatever is read together
        rule = FilterConfig(rule="relative", tolerance=1e-9, batch_size=size)
        kept = filter_records(source, tmp_path / f"kept-{size}", *judge, records, rule)
        found[size] = {row["image_id"]: row["scores"]["alignment"] for row in kept}
    made = load_synthetic(source)
    seen = np.stack(predict_semantic(judge[0], without_windows(judge[1]), [read_image(i) for i in made["image"]]))
    differs = np.concatenate([differs_from_most(seen[start : start + 4]) for start in range(0, len(made), 4)])
    expected = {}
    for name, segmentation_map, wrong in zip(made["image_id"], made["segmentation_map"], differs, strict=True):
        labelled = np.asarray(segmentation_map) != 255
        if (labelled & ~wrong).any():
            expected[name] = (labelled & ~wrong).sum() / labelled.sum()
    assert found[3] == found[64] == pytest.approx(expected) and len(expected) > 8
    with pytest.raises(ValueError, match="rule"):
        filter_records(source, tmp_path / "kept-3", *judge, records, FilterConfig(tolerance=1e-9))


@pytest.mark.slow
def test_a_synthesis_is_filtered_once_and_goes_on_where_it_was(tiny_run, tiny_recipe, tmp_path):
    source, out = tiny_run / "synthetic", tmp_path / "filtered"
    records = load_train_records(load_recipe(tiny_recipe))
    judge = load_segmenter(tiny_run / "segmenter-real" / "seed-0", labels_of(records))
    whole = load_synthetic(source)
    kept = filter_records(source, out, *judge, records, FilterConfig(tolerance=1.0))
    alignments = [scores["alignment"] for scores in kept["scores"]]
    assert 0 < min(alignments) and max(alignments) < 1 and kept.column_names == whole.column_names
    assert kept["image_id"][:] == [i for i in whole["image_id"][:] if i in set(kept["image_id"])]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["num_kept"] == len(kept) and summary["mean_alignment"] == pytest.approx(np.mean(alignments))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    missing = sorted(stamps)[0]
    content = missing.read_bytes()
    missing.unlink()
    again = filter_records(source, out, *judge, records, FilterConfig(tolerance=1.0, batch_size=3))
    assert again["scores"][:] == kept["scores"][:] and missing.read_bytes() == content
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path != missing)
    with pytest.raises(ValueError, match="tolerance was 1.0 and is now 2.0"):
        filter_records(source, out, *judge, records, FilterConfig(tolerance=2.0))
    least = float(np.median(alignments))
    some = filter_records(source, tmp_path / "b", *judge, records, FilterConfig(tolerance=1.0, min_alignment=least))
    assert len(some) == sum(alignment >= least for alignment in alignments) < len(whole)
    logs = [json.loads(path.read_text()) for path in (tmp_path / "b" / "dropped").glob("*.json")]
    reasons = {sample["image_id"]: sample["reason"] for log in logs for sample in log["dropped"]}
    # Of the random maps some keep no pixel at all at this tolerance, whatever the least alignment.
    assert reasons == {
        image_id: "misaligned" if image_id in kept["image_id"][:] else "no_label"
        for image_id in set(whole["image_id"][:]) - set(some["image_id"][:])
    }
    assert "misaligned" in reasons.values()
    with pytest.raises(ValueError, match="agrees with none"):
        filter_records(source, tmp_path / "c", *judge, records, FilterConfig(tolerance=1e-9))
    with pytest.raises(ValueError, match="no folder of a synthesis"):
        filter_records(tmp_path, tmp_path / "d", *judge, records)


def test_tiles_are_filtered_as_they_are(scene_records):
    """A segmenter of tiles sees synthetic records, which are tiles, without windows."""
    labels = labels_of(scene_records)
    model, processor = build_segmenter("unit", labels, short_side=64, tiles=4)
    plain = class_losses(model, without_windows(processor), scene_records.select([0]), labels)
    same = class_losses(*build_segmenter("unit", labels, short_side=64), scene_records.select([0]), labels)
    assert np.allclose(plain, same, equal_nan=True)


@pytest.mark.slow
def test_an_arm_trains_with_what_the_real_arm_kept(tiny_run, tiny_recipe, tmp_path):
    out = shutil.copytree(tiny_run, tmp_path / "run")
    said = []
    recipe = load_recipe(
        tiny_recipe, ["evaluation.arms=[filtered,real,synthetic]", "filter.tolerance=1.1", "segmenter.hard_records=1"]
    )
    run_stages(recipe, out, say=said.append)
    names = [line.split(":")[0] for line in said if "begins" in line]
    assert names == ["stage 7 of 8, filtered", "stage 8 of 8, segmenter-filtered/seed-0"]
    rows = {row["arm"]: row for row in json.loads((out / "results.json").read_text())["scores"]}
    assert rows["filtered"]["synthetic_records"] == len(load_synthetic(out / "filtered")) <= 16
    assert "filtered" in (out / "report.md").read_text()
    with pytest.raises(ValueError, match="needs the segmenter of arm 'real'"):
        run_stages(load_recipe(tiny_recipe, ["evaluation.arms=[filtered]"]), tmp_path / "other")
