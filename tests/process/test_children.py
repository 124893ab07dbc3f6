"""Processes of this package's own: how they begin, and what they must not do."""

import pytest
import torch
from forked_python import client_environment, run_python

from seggen_hf.process.children import child_context

SCRIPT = """
from seggen_hf.process.children import begin_child, child_context, start_child
import datasets

print("begun")
context = child_context("datasets")
process = context.Process(target=begin_child, args=({"OMP_NUM_THREADS": "1"},))
start_child(process, {"OMP_NUM_THREADS": "1"})
process.join()
print(process.exitcode, datasets.__name__)
"""


@pytest.mark.parametrize(("has_gpu", "expected"), [(False, "forkserver"), (True, "spawn")])
def test_nothing_is_forked_where_there_is_a_gpu(monkeypatch, has_gpu, expected):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert child_context().get_start_method() == expected


@pytest.mark.slow
def test_a_script_without_a_guard_begins_once(tmp_path):
    """And its folder may hold modules that are called as libraries are."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "datasets.py").write_text("raise SystemExit('imported where the user stands')")
    done = run_python([tmp_path / "script.py"], client_environment(), tmp_path / "elsewhere")
    assert done.stdout.split() == ["begun", "0", "datasets"] and not done.stderr
