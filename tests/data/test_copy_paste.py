"""What is pasted is another record's, whole, and known as such; the rest stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seggen_hf.data.copy_paste import paste_labels, paste_segments
from seggen_hf.labels import LabelSet
from seggen_hf.segments import label_map

SIZE = (6, 8)


def labels(things) -> LabelSet:
    categories = [{"id": i, "name": f"l{i}", "isthing": int(i in things)} for i in range(4)]
    return LabelSet.from_dict({"categories": categories})


def pictures(rng):
    return [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(2)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), things=st.sets(st.integers(0, 3)))
def test_labels_of_the_other_record_lie_over_this_one(seed, things):
    rng = np.random.default_rng(seed)
    (image, other), (own, theirs) = pictures(rng), rng.choice([0, 1, 2, 3, 255], (2, *SIZE))
    before = own.copy()
    made, found = paste_labels(image, own, other, theirs, labels(things), rng)
    present = set(np.unique(theirs).tolist()) - {255}
    wanted = present & things or present
    pasted = (made == other).all(-1) & (found == theirs)
    kept = (made == image).all(-1) & (found == own)
    assert (pasted | kept).all() and np.array_equal(own, before)
    chosen = {label for label in wanted if pasted[theirs == label].all()}
    assert len(chosen) >= -(-len(wanted) // 2)  # others may look pasted where both records agree
    assert kept[~np.isin(theirs, list(wanted))].all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_segments_of_the_other_record_get_ids_of_their_own(seed):
    rng = np.random.default_rng(seed)
    (image, other), (own, theirs) = pictures(rng), rng.integers(0, 4, (2, *SIZE))
    of_own = [{"id": i, "category_id": i - 1, "isthing": i > 1, "iscrowd": False} for i in (1, 2, 3)]
    of_theirs = [{"id": i, "category_id": 3 - i, "isthing": i < 3, "iscrowd": i == 2} for i in (1, 2, 3)]
    made, found, segments = paste_segments(image, own, of_own, other, theirs, of_theirs, rng)
    new = [segment for segment in segments if segment["id"] > 3]
    assert [s["category_id"] for s in new] == ([2] if 1 in theirs else [])  # 2 is a crowd, 3 no thing
    mask = theirs == 1
    assert np.array_equal(label_map(found, segments, 255)[~mask], label_map(own, of_own, 255)[~mask])
    assert (found[mask] == (new[0]["id"] if new else 0)).all()
    assert np.array_equal(made, np.where(mask[..., None], other, image))


@pytest.mark.parametrize("value", [255, 1])
def test_of_a_record_of_void_and_one_of_a_single_label(value):
    rng = np.random.default_rng(0)
    image, other = pictures(rng)
    own, theirs = np.zeros(SIZE, int), np.full(SIZE, value)
    made, found = paste_labels(image, own, other, theirs, labels({1}), rng)
    assert np.array_equal(found, own if value == 255 else theirs)
    assert np.array_equal(made, image if value == 255 else other)
