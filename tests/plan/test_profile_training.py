"""benchmarks/profile_training.py at unit size."""

from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "profile_training.py"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(FILE)


@pytest.mark.slow
def test_the_profile_tells_rates_operations_and_waits(script, tiny_recipe, tmp_path, capsys):
    trace = tmp_path / "trace.json"
    assert script.main([str(tiny_recipe), "text2mask", "segmenter", "--trace", str(trace)]) == 0
    told = capsys.readouterr().out
    for name in ("text2mask", "segmenter"):
        assert f"{name}: " in told
    assert "samples a second" in told and "operations a step; waits a step:" in told and "aten::" in told
    assert trace.stat().st_size > 1000


@pytest.mark.slow
def test_a_training_that_the_run_has_not_is_told(script, tiny_recipe, capsys):
    assert script.main([str(tiny_recipe), "text2mask", "--set", "evaluation.arms=[real]"]) == 1
    assert "has no training text2mask" in capsys.readouterr().err
