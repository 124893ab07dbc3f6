"""docs/first_steps.ipynb is kept without outputs, and its cells run in their order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_steps.ipynb"


def code_cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_clean():
    assert code_cells() and not [cell for cell in code_cells() if cell["outputs"] or cell["execution_count"]]


@pytest.mark.slow
def test_its_cells_run_in_their_order(tmp_path):
    """In a process of its own: what a cell needs, an earlier one has made. A kernel would only add dependencies."""
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in code_cells()), encoding="utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = dict(re.findall(r"^(real|imgsyn): mIoU ([\d.]+)%$", done.stdout, re.MULTILINE))
    assert set(scores) == {"real", "imgsyn"} and all(0 <= float(score) <= 100 for score in scores.values())
    assert (tmp_path / "runs" / "first_steps" / "synthetic" / "preview.png").is_file()
