import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from seggen_hf.data.schema import encode_map
from seggen_hf.labels import LabelSet
from seggen_hf.synthesis.manifest import SynthesisPlan
from seggen_hf.synthesis.rarity import repeat_factors, share_out

from synthesis_settings import make_config  # isort: skip


def test_records_of_rare_labels_count_for_more():
    labels = LabelSet.from_id2label({0: "sky", 1: "cow", 2: "boat"})
    maps = [[0, 0], [0, 1], [0, 1], [0, 2], [255, 255]]  # sky in 4 of 5, cow in 2, boat in 1
    encoded = [encode_map(np.array([ids], np.uint8), 3, "a") for ids in maps]
    records = Dataset.from_dict({"segmentation_map": encoded})
    assert repeat_factors(records, labels, 0.5) == pytest.approx([1.25**0.5, 2.5**0.5, 2.5**0.5, 5**0.5, 1])
    assert repeat_factors(records, labels, 0).tolist() == [1] * 5


@given(st.integers(0, 500), st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
def test_numbers_are_shared_out_in_proportion(total, weights):
    counts = share_out(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - total * weight / sum(weights)) < 1 + 1e-9


@given(st.lists(st.sampled_from([0.01, 1, 3.5]), min_size=1, max_size=12), st.integers(1, 5))
def test_every_sample_has_a_source_and_a_variant_of_its_own(weights, variants):
    ids = [f"r{i}" for i in range(len(weights))]
    plan = SynthesisPlan(ids, ids, make_config(imgsyn_variants=variants), ["imgsyn"], weights)
    samples = [sample for shard in plan.shards for sample in plan.samples(shard)]
    assert len(samples) == len(plan) == variants * len(ids) == len({sample.image_id for sample in samples})
    counts = share_out(len(plan), weights)
    assert [(s.record, s.variant) for s in samples] == [(r, v) for r, n in enumerate(counts) for v in range(n)]
    equal = SynthesisPlan(ids, ids, make_config(imgsyn_variants=variants), ["imgsyn"], [1.0] * len(ids))
    plain = SynthesisPlan(ids, ids, make_config(imgsyn_variants=variants), ["imgsyn"])
    assert [equal.sample("imgsyn", i) for i in range(len(plain))] == [
        plain.sample("imgsyn", i) for i in range(len(plain))
    ]
