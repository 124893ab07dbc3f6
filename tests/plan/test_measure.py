"""How the stages of a plan are run on the machine at hand."""

import pytest
import torch

from seggen_hf.plan import measure


@pytest.mark.parametrize(("has_gpu", "expected"), [(False, "forkserver"), (True, "spawn")])
def test_nothing_is_forked_where_there_is_a_gpu(monkeypatch, has_gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert measure._start_method() == expected
