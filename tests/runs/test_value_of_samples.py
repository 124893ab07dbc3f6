"""What a small synthesis brings, by share and number of its samples."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.runs.value_of_samples import MIXES, Mixing


def mixing(real, *scores, seeds=1):
    """Of means in %; the seeds of each differ by one point."""

    def by_seed(score):
        return {seed: (score + seed - (seeds - 1) / 2) / 100 for seed in range(seeds)}

    found = {mix: by_seed(score) for mix, score in zip(MIXES, scores, strict=True)}
    return Mixing("a", "mIoU", 80, 5, by_seed(real), found)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (mixing(50, 52, 55, 53, 52), r"Worth it: segmenter.p_aug=0.6 gains 5.0 .*Make more: .* brought 3.0 points"),
        (mixing(50, 56, 55, 53, 55), r"p_aug=0.3 gains 6.0 points.*More samples are not worth it: .* brought 0.0"),
        (mixing(50, 50, 50.2, 49, 50), "Not worth it as it is: the best of 4 mixtures gains 0.2 points.*preview.png"),
        (mixing(50, 50, 50.8, 49, 50, seeds=2), "Not worth it.*gains 0.8 points.*seeds alone differ by 1.0"),
        (mixing(50, 50, 53, 49, 52.5, seeds=2), "Worth it.*differ by 1.0.*More samples are not worth it"),
    ],
)
def test_the_advice_follows_from_the_mixtures(made, told):
    assert re.search(told, made.advice), made.advice
    text = made.to_text()
    assert ("One seed" in text) == (made.spread is None) and "flatters them" in text
    assert f"{made.gain(made.best):+.1f}" in text


@pytest.mark.slow
def test_mixtures_are_measured_once_on_labels_that_are_held_out(tiny_run, tiny_recipe, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    monkeypatch.setattr("seggen_hf.runs.value.LEAST", 8)
    words = ["plan", str(tiny_recipe), "--value", "--samples", "--out", str(run), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((run / "value/samples.json").read_text()) and found["held_out"] == 2
    assert [(mix["p_aug"], mix["samples"]) for mix in found["mixes"]] == [
        (p_aug, max(1, round(share * found["num_samples"]))) for p_aug, share in MIXES
    ]
    # Of the records that are scored no sample was shown.
    assert found["num_samples"] == 3 / 4 * json.loads((run / "synthetic/summary.json").read_text())["num_kept"]
    weights = {path: path.stat().st_mtime_ns for path in (run / "value").rglob("*.safetensors")}
    assert len(weights) >= 1 + len(MIXES)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0 and json.loads(again.stdout) == found
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in weights.items())


def test_without_samples_it_is_told_how_to_make_some(tiny_recipe, tmp_path):
    done = CliRunner().invoke(app, ["plan", str(tiny_recipe), "--value", "--samples", "--out", str(tmp_path / "run")])
    assert done.exit_code == 1 and "--only synthesize" in done.stderr
    alone = CliRunner().invoke(app, ["plan", str(tiny_recipe), "--samples"])
    assert alone.exit_code == 2 and "together with --value" in alone.stderr
