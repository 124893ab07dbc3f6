"""benchmarks/measure_corruptions.py: what it does to images, that it goes on, and its table."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from seggen_hf.config import load_recipe, save_recipe
from seggen_hf.data.schema import labels_of, read_image


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks" / "measure_corruptions.py")


@pytest.mark.parametrize("name", ["fog", "noise", "blur", "JPEG"])
def test_each_strength_takes_more_of_the_image(script, scene_records, name):
    image = read_image(scene_records[0]["image"])
    made = [script.corrupt(image, name, strength, 0) for strength in range(1, 6)]
    lost = [float(np.square(picture.astype(float) - image).mean()) for picture in made]
    assert lost == sorted(set(lost)) and lost[0] > 0 and lost[-1] > 10
    np.testing.assert_array_equal(made[2], script.corrupt(image, name, 3, 0))
    if name in ("fog", "noise"):
        assert (script.corrupt(image, name, 3, 1) != made[2]).any()  # of another seed


def test_records_keep_all_but_their_images(script, scene_records):
    few = scene_records.select(range(2))
    changed = script.corrupt_records(few, "blur", 3)
    assert set(changed.column_names) == set(few.column_names) and labels_of(changed) == labels_of(scene_records)
    assert changed["image_id"][:] == few["image_id"][:]
    expected = script.corrupt(read_image(few[1]["image"]), "blur", 3, 1)
    np.testing.assert_array_equal(read_image(changed[1]["image"]), expected)


@pytest.mark.slow
def test_a_run_is_scored_once_and_told_in_a_table(script, tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "STRENGTHS", 1)
    run_copy = shutil.copytree(tiny_run, tmp_path / "run")
    page = tmp_path / "page.md"
    assert script.main([str(run_copy), "--records", "2", "--page", str(page)]) == 0
    known = json.loads((run_copy / "corruptions.json").read_text())
    assert {name.split("/")[0] for name in known["scores"]} == {"segmenter-real", "segmenter-synthetic"}
    assert all(len(scores) == 5 for scores in known["scores"].values()) and known["records"] == 2
    assert "| real | 0 |" in page.read_text() and "| arm | seeds | clean | fog |" in page.read_text()
    assert f"## {load_recipe(run_copy / 'recipe.yaml').name}" in page.read_text()
    del known["scores"]["segmenter-real/seed-0"]["fog 1"]
    (run_copy / "corruptions.json").write_text(json.dumps(known))
    capsys.readouterr()
    assert script.main([str(run_copy), "--records", "2", "--page", str(page)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("   ")]
    assert len(said) == 1 and "fog 1: segmenter-real/seed-0" in said[0]
    assert script.main([str(run_copy), "--records", "3", "--page", str(page)]) == 1
    assert "remove it to measure anew" in capsys.readouterr().err


def test_seeds_of_one_recipe_are_compared_in_pairs(script, tiny_recipe, tmp_path, monkeypatch):
    """And stay known where the same recipe is measured elsewhere; those of another recipe do not."""
    monkeypatch.setattr(script, "STRENGTHS", 1)
    tests = ["clean", *(f"{name} 1" for name in script.CORRUPTIONS)]

    def begin(seed, *settings):
        run = tmp_path / f"seed-{seed}"
        run.mkdir(exist_ok=True)
        save_recipe(load_recipe(tiny_recipe, [f"evaluation.seeds=[{seed}]", *settings]), run / "recipe.yaml")
        scores = {
            f"segmenter-{arm}/seed-{seed}": dict.fromkeys(tests, 0.4 + gain + seed / 100)
            for arm, gain in (("real", 0), ("synthetic", 0.1 + seed / 1000))
        }
        scores["segmenter-synthetic/seed-9"] = {"clean": 0.1}  # not finished
        return run, {"split": "test", "records": 2, "metric": "mIoU", "scores": scores}

    page = tmp_path / "page.md"
    for seed in (0, 1):
        run, measured = begin(seed)
        script.write_page(page, [run], [measured])
    text = page.read_text()
    assert "| real | 0, 1 | 40.5 | 40.5 | 40.5 | 40.5 | 40.5 | 40.5 |  |  | 40.5 |" in text
    assert "| synthetic | 0, 1 | 50.6 |" in text and "| +10.0 ± 0.6 | 0.003 | 50.6 |" in text
    for setting in ("segmenter.learning_rate=0.5", "data.max_train_records=3"):
        run, measured = begin(0, setting)
        other = begin(1)
        with pytest.raises(ValueError, match="follows another recipe than other runs of"):
            script.write_page(page, [run, other[0]], [measured, other[1]])
        script.write_page(page, [other[0]], [other[1]])
        script.write_page(page, [run], [measured])
        assert "| real | 0 |" in page.read_text() and "± " not in page.read_text()
