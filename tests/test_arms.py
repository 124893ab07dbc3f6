import pytest

from seggen_hf.arms import ARMS, arm_config, check_arms, shown_arm
from seggen_hf.config import SegmenterConfig, load_recipe


@pytest.mark.parametrize(
    ("arms", "shown"),
    [
        (["real", "imgsyn", "synthetic"], "synthetic"),
        (["real", "synthetic", "synthetic-copy-paste"], "synthetic-copy-paste"),
        (["real", "masksyn"], "masksyn"),
        (["real", "imgsyn-copy-paste", "imgsyn"], "imgsyn-copy-paste"),
        (["style-augmentation", "real"], "real"),
        (["renderer", "style-augmentation"], "renderer"),  # what there is
    ],
)
def test_a_segmenter_with_synthetic_data_is_shown_first(arms, shown):
    assert shown_arm(load_recipe("quickstart", [f"evaluation.arms={arms}"])) == shown


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["evaluation.arms=[real, renderer]", "data.dataset_name=elsewhere"], "renderer.*built-in scenes"),
        (["synthesis.imgsyn_variants=0", "evaluation.arms=[real, imgsyn]"], "imgsyn_variants is 0"),
        (["segmenter.synthetic_dataset=x"], "makes its own"),
        (["segmenter.style_augmentation=true"], "into every arm"),
        (["segmenter.teacher=x"], "takes its own segmenter"),
        (
            ["segmenter.soft_labels=0.5", "evaluation.arms=[synthetic]"],
            "'synthetic' needs the segmenter of arm 'real'",
        ),
        (["segmenter.soft_labels=0.5", "data.task=panoptic"], "for task semantic"),
    ],
)
def test_arms_that_cannot_be_are_refused(tiny_recipe, settings, told):
    with pytest.raises(ValueError, match=told):
        check_arms(load_recipe(tiny_recipe, settings))


def test_arms_differ_in_their_records_only(tmp_path):
    config = SegmenterConfig(max_train_steps=7)
    configs = {name: vars(arm_config(arm, config, 3, tmp_path, tmp_path / "made")) for name, arm in ARMS.items()}
    differing = {key for other in configs.values() for key in other if other[key] != configs["real"][key]}
    assert differing == {"synthetic_dataset", "style_augmentation", "copy_paste", "synthetic_mode"}
    assert configs["synthetic-only"]["synthetic_mode"] == "only"
    assert configs["real"]["synthetic_dataset"] is None and configs["real"]["max_train_steps"] == 7
    both = configs["synthetic-copy-paste"]
    assert both == configs["synthetic"] | {"copy_paste": configs["copy-paste"]["copy_paste"]} and both["copy_paste"]
    assert configs["imgsyn-copy-paste"] == both


@pytest.mark.parametrize("arm", ["copy-paste", "synthetic-copy-paste", "imgsyn-copy-paste"])
def test_an_arm_of_copy_paste_is_refused_where_all_paste(arm):
    with pytest.raises(ValueError, match=f"'{arm}' would be a second"):
        check_arms(load_recipe("quickstart", ["segmenter.copy_paste=0.5", f"evaluation.arms=[real, {arm}]"]))


def test_settings_that_an_arm_does_not_read_do_not_change_it(tmp_path):
    one = SegmenterConfig(synthetic_mode="joint", p_aug=0.1, synthetic_until=0.5)
    for name in ("real", "style-augmentation", "synthetic-only"):
        arm = ARMS[name]
        assert arm_config(arm, one, 0, tmp_path, tmp_path) == arm_config(arm, SegmenterConfig(), 0, tmp_path, tmp_path)
    assert arm_config(ARMS["imgsyn"], one, 0, tmp_path, tmp_path).p_aug == 0.1
