"""What a report says of samples that were left out, and of what to try next."""

import json
import shutil

import pytest

from seggen_hf.config import load_recipe
from seggen_hf.runs.advice import still_learning, what_next
from seggen_hf.runs.dropped import Made, absent_kinds, count_made, describe_arms
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.report import write_report


def advice(scores, *settings, made=(), history=()):
    found = what_next(load_recipe("quickstart", list(settings)), scores, made, history)
    return {item for entry in found for item in entry.settings}


def scores(real, **arms):
    return {name: {"test": dict(enumerate(values))} for name, values in {"real": real, **arms}.items()}


REAL = [0.50, 0.51, 0.50]


def test_a_gain_asks_for_more_and_a_loss_for_less():
    more = advice(scores(REAL, synthetic=[0.6, 0.61, 0.6]))
    assert {"synthesis.imgsyn_variants=24", "synthesis.masksyn_variants=24"} <= more
    less = advice(scores(REAL, synthetic=[0.4, 0.41, 0.4]))
    assert {"segmenter.p_aug=0.3", "segmenter.synthetic_until=0.8"} <= less
    assert not any("variants" in item for item in less)
    neither = advice(scores(REAL, synthetic=[0.505, 0.5, 0.505]))
    assert "evaluation.arms=[real, synthetic, filtered, copy-paste]" in neither


def test_copy_paste_that_gains_is_tried_together_with_synthetic_data():
    both = "evaluation.arms=[real, synthetic, synthetic-copy-paste]"
    gains = scores(REAL, synthetic=[0.6, 0.61, 0.6]) | {"copy-paste": {"test": {0: 0.55, 1: 0.55, 2: 0.55}}}
    assert both in advice(gains) and both not in advice(scores(REAL, synthetic=[0.6, 0.61, 0.6]))
    loses = gains | {"copy-paste": {"test": {0: 0.45, 1: 0.45, 2: 0.45}}}
    assert both not in advice(loses)


def test_what_only_adds_to_a_run_goes_on_in_it():
    found = what_next(load_recipe("quickstart"), scores([0.5], synthetic=[0.6]), [])
    places = {entry.settings[0].partition("=")[0]: entry.command.split()[4] for entry in found}
    assert places == {"synthesis.imgsyn_variants": "../next", "evaluation.seeds": "."}


def test_few_seeds_ask_for_more_of_them_and_three_do_not():
    seeds = "evaluation.seeds=[0, 1, 2]"
    assert seeds in advice(scores([0.5], synthetic=[0.6])) and seeds not in advice(scores(REAL, synthetic=REAL))


def test_the_kind_that_helped_less_is_left_out_only_if_it_is_clearly_worse():
    worse = scores(REAL, imgsyn=[0.6, 0.61, 0.6], masksyn=[0.5, 0.49, 0.5])
    assert "synthesis.masksyn_variants=0" in advice(worse)
    other = scores(REAL, imgsyn=[0.5, 0.49, 0.5], masksyn=[0.6, 0.61, 0.6])
    assert "synthesis.imgsyn_variants=0" in advice(other)
    near = scores(REAL, imgsyn=[0.50, 0.53, 0.5], masksyn=[0.5, 0.51, 0.5])
    assert not any(item.endswith("variants=0") for item in advice(near))


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("undecodable", "text2mask.max_train_steps=5600"),
        ("implausible", "text2mask.max_train_steps=5600"),
        ("not_as_named", "text2mask.max_train_steps=5600"),
        ("copied_map", "text2mask.max_train_steps=1400"),
        ("misaligned", "mask2img.max_train_steps=3000"),
        ("not_finite", "text2mask.learning_rate=0.0003"),
    ],
)
def test_what_was_dropped_names_the_training_that_is_to_blame(reason, setting):
    half, few = (Made("synthetic", "masksyn", 100, kept, {reason: 100 - kept}, {}) for kept in (40, 90))
    assert setting in advice(scores(REAL, synthetic=REAL), made=[half])
    assert setting not in advice(scores(REAL, synthetic=REAL), made=[few])


def test_a_training_that_still_learns_is_to_be_longer():
    def history(slope):
        return [{"step": step, "loss": 10 - slope * step / 100} for step in range(10, 1001, 10)]

    assert still_learning(history(0.7)) and not still_learning(history(0.1)) and not still_learning([])
    longer = "segmenter.max_train_steps=2800"
    assert longer in advice(scores(REAL, synthetic=REAL), history=history(0.7))
    assert longer not in advice(scores(REAL, synthetic=REAL), history=history(0.1))


def test_unlabelled_images_are_asked_for_once():
    asked = "data.unlabelled=FOLDER"
    own = "data.dataset_name=street"
    assert asked in advice({}, own) and asked not in advice({}, own, "data.unlabelled=more") | advice({})


def test_every_setting_that_is_advised_is_one(tiny_recipe):
    made = [Made("synthetic", "masksyn", 9, 1, {"misaligned": 8}, {})]
    falling = [{"step": step, "loss": 1000 - step} for step in range(0, 1000, 10)]
    for synthetic in ([0.6], [0.4], [0.5]):
        for item in advice(scores([0.5], synthetic=synthetic), made=made, history=falling):
            load_recipe("quickstart", [item])


@pytest.fixture
def dropping_run(tiny_run, tmp_path):
    """A copy of a finished run of whose MaskSyn samples nothing was kept."""
    run = RunFolder(shutil.copytree(tiny_run, tmp_path / "run"))
    for log in (run.synthetic / "dropped").glob("masksyn-*.json"):
        entry = json.loads(log.read_text())
        sample = {"image_id": "x", "caption": "a lake | at night", "reason": "undecodable"}
        entry |= {"num_kept": 0, "dropped": [sample] * entry["num_samples"]}
        log.write_text(json.dumps(entry))
    return run


def test_a_report_counts_what_was_dropped_and_names_no_arm_after_it(dropping_run, tiny_run):
    made = {entry.kind: entry for entry in count_made(dropping_run)}
    assert made["masksyn"].kept == 0 and made["masksyn"].reasons == {"undecodable": made["masksyn"].made}
    assert made["imgsyn"].kept == made["imgsyn"].made > 0 and not made["imgsyn"].reasons
    arms = ["real", "imgsyn", "masksyn", "synthetic"]
    assert absent_kinds(list(made.values()), arms) == {"masksyn": ["masksyn"], "synthetic": ["masksyn"]}
    assert describe_arms(list(made.values()), arms)["synthetic"].endswith("(no sample of MaskSyn was kept)")
    write_report(dropping_run)
    for path in (dropping_run.report, dropping_run.report_text):
        text = path.read_text()
        assert "no sample of MaskSyn was kept" in text and "What to try next" in text
        assert "too many pixels are near no label" in text and "100.0%" in text and "at night" in text
    write_report(shutil.copytree(tiny_run, dropping_run.path.parent / "whole"))
    whole = (dropping_run.path.parent / "whole" / "report.md").read_text()
    assert "Nothing was left out." in whole and "no sample of" not in whole
