"""docs/first_steps.ipynb is kept without outputs, and its cells run in their order."""

import json
import re
from pathlib import Path

import pytest
from forked_python import client_environment, run_python

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_steps.ipynb"


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_clean():
    assert code_cells() and not [cell for cell in code_cells() if cell["outputs"] or cell["execution_count"]]


@pytest.mark.slow
def test_its_cells_run_in_their_order(tmp_path):
    """In a process of its own: what a cell needs, an earlier one has made. A kernel would only add dependencies.

    With a tenth of the steps and few records: how good what they train is, is no matter here.
    """
    code = "\n\n".join("".join(cell["source"]) for cell in code_cells())
    code, trainings = re.subn(r"max_train_steps=(\d+)0\b", r"max_train_steps=\1", code)
    code, loads = re.subn(r"max_records=\d+", "max_records=8", code)
    assert (trainings, loads) == (2, 2)
    script = tmp_path / "cells.py"
    script.write_text(code, encoding="utf-8")
    done = run_python([script], client_environment(), tmp_path)
    scores = dict(re.findall(r"^(real|imgsyn): mIoU ([\d.]+)%$", done.stdout, re.MULTILINE))
    assert set(scores) == {"real", "imgsyn"} and all(0 <= float(score) <= 100 for score in scores.values())
    assert (tmp_path / "runs" / "first_steps" / "synthetic" / "preview.png").is_file()
