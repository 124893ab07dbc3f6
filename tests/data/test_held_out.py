"""What is held out is a fair share, whole groups, and the same each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seggen_hf.data.held_out import draw_held_out, tell_groups


@given(number=st.integers(2, 200), share=st.floats(0.01, 0.9), seed=st.integers(0, 99))
def test_of_images_without_groups_it_is_the_share(number, share, seed):
    names = [f"{i:04d}" for i in range(number)]
    chosen = draw_held_out(names, share, seed)
    assert chosen == sorted(set(chosen)) == draw_held_out(names, share, seed)
    assert len(chosen) == min(max(1, round(share * number)), number - 1) and tell_groups(names) == 0


@given(sizes=st.lists(st.integers(1, 30), min_size=5, max_size=20), seed=st.integers(0, 99))
def test_patients_and_videos_stay_together(sizes, seed):
    names = [f"patient{p}_slice{i}" for p, size in enumerate(sizes) for i in range(size)]
    chosen = {names[i] for i in draw_held_out(names, 0.2, seed)}
    if tell_groups(names):
        for p in range(len(sizes)):
            own = {name for name in names if name.startswith(f"patient{p}_")}
            assert own <= chosen or not own & chosen
    assert 0 < len(chosen) < len(names)


def test_another_seed_draws_others_and_more_images_change_nothing():
    names = [f"{i:04d}" for i in range(50)]
    assert draw_held_out(names, 0.2, 0) != draw_held_out(names, 0.2, 1)
    assert tell_groups([f"seq{i % 6}_{i:03d}" for i in range(30)]) == 6
    assert tell_groups(["img_1", "img_2", "img_3"]) == 0  # one prefix tells nothing


def test_one_image_cannot_be_divided():
    with pytest.raises(ValueError, match="needs two or more"):
        draw_held_out(["a"], 0.5)
