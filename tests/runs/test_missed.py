"""What a run says of labels that an arm never finds."""

from seggen_hf.config import load_recipe
from seggen_hf.runs.advice import what_next
from seggen_hf.runs.missed import list_missed, missed_by_all, name_some, tell_missed


def row(arm, seed=0, split="val", task="semantic", **scores):
    return {"arm": arm, "seed": seed, "split": split, "task": task, "per_label": scores}


def test_a_label_is_missed_if_no_seed_of_an_arm_scores_on_it():
    rows = [row("real", 0, sky=0.5, cow=0.0, car=None, bus=0.0), row("real", 1, sky=0.5, cow=0.2, car=None, bus=4e-4)]
    assert list_missed(rows) == {"val": {"real": ["bus"]}}  # cow: once found; car: there is none


def test_the_sentences_name_what_all_arms_miss_and_what_an_arm_lost():
    rows = [row("real", sky=0.5, cow=0.3, bus=0.0), row("synthetic", sky=0.6, cow=0.0, bus=0.0)]
    assert tell_missed(rows) == " IoU on val is 0.0 in every arm for bus. On val `synthetic` lost cow altogether."
    assert missed_by_all(rows) == {"val": ["bus"]}
    assert tell_missed(rows[:1]) == " IoU on val is 0.0 in every arm for bus."
    assert tell_missed([row("synthetic", sky=0.6, cow=0.1)]) == "" and tell_missed([]) == ""
    panoptic = [row(arm, task="panoptic", nucleus=0.0) for arm in ("real", "synthetic")]
    assert tell_missed(panoptic) == " PQ on val is 0.0 in every arm for nucleus."


def test_many_labels_are_counted():
    assert name_some(["a"]) == "a" and name_some(["a", "b"]) == "a and b"
    assert name_some(list("abcde")) == "a, b, c, d and e"
    assert name_some(list("abcdefg")) == "a, b, c, d and 3 more labels"


def test_labels_that_every_arm_misses_are_advised_on_once():
    recipe, scores = load_recipe("quickstart"), {"real": {"test": {0: 0.5}}, "synthetic": {"test": {0: 0.6}}}
    missed = {"test": ["boat"], "unseen": ["boat", "sand"]}
    (entry,) = [entry for entry in what_next(recipe, scores, [], (), missed) if "misses" in entry.text]
    assert "misses boat and sand:" in entry.text and "segmenter.max_train_steps=2800" in entry.command
    assert not any("misses" in entry.text for entry in what_next(recipe, scores, []))
