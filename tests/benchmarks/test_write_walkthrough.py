"""benchmarks/write_walkthrough.py on a finished run at unit size."""

import shutil
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks" / "write_walkthrough.py")


@pytest.mark.slow
def test_the_page_has_what_the_commands_said(script, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "MAX_IMAGES", 3)
    script.main([str(tiny_run), "--docs", str(tmp_path)])
    page = (tmp_path / "walkthrough.md").read_text()
    for command in ("doctor shapes", "init shapes", "status runs/shapes", "predict runs/shapes", "export runs/shapes"):
        assert f"$ seggen {command}" in page
    assert "Written to shapes.yaml" in page and "6 of 6 stages are done." in page and "text2mask: done in" in page
    assert "\n3 images in predictions\n" in page and "it/s" not in page
    assert "mIoU, %" in page and str(tmp_path) not in page and "Traceback" not in page
    pictures = {line.split("(walkthrough/")[1].rstrip(")") for line in page.splitlines() if "(walkthrough/" in line}
    assert pictures == {path.name for path in (tmp_path / "walkthrough").iterdir()} and len(pictures) == 4
    assert all(Image.open(tmp_path / "walkthrough" / name).width > 100 for name in pictures)


def test_a_run_that_is_not_finished_is_told(script, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("results.json"))
    with pytest.raises(ValueError, match="is no finished run"):
        script.main([str(run), "--docs", str(tmp_path / "docs")])
    assert not (tmp_path / "docs").exists()
