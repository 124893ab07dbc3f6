import shutil

import pytest


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    """A copy of the finished run that a test may change."""
    return shutil.copytree(tiny_run, tmp_path / "run")
