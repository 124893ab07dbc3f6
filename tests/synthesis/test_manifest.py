"""Plan, seeds and captions: all a function of the settings and the records."""

import pytest

from seggen_hf.config import SynthesisConfig
from seggen_hf.synthesis.manifest import SynthesisPlan, derive_seed, draw_caption

IDS = [f"record-{i}" for i in range(7)]
CAPTIONS = [f"scene {i}, at noon" for i in range(7)]
STYLES = ["at noon", "at night", "in fog"]


def make_plan(kinds=("imgsyn", "masksyn"), **settings):
    settings = dict(imgsyn_variants=3, masksyn_variants=2, shard_size=4, seed=5) | settings
    return SynthesisPlan(IDS, CAPTIONS, SynthesisConfig(**settings), kinds)


def all_samples(plan):
    return [sample for shard in plan.shards for sample in plan.samples(shard)]


def test_shards_hold_each_sample_once_in_order():
    plan = make_plan()
    samples = all_samples(plan)
    assert len(plan) == len(samples) == 7 * 3 + 7 * 2
    assert [s.image_id for s in samples[:4]] == [*(f"record-0-imgsyn-00{v}" for v in range(3)), "record-1-imgsyn-000"]
    assert len({s.image_id for s in samples}) == len({s.seed for s in samples}) == len(samples)
    assert [len(shard) for shard in plan.shards] == [4, 4, 4, 4, 4, 1, 4, 4, 4, 2]
    assert [shard.name for shard in plan.shards][5:7] == ["imgsyn-00005", "masksyn-00000"]


@pytest.mark.parametrize("world_size", [1, 2, 3, 16])
def test_processes_share_the_shards_out(world_size):
    plan = make_plan()
    parts = [plan.shards_of(rank, world_size) for rank in range(world_size)]
    assert sorted((s for part in parts for s in part), key=lambda s: s.index) == plan.shards
    assert all(shard.index % world_size == rank for rank, part in enumerate(parts) for shard in part)


def test_a_sample_does_not_depend_on_shards_or_the_other_kind():
    few = {s.image_id: s for s in all_samples(make_plan(kinds=["masksyn"], shard_size=100, batch_size=1))}
    assert few == {s.image_id: s for s in all_samples(make_plan()) if s.kind == "masksyn"}


def test_seeds_are_fixed_numbers_of_63_bits():
    assert derive_seed(0, "imgsyn", "a", 0) == 8641178182219518932  # the same on every machine
    seeds = {derive_seed(*args) for args in [(0, "imgsyn", "a", 0), (1, "imgsyn", "a", 0), (0, "masksyn", "a", 0)]}
    seeds |= {derive_seed(0, "imgsyn", "a", 1), derive_seed(0, "imgsyn", "b", 0)}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)


def test_styles_replace_or_follow_what_the_caption_says():
    drawn = {draw_caption("a road, at noon", STYLES, 1.0, seed) for seed in range(50)}
    assert drawn == {"a road, at noon", "a road, at night", "a road, in fog"}
    assert {draw_caption("a road", ["in fog"], 1.0, seed) for seed in range(5)} == {"a road, in fog"}
    assert draw_caption("a road, noon", [], 1.0, 1) == "a road, noon"


def test_the_share_of_drawn_styles_is_kept():
    changed = sum(draw_caption("a road", ["in fog"], 0.3, seed) != "a road" for seed in range(2000))
    assert 0.26 < changed / 2000 < 0.34


def test_the_fingerprint_forgets_batch_size_and_folders_but_nothing_else():
    def fingerprint(**settings):
        return make_plan(**settings).fingerprint(64, 64, {"categories": []}, {"mask2img_weights": "abc"})

    assert fingerprint() == fingerprint(batch_size=9, output_dir="elsewhere", mask2img_model="there")
    for name, value in dict(
        seed=6, mask2img_steps=9, shard_size=5, caption_styles=["x"], max_color_distance=1, mixed_precision="bf16"
    ).items():
        assert fingerprint()[name] != fingerprint(**{name: value})[name]


def test_settings_of_a_kind_that_is_not_made_are_not_in_the_fingerprint():
    def fingerprint(**settings):
        plan = make_plan(**{"masksyn_variants": 0, **settings})
        return plan.fingerprint(64, 64, {"categories": []}, {})

    assert fingerprint() == fingerprint(text2mask_steps=7, max_ignored_share=0.4)
    assert fingerprint() == fingerprint(masksyn_variants=3, kinds=["imgsyn"])
    assert fingerprint() != fingerprint(mask2img_steps=7)


@pytest.mark.parametrize(
    ("ids", "captions", "kinds", "message"),
    [
        (["a", "a"], ["x", "y"], ("imgsyn",), "'a' is given twice"),
        (["a", "b"], ["x", " "], ("imgsyn",), "1 of 2 records have no caption, first 'b'"),
        (["a"], ["x"], ("imagesyn",), "no kind 'imagesyn'"),
        ([], [], ("imgsyn",), "no records"),
    ],
)
def test_records_that_cannot_be_told_apart_are_refused(ids, captions, kinds, message):
    with pytest.raises(ValueError, match=message):
        SynthesisPlan(ids, captions, SynthesisConfig(), kinds)


def test_a_plan_without_samples_is_refused():
    with pytest.raises(ValueError, match="--imgsyn_variants and --masksyn_variants must be 1 or more"):
        make_plan(imgsyn_variants=0, masksyn_variants=0)
