"""The whole loop with `task: panoptic` at unit size: real generators, real shards, real trainings, real scores."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from seggen_hf import (
    ColormapCodec,
    LabelSet,
    Mask2ImgPipeline,
    PanopticCodec,
    Text2MaskPipeline,
    evaluate_segmenter,
    load_synthetic,
)
from seggen_hf.config import FilterConfig, load_recipe
from seggen_hf.data.schema import labels_of, read_image, read_map, read_panoptic
from seggen_hf.data.transforms import cover_crop_map
from seggen_hf.demo.decisions import Decisions
from seggen_hf.demo.models import load_models, models_of_run
from seggen_hf.demo.page import Steps
from seggen_hf.hub.staging import stage_shards
from seggen_hf.pictures.segments import paint_segments
from seggen_hf.runs.makers import filter_run
from seggen_hf.runs.records import load_test_records, load_train_records
from seggen_hf.runs.runner import run_stages
from seggen_hf.runs.scores import score_folder
from seggen_hf.runs.stages import list_stages
from seggen_hf.segmenter.build import build_segmenter
from seggen_hf.segments import label_map, measure_segments

pytestmark = pytest.mark.slow  # each of them needs a run of its own


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_recipe):
    settings = [
        "data.task=panoptic", "data.num_shades=3", "data.test_splits=[test]", "evaluation.object_threshold=0.0",
        "evaluation.overlap_threshold=0.0", "synthesis.imgsyn_variants=1", "synthesis.masksyn_variants=1",
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "panoptic"
    recipe = load_recipe(tiny_recipe, settings)
    run_stages(recipe, folder)
    return recipe, folder


def test_both_generators_carry_the_codec_of_segments(run):
    recipe, folder = run
    labels = load_train_records(recipe).info
    assert labels.description
    codecs = []
    for name, cls in (("text2mask", Text2MaskPipeline), ("mask2img", Mask2ImgPipeline)):
        pipeline = cls.from_pretrained(folder / name, use_safetensors=True)
        codecs.append(pipeline.panoptic_codec)
        assert pipeline.codec == codecs[-1].plain and pipeline.color_codec == codecs[-1].colors
    assert codecs[0] == codecs[1] and (codecs[0].coding, codecs[0].num_shades) == ("shades", 3)
    assert isinstance(codecs[0], PanopticCodec) and codecs[0].things == list(range(7, 15))


def test_synthetic_records_have_segments_that_agree_with_their_labels(run):
    recipe, folder = run
    real = {row["image_id"]: row for row in load_train_records(recipe)}
    rows = load_synthetic(folder / "synthetic")
    kinds = rows["kind"][:]
    assert kinds.count("imgsyn") == 8 and kinds.count("masksyn") >= 4
    for row in rows:
        panoptic_map, segments = read_panoptic(row["panoptic_map"]), row["segments_info"]
        assert segments == measure_segments(panoptic_map, segments)
        segmentation_map = read_map(row["segmentation_map"])
        assert np.array_equal(label_map(panoptic_map, segments, 255), segmentation_map)
        assert set(np.unique(panoptic_map)) - {0} == {segment["id"] for segment in segments}
        if row["kind"] == "imgsyn":
            source = real[row["source_id"]]
            place = np.random.default_rng(row["seed"]).random(2)
            human = cover_crop_map(read_panoptic(source["panoptic_map"]), (64, 64), place)
            assert np.array_equal(panoptic_map, human)
    files = sorted(str(path) for path in (folder / "synthetic" / "data").glob("*.parquet"))
    plain = load_dataset("parquet", data_files=files, split="train")
    assert plain[0]["panoptic_map"].mode == "RGB" and plain[0]["segments_info"][0]["category_id"] >= 0


def test_shards_are_published_with_their_segments(run, tmp_path):
    _, folder = run
    stage_shards(folder / "synthetic", tmp_path / "shards")
    rows = load_dataset("parquet", data_files=str(tmp_path / "shards" / "*.parquet"), split="train")
    codec = ColormapCodec(LabelSet.from_file(folder / "synthetic"))
    assert len(rows) == len(load_synthetic(folder / "synthetic"))
    for row in rows.select(range(3)):
        painted = paint_segments(read_panoptic(row["panoptic_map"]), row["segments_info"], codec)
        assert np.array_equal(np.asarray(row["color_map"]), painted)


def test_scores_are_those_of_the_task_and_the_report_shows_them(run):
    _, folder = run
    results = json.loads((folder / "results.json").read_text())
    for row in results["scores"]:
        assert row["task"] == "panoptic" and 0 <= row["PQ"] <= 1 and 0 <= row["mIoU"] <= 1 and "AP50" in row
        assert "0 that keep 0 of their mask" in row["protocol"]
    assert "PQ" in results["verdict"] and "mIoU" not in results["verdict"]
    assert "PQ" in (folder / "report.md").read_text()


def test_a_change_of_the_coding_is_another_generator(run, tiny_recipe):
    recipe, folder = run
    other = load_recipe(tiny_recipe, ["data.task=panoptic", "data.panoptic_coding=edges", "data.test_splits=[test]"])
    names = {stage.name: stage.fingerprint for stage in list_stages(other, folder)}
    for stage in list_stages(recipe, folder):
        assert (stage.fingerprint == names[stage.name]) == (stage.name in ("captions", "segmenter-real/seed-0"))


def test_kept_pictures_are_painted_segments(run):
    recipe, folder = run
    records = load_test_records(recipe, "test")
    codec = ColormapCodec(labels_of(records))
    shown = json.loads((folder / "predictions" / "test" / "records.json").read_text())
    assert shown == records["image_id"][:]
    for place, record in enumerate(records):
        truth = read_image(folder / "predictions" / "test" / f"{place}-segments.png")
        expected = paint_segments(read_panoptic(record["panoptic_map"]), record["segments_info"], codec)
        assert np.array_equal(truth, expected)
        predicted = folder / "segmenter-real" / "seed-0" / "predictions" / "test" / f"{place}.png"
        assert read_image(predicted).shape == truth.shape


def test_a_segmenter_can_be_scored_by_its_instances(run):
    recipe, folder = run
    records = load_test_records(recipe, "test")
    scores = score_folder(folder / "segmenter-real" / "seed-0", records, recipe.evaluation, "instance")
    things = [labels_of(records).id2label[i] for i in labels_of(records).things]
    assert list(scores["per_label"]) == things and {"AP", "AP50", "AP_small", "boundary_AP"} <= scores.keys()
    with pytest.raises(ValueError, match="no label is one"):
        evaluate_segmenter(
            *build_segmenter("unit", LabelSet.from_id2label(labels_of(records).id2label)),
            records,
            task="instance",
            labels=LabelSet.from_id2label(labels_of(records).id2label),
        )


def test_the_demo_draws_repaints_answers_and_keeps_segments(run, tmp_path):
    """What the page's buttons do, without a browser: tests/demo has one."""
    _, folder = run
    config, segmenter, caption = models_of_run(folder)
    models = load_models(config, segmenter)
    assert models.is_panoptic
    decisions = Decisions(tmp_path / "kept", models.labels, models.is_panoptic)
    steps = Steps(models, decisions)
    sample, *_ = steps.draw(caption, 1, False, 2)
    before = sample.drawing
    assert before.categories is not None and before.ids.shape == (64, 64)
    click = SimpleNamespace(index=[100, 100])
    sample, shown, legend, *_ = steps.repaint(sample, "car", "disc", 6, click)
    assert (sample.drawing.ids != before.ids).any() and "× car" in legend
    assert np.array_equal(shown[::7, ::7], sample.drawing.paint())
    new = max(sample.drawing.categories)
    sample, image, answer, told, _ = steps.paint(sample, 1)
    assert image.shape == answer.shape == (448, 448, 3) and "instances" in told
    assert "1 kept" in steps.decide("keep")(sample)
    (row,) = load_synthetic(tmp_path / "kept")
    assert row["caption"] == caption and row["segments_info"] == sample.drawing.segments
    assert (read_panoptic(row["panoptic_map"]) == new).sum() == 113  # a disc of radius 6
    sample, *_ = steps.undo(sample)
    assert sample.drawing is before


def test_the_readmes_snippet_runs(run, monkeypatch, tmp_path):
    _, folder = run
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "nuclei").symlink_to(folder)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"\n## Panoptic and instance segmentation\n.*?(?=\n## )", readme, flags=re.DOTALL)
    (snippet,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet, names)
    assert names["images"][0].size == (64, 64) and names["panoptic_map"].shape == (64, 64)


def test_the_cards_snippet_runs(run, monkeypatch, tmp_path):
    _, folder = run
    folder = folder / "segmenter-synthetic" / "seed-0"
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    (snippet,) = [text for text in snippets if "predict_panoptic" in text]
    assert "labels.things, 1, 0.0, 0.0)" in snippet  # the thresholds that it was scored with
    Image.new("RGB", (70, 50)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet.replace("PATH_OR_ID", str(folder)), names)
    assert names["panoptic_map"].shape == (50, 70) and isinstance(names["segments"], list)


def test_a_segmenter_of_tiles_is_scored_on_whole_images(tiny_recipe, tmp_path):
    settings = ["data.task=panoptic", "data.tiles=2", "data.test_splits=[test]", "evaluation.arms=[real]"]
    recipe = load_recipe(tiny_recipe, [*settings, "evaluation.max_detections=20"])
    run_stages(recipe, tmp_path / "run")
    folder = tmp_path / "run" / "segmenter-real" / "seed-0"
    assert json.loads((folder / "preprocessor_config.json").read_text())["tiles"] == 2
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())["scores"]
    records = load_test_records(recipe, "test")
    assert row["num_images"] == len(records) and "overlapping windows, 2 along" in row["protocol"]
    assert "up to 20 instances" in row["protocol"]
    assert read_image(folder / "predictions" / "test" / "0.png").shape == read_image(records[0]["image"]).shape


def test_segments_are_filtered_with_their_maps(run, tmp_path):
    recipe, folder = run
    recipe = dataclasses.replace(recipe, filter=FilterConfig(tolerance=1.0))
    kept, whole = filter_run(recipe, folder, tmp_path / "filtered"), load_synthetic(folder / "synthetic")
    before = {row["image_id"]: row for row in whole}
    assert kept.column_names == whole.column_names and 0 < np.mean([s["alignment"] for s in kept["scores"]]) < 1
    for row in kept:
        panoptic_map, segments = read_panoptic(row["panoptic_map"]), row["segments_info"]
        assert segments == measure_segments(panoptic_map, segments)
        assert np.array_equal(label_map(panoptic_map, segments, 255), read_map(row["segmentation_map"]))
        ids = np.unique(read_panoptic(before[row["image_id"]]["panoptic_map"]))
        assert set(np.unique(panoptic_map)) <= {0, *ids}
