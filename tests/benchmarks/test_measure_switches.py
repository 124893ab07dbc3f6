"""benchmarks/measure_switches.py: a switch is the plain run with one thing changed, compared seed by seed."""

import json
from pathlib import Path

import pytest

from seggen_hf.arms import check_arms
from seggen_hf.runs.results import percent


@pytest.fixture
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks" / "measure_switches.py")


def test_every_switch_changes_its_settings_and_no_others(script):
    plain = script.recipe_of(script.PLAIN, [])
    for name, switch in script.SWITCHES.items():
        recipe = script.recipe_of(name, [])
        check_arms(recipe)
        assert {switch.arm} <= set(recipe.evaluation.arms) and switch.base in plain.evaluation.arms
        changed = {
            f"{section}.{key}={value:g}" if isinstance(value, float) else f"{section}.{key}={value}"
            for section in ("data", "text2mask", "mask2img", "synthesis", "filter", "segmenter")
            for key, value in vars(getattr(recipe, section)).items()
            if getattr(getattr(plain, section), key) != value
        }
        assert changed == set(switch.settings)
        assert recipe.evaluation.seeds == plain.evaluation.seeds == [0, 1, 2, 3]
    assert script.recipe_of("no-dice", []).segmenter.synthetic_dice == 0


@pytest.mark.slow
def test_a_switch_takes_over_what_it_does_not_touch_and_is_compared(
    script, tiny_recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(script, "RECIPE", str(tiny_recipe))
    words = ["no-dice", "--out", str(tmp_path / "out"), "--page", str(tmp_path / "page.md")]
    words += ["--set", "evaluation.seeds=[0, 1]"]
    assert script.main(words) == 0
    told = capsys.readouterr().out.split("== no-dice")[1]
    for stage in ("text2mask", "mask2img", "synthetic"):
        assert f"{stage}: kept, it is finished" in told
    assert "segmenter-synthetic/seed-0: done" in told
    found = {}
    for name in ("plain", "no-dice"):
        rows = json.loads((tmp_path / "out" / name / "results.json").read_text())["scores"]
        found[name] = [row["mIoU"] for row in rows if (row["arm"], row["split"]) == ("synthetic", "test")]
    mean = sum(found["no-dice"]) / 2 - sum(found["plain"]) / 2
    (row,) = [line for line in (tmp_path / "page.md").read_text().splitlines() if "synthetic_dice=0" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == "2" and cells[3].startswith(f"{percent(sum(found['plain']) / 2)} {percent(mean, signed=True)}")
    assert script.main([*words, "--write-only"]) == 0 and row in (tmp_path / "page.md").read_text()
