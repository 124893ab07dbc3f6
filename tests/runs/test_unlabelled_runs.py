"""Runs that learn from images without masks: self-training, and generators on an adapted base."""

import json
import shutil

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file

from seggen_hf.config import load_recipe
from seggen_hf.data.schema import labels_of, load_saved, read_map
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.preflight import check_run
from seggen_hf.runs.records import load_unlabelled_images
from seggen_hf.runs.runner import check_stages, run_stages
from seggen_hf.runs.stage_marker import SettingsChanged
from seggen_hf.runs.stages import list_stages
from seggen_hf.synthesis.shards import load_synthetic


@pytest.mark.slow
def test_a_run_learns_from_images_without_masks(run_copy, tiny_recipe):
    """The real arm labels them; what is done stays, and other images are noticed."""
    settings = ["evaluation.arms=[real, self-training]", "data.unlabelled=unlabelled", "data.max_unlabelled=6"]
    recipe = load_recipe(tiny_recipe, [*settings, "filter.pseudo_confidence=0.05"])
    said = []
    run_stages(recipe, run_copy, say=said.append)
    assert "segmenter-real/seed-0: kept, it is finished" in said
    pseudo, images = load_from_disk(run_copy / "pseudo"), load_from_disk(run_copy / "unlabelled")
    assert len(images) == 6 and set(pseudo["image_id"][:]) <= set(images["image_id"][:])
    assert RunFolder(run_copy).finished("segmenter-self-training/seed-0")["facts"]["synthetic_records"] == len(pseudo)
    scores = json.loads((run_copy / "results.json").read_text())["scores"]
    assert {row["arm"] for row in scores} == {"real", "self-training"}
    assert "the maps that the real arm sees" in (run_copy / "report.md").read_text()
    with pytest.raises(SettingsChanged, match="max_unlabelled: 6 -> 5"):
        run_stages(load_recipe(tiny_recipe, [*settings, "data.max_unlabelled=5"]), run_copy)


@pytest.mark.slow
def test_images_are_drawn_for_the_maps_that_are_seen_in_unlabelled_ones(run_copy, tiny_recipe):
    """By Mask2Img as it is, without Text2Mask and without the samples of real records; both arms share the maps."""
    settings = ["data.unlabelled=unlabelled", "data.max_unlabelled=6", "adapt.enabled=false"]
    settings += ["filter.pseudo_confidence=0.05", "filter.pseudo_map_variants=2"]
    recipe = load_recipe(tiny_recipe, [*settings, "evaluation.arms=[real, self-training, pseudo-maps]"])
    names = [stage.name for stage in list_stages(recipe, run_copy)]
    assert "text2mask" not in names and "synthetic" not in names and names.count("pseudo") == 1
    assert names.index("pseudo") < names.index("repainted") < names.index("segmenter-pseudo-maps/seed-0")
    said = []
    run_stages(recipe, run_copy, say=said.append)
    assert "mask2img: kept, it is finished" in said
    run = RunFolder(run_copy)
    made, seen = load_synthetic(run.repainted), load_saved(run.pseudo)
    assert set(made["source_id"][:]) <= set(seen["image_id"][:]) and set(made["kind"][:]) == {"imgsyn"}
    assert len(made) == run.finished("repainted")["facts"]["imgsyn"] == 2 * len(seen)
    first = {row["image_id"]: read_map(row["segmentation_map"]) for row in seen}[made[0]["source_id"]]
    assert (read_map(made[0]["segmentation_map"]) == first).all()
    trained = run.finished("segmenter-pseudo-maps/seed-0")["facts"]
    assert trained["synthetic_records"] == len(made)
    assert "Mask2Img paints for the maps" in run.report_text.read_text()


@pytest.mark.slow
def test_generators_start_from_a_base_that_has_seen_the_unlabelled_images(tiny_recipe, miniature_dir, tmp_path):
    """With the labelled ones; without a base of its own, `adapt` takes that of the generators."""
    run = tmp_path / "run"
    adapt = ["adapt.max_train_steps=2", "adapt.train_batch_size=2", "adapt.num_validation_images=1"]
    settings = ["data.unlabelled=unlabelled", "data.max_unlabelled=6", *adapt, "adapt.validation_inference_steps=1"]
    kinds = ["text2mask", "mask2img"]  # captions and the adapted base come before them by themselves
    with pytest.raises(ValueError, match="start from what `adapt` makes of its base.*adapt.base_model mini"):
        run_stages(load_recipe(tiny_recipe, [*settings, "adapt.base_model=miniature"]), run, kinds)
    recipe = load_recipe(tiny_recipe, settings)
    assert recipe.adapt.base_model == str(miniature_dir)
    run_stages(recipe, run, kinds)
    assert RunFolder(run).finished("adapted")["facts"]["records"] == 8 + 6
    for name in ("text2mask", "mask2img"):
        assert json.loads((run / name / "run_config.json").read_text())["base_model"] == str(run / "adapted")
    frozen = [load_file(next((run / name / "unet").glob("*.safetensors"))) for name in ("adapted", "mask2img")]
    assert all(torch.equal(frozen[0][name], frozen[1][name]) for name in frozen[0])
    stages = list_stages(load_recipe(tiny_recipe, [*settings, "adapt.learning_rate=1e-3"]), run)
    with pytest.raises(SettingsChanged, match="adapt.learning_rate: 1e-05 -> 0.001.*--redo adapt"):
        check_stages(stages, [], None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["evaluation.arms=[real, self-training]"], "name them with data.unlabelled"),
        (["evaluation.arms=[real, pseudo-maps]"], "name them with data.unlabelled"),
        (["evaluation.arms=[self-training]", "data.unlabelled=unlabelled"], "needs the segmenter of arm 'real'"),
        (["evaluation.arms=[real, self-training]", "data.unlabelled=/no/such"], "is no folder, no split"),
        (
            ["evaluation.arms=[real, self-training]", "data.unlabelled=test", "data.max_unlabelled=4"],
            "All .* images of data.unlabelled are in a test split too",
        ),
    ],
)
def test_unlabelled_images_that_cannot_serve_are_refused(tiny_recipe, tmp_path, settings, told):
    with pytest.raises(ValueError, match=told):
        run_stages(load_recipe(tiny_recipe, settings), tmp_path / "run")
    assert not (tmp_path / "run/captions").exists()


def test_test_images_among_the_unlabelled_ones_are_left_out(tiny_recipe, scene_records, tmp_path):
    """And named; nothing learns from them."""
    for name, rows in (("train", (0, 1)), ("test", (2, 3)), ("more", (2, 4, 5))):
        (tmp_path / "data" / name / "images").mkdir(parents=True)
        for row in rows:
            record, masks = scene_records[row], tmp_path / "data" / name / "masks"
            record["image"].save(tmp_path / "data" / name / "images" / f"{row}.png")
            if name != "more":
                masks.mkdir(exist_ok=True)
                record["segmentation_map"].save(masks / f"{row}.png")
    labels_of(scene_records).save(tmp_path / "data")
    settings = [f"data.dataset_name={tmp_path / 'data'}", "data.test_splits=[test]", "data.unlabelled=more"]
    recipe = load_recipe(tiny_recipe, [*settings, "evaluation.arms=[real, self-training]"])
    images, left_out = load_unlabelled_images(recipe)
    assert images["image_id"][:] == ["4", "5"] and left_out == ["2"]
    more = tmp_path / "data/more/images"
    shutil.copyfile(more / "2.png", more / "9.png")  # each copy of it is
    assert load_unlabelled_images(recipe)[1] == ["2", "9"]
    (more / "9.png").unlink()
    wanted = "1 image is left out of data.unlabelled, being in a test split too, first 2"
    for _ in range(2):  # looked at, and remembered
        assert check_run(recipe, tmp_path / "run")["warnings"][-1] == wanted
    run_stages(recipe, tmp_path / "whole", ["caption"])
    assert load_saved(tmp_path / "whole/unlabelled")["image_id"][:] == ["4", "5"]


def test_a_broken_image_is_told_before_anything_begins(tiny_recipe, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a.jpg").write_bytes(b"none")
    settings = ["evaluation.arms=[real, self-training]", f"data.unlabelled={tmp_path / 'more'}"]
    with pytest.raises(ValueError, match=r"a.jpg: the file is not an image"):
        run_stages(load_recipe(tiny_recipe, settings), tmp_path / "run")
    assert not (tmp_path / "run/captions").exists()
