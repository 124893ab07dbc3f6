"""The scripts that measure choices, on the smallest models: their tables hold what they scored."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(monkeypatch, name: str, *words) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


def read_rows(path: Path) -> list[list[str]]:
    """Cells of the last table of a Markdown file."""
    lines = [line for line in path.read_text().split("## ")[-1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


@pytest.mark.slow
def test_labels_are_measured_on_images_that_nobody_learns_from(tiny_recipe, tmp_path, monkeypatch):
    words = [tiny_recipe, "--set", "data.task=panoptic", "--set", "evaluation.object_threshold=0"]
    words += ["--set", "data.tiles=2", "--counts", 4, 8, "--held_out", 3, "--output", tmp_path / "labels.md"]
    run(monkeypatch, "measure_labels.py", *words)
    header, *rows = read_rows(tmp_path / "labels.md")
    assert header[:3] == ["images", "seed", "PQ"] and [row[:2] for row in rows] == [["4", "0"], ["8", "0"]]
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row[2:])
    first = (tmp_path / "labels.md").read_text()
    assert "2 steps on real images; 3 others of train scored" in first and str(tiny_recipe.parent) not in first
    with pytest.raises(SystemExit):
        run(monkeypatch, "measure_labels.py", tiny_recipe, "--counts", 10**9)


@pytest.mark.slow
def test_conditions_are_judged_on_drawn_and_on_real_images(tiny_recipe, tmp_path, monkeypatch):
    out = tmp_path / "conditioning.md"
    words = [tiny_recipe, "--set", "data.task=panoptic", "--set", "evaluation.object_threshold=0"]
    words += ["--judge_steps", 1, "--judge_records", 24, "--num_maps", 2, "--conditionings", "rgb", "bits"]
    run(monkeypatch, "measure_conditioning.py", *words, "--output", out)
    header, *rows = read_rows(out)
    assert header[2:4] == ["PQ things", "SQ things"] and [row[0] for row in rows] == ["real images", "rgb", "bits"]
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row[2:])
    told = "2 maps of train; generators of 2 steps on 8 records; a judge of 1 steps on 21 others"
    assert told in out.read_text() and str(tiny_recipe.parent) not in out.read_text()
