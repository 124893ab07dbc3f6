"""What benchmarks/update_readme.py says of chance."""

from pathlib import Path

import pytest
from scipy.stats import ttest_ind

SCORES = {"real": [0.50, 0.52, 0.51], "copy-paste": [0.58, 0.59, 0.57], "synthetic": [0.60, 0.62, 0.61]}


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(Path(__file__).parents[2] / "benchmarks" / "update_readme.py")


def table(**more):
    scores = SCORES | more
    rows = [
        {"arm": arm, "mean": sum(values) / len(values), "seeds": dict(enumerate(values))}
        for arm, values in scores.items()
    ]
    return {"split": "test", "rows": rows}


def test_synthetic_data_is_compared_with_what_is_to_be_had_without_generators(script):
    told = script.describe_chance([table(renderer=[0.70, 0.72, 0.71])])
    for arm in ("real", "copy-paste"):
        p = ttest_ind(SCORES[arm], SCORES["synthetic"], equal_var=False).pvalue
        assert f"p = {p:.0e}" in told
    assert "50% of the gap to `renderer`" in told and "against copy-paste +3.0 on test" in told
    assert "gap" not in script.describe_chance([table()])


def test_of_two_seeds_nothing_is_said(script):
    few = {"real": [0.5, 0.6], "copy-paste": [0.5, 0.6]}
    assert script.describe_chance([table(**few)]) == ""
