"""Which of many are shown."""

import pytest

from seggen_hf.pictures.spacing import spread


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(0, 3, []), (1, 3, [0]), (2, 3, [0, 1]), (10, 1, [0]), (10, 2, [0, 9]), (10, 4, [0, 3, 6, 9]), (10, 0, [])],
)
def test_indices_are_even_and_end_at_the_last_one(length, count, expected):
    assert spread(length, count) == expected
