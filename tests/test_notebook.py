"""The notebooks in docs/ are kept without outputs, and their cells run in their order."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked_python import client_environment, run_python
from typer.testing import CliRunner

from seggen_hf.cli import app

UNIT = [
    word
    for setting in (
        "data.max_train_records=10",
        "data.max_test_records=4",
        "segmenter.model=unit",
        "segmenter.train_batch_size=2",
        "text2mask.train_batch_size=2",
        "mask2img.train_batch_size=2",
        "synthesis.text2mask_steps=1",
        "synthesis.mask2img_steps=1",
    )
    for word in ("--set", setting)
]
DOCS = Path(__file__).parents[1] / "docs"


def code_cells(name: str) -> list[dict]:
    cells = json.loads((DOCS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", ["first_steps", "own_data"])
def test_the_notebooks_are_clean(name):
    cells = code_cells(name)
    assert cells and not [cell for cell in cells if cell["outputs"] or cell["execution_count"]]


@pytest.mark.slow
def test_its_cells_run_in_their_order(tmp_path):
    """In a process of its own: what a cell needs, an earlier one has made. A kernel would only add dependencies.

    With a tenth of the steps and few records: how good what they train is, is no matter here.
    """
    code = "\n\n".join("".join(cell["source"]) for cell in code_cells("first_steps"))
    code, trainings = re.subn(r"max_train_steps=(\d+)0\b", r"max_train_steps=\1", code)
    code, loads = re.subn(r"max_records=\d+", "max_records=8", code)
    assert (trainings, loads) == (2, 2)
    script = tmp_path / "cells.py"
    script.write_text(code, encoding="utf-8")
    done = run_python([script], client_environment(), tmp_path)
    scores = dict(re.findall(r"^(real|imgsyn): mIoU ([\d.]+)%$", done.stdout, re.MULTILINE))
    assert set(scores) == {"real", "imgsyn"} and all(0 <= float(score) <= 100 for score in scores.values())
    assert (tmp_path / "runs" / "first_steps" / "synthetic" / "preview.png").is_file()


@pytest.mark.slow
def test_a_folder_becomes_a_report(tmp_path, monkeypatch):
    """The cells as IPython would run them, but that `!seggen ...` is called in this process, a run at unit size."""
    called, shown = [], []

    def shell(line: str, names: dict) -> None:
        words = shlex.split(re.sub(r"\{(\w+)\}", lambda found: str(names[found[1]]), line))
        assert words[0] == "seggen", line
        done = CliRunner().invoke(app, words[1:] + (UNIT if words[1] == "run" else []))
        assert done.exit_code == 0, f"{line}\n{done.output}"
        called.append(words[1])

    displays = SimpleNamespace(HTML=lambda filename: Path(filename).read_text(), display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    monkeypatch.chdir(tmp_path)
    names = {"shell": shell}
    for cell in code_cells("own_data"):
        code = "".join(cell["source"]).replace("STEPS = 20", "STEPS = 2")
        exec(re.sub(r"^(\s*)!(.*)$", r"\1shell(r'''\2''', globals())", code, flags=re.MULTILINE), names)
    assert called == ["doctor", "doctor", "init", "run", "status", "predict", "export"]
    assert "<html" in shown[0] and (tmp_path / "drawn").is_dir() and list((tmp_path / "predictions").rglob("*.png"))
