"""benchmarks/measure_switches.py: a switch is a run of a study with one thing changed, compared seed by seed."""

import json
import shutil
from pathlib import Path

import pytest

from seggen_hf.arms import check_arms
from seggen_hf.config import load_recipe, save_recipe
from seggen_hf.runs.results import percent


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks" / "measure_switches.py")


def test_every_switch_changes_its_settings_and_no_others(script, tmp_path):
    plain = load_recipe(Path(__file__).parents[2] / "benchmarks/studies/scenes.yaml", ["evaluation.seeds=[2]"])
    save_recipe(plain, tmp_path / "recipe.yaml")
    for name, switch in script.SWITCHES.items():
        recipe = script.changed_recipe(name, tmp_path, [])
        check_arms(recipe)
        assert {switch.arm} <= set(recipe.evaluation.arms) <= {switch.arm, "real"}
        assert switch.base in plain.evaluation.arms and recipe.evaluation.seeds == [2]
        changed = {
            f"{section}.{key}={value:g}" if isinstance(value, float) else f"{section}.{key}={value}"
            for section in ("data", "text2mask", "mask2img", "synthesis", "filter", "segmenter")
            for key, value in vars(getattr(recipe, section)).items()
            if getattr(getattr(plain, section), key) != value
        }
        assert changed == set(switch.settings)


@pytest.mark.slow
def test_a_switch_takes_over_what_it_does_not_touch_and_is_compared(script, tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "study/seed-0")
    words = ["no-dice", "--runs", str(tmp_path / "study"), "--out", str(tmp_path / "out")]
    words += ["--page", str(tmp_path / "page.md")]
    assert script.main(words) == 0
    told = capsys.readouterr().out.split("== no-dice, seed-0")[1]
    for stage in ("text2mask", "mask2img", "synthetic"):
        assert f"{stage}: kept, it is finished" in told
    assert "segmenter-synthetic/seed-0: done" in told and "segmenter-real" not in told
    before, after = (
        {row["split"]: row["mIoU"] for row in json.loads((run / "results.json").read_text())["scores"]
         if row["arm"] == "synthetic"}
        for run in (tmp_path / "study/seed-0", tmp_path / "out/no-dice/seed-0")
    )  # fmt: skip
    text = (tmp_path / "page.md").read_text()
    (row,) = [line for line in text.splitlines() if "synthetic_dice=0" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    mean = percent(after["test"] - before["test"], signed=True)
    assert cells[3:6] == [f"{percent(before['test'])} {mean}", "", "0"]
    assert script.main([*words, "--write-only"]) == 0 and (tmp_path / "page.md").read_text() == text
    # Gone from this machine, it is still known; another seed joins it, and another protocol takes its place.
    shutil.rmtree(tmp_path / "out")
    assert script.main([*words, "--write-only"]) == 0 and (tmp_path / "page.md").read_text() == text
    kept = json.loads((tmp_path / "page.json").read_text())
    kept["no-dice"]["pairs"]["test"]["7"] = [0.25, 0.5]
    (tmp_path / "page.json").write_text(json.dumps(kept))
    assert script.main(words) == 0 and "| 0, 7 |" in (tmp_path / "page.md").read_text()
    kept["no-dice"]["protocol"] = "another"
    (tmp_path / "page.json").write_text(json.dumps(kept))
    assert script.main([*words, "--write-only"]) == 0 and (tmp_path / "page.md").read_text() == text


def test_what_cannot_be_measured_is_told(script, tmp_path, capsys):
    for words, told in ((["no-such"], "no switch no-such"), (["--runs", str(tmp_path)], "make reproduce")):
        with pytest.raises(SystemExit):
            script.main(words)
        assert told in capsys.readouterr().err
