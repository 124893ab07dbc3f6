"""What limits a segmenter, by trainings on parts of its labels."""

import json

import pytest
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.runs.value import POINTS, Curve


def curve(*scores, seeds=1, steps=100):
    """A curve of the means of the points in %; its seeds differ by one point."""
    found = {
        point: {seed: (score + seed - (seeds - 1) / 2) / 100 for seed in range(seeds)}
        for point, score in zip(POINTS, scores, strict=True)
    }
    return Curve("a", "mIoU", steps, 80, 20, found)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (curve(40, 50, 60, 60), "Worth trying.*about 10.0 to 10.0 points"),
        (curve(40, 50, 55, 55), "Worth trying.*about 2.5 to 5.0 points"),
        (curve(40, 50, 55, 58), r"Train longer first: twice the steps bring 3.0.*max_train_steps=200"),
        (curve(59, 60, 60.2, 60), "Not worth it.*brought 0.2"),
        (curve(59, 60, 59, 59), "Not worth it.*brought -1.0 points and twice the labels would bring 0.0"),
        (curve(59, 60, 60.8, 60, seeds=2), "Not worth it.*seeds alone differ by 1.0"),
        (curve(40, 39, 45, 45), "Worth trying.*about 6.0 to 6.0"),
    ],
)
def test_the_advice_follows_from_the_curve(made, told):
    import re

    assert re.search(told, made.advice), made.advice
    assert ("One seed" in made.to_text()) == (made.spread is None)


@pytest.mark.slow
def test_a_curve_is_measured_once_and_kept(tiny_recipe, tmp_path):
    """On records that no test split has; a second call trains nothing, one more seed only its own points."""
    words = ["plan", str(tiny_recipe), "--value", "--out", str(tmp_path / "run"), "--set", "data.max_train_records=10"]
    first = CliRunner().invoke(app, [*words, "--json"])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert [point["records"] for point in found["points"]] == [2, 4, 8, 8] and found["held_out"] == 2
    assert [point["steps"] for point in found["points"]] == [2, 2, 2, 4]
    assert found == json.loads((tmp_path / "run/value/value.json").read_text())
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/value").rglob("*.safetensors")}
    assert len(weights) >= 4
    more = CliRunner().invoke(app, [*words, "--set", "evaluation.seeds=[0, 1]"])
    assert more.exit_code == 0, more.output
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in weights.items())
    assert more.stdout.count("(") >= 4 and "One seed" not in more.stdout


def test_too_few_labels_are_told(tiny_recipe, tmp_path):
    done = CliRunner().invoke(app, ["plan", str(tiny_recipe), "--value", "--out", str(tmp_path / "run")])
    assert done.exit_code == 1 and "8 labelled records are too few to hold some out" in done.stderr
