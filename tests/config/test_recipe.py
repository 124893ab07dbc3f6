import numpy as np
import pytest
import yaml

from seggen_hf.arms import ARMS, arm_config
from seggen_hf.config import (
    DataConfig,
    EvaluationConfig,
    SegmenterConfig,
    Text2MaskConfig,
    load_recipe,
    parse_config,
    preset_of,
    save_recipe,
)
from seggen_hf.config.values import builtin_recipes
from seggen_hf.data.mixture import RecordMixture


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: {height: 128, width: 96, test_splits: [val, night]}\n"
        "text2mask:\n  learning_rate: 1e-5\n  revision: 1234567\n  width: 64\n"
        "segmenter: {crop_height: 96}\nevaluation: {seeds: [0, 1]}\n"
    )
    return path


def test_flags_override_the_recipe_and_reach_every_class_that_has_them(recipe_file):
    argv = [str(recipe_file), "--height", "32", "--learning-rate", "3e-4", "--no_resume", "--test_splits", "a", "b"]
    text2mask, data = parse_config(Text2MaskConfig, DataConfig, argv=argv)
    assert (text2mask.height, data.height) == (32, 32) and (text2mask.width, data.width) == (64, 96)
    assert text2mask.learning_rate == 3e-4 and text2mask.resume is False
    assert data.test_splits == ["a", "b"]


def test_without_recipe_or_flags_the_defaults_hold():
    assert parse_config(SegmenterConfig, EvaluationConfig, argv=[]) == (SegmenterConfig(), EvaluationConfig())


def test_yaml_that_is_text_or_number_becomes_what_the_field_is(recipe_file):
    recipe = load_recipe(recipe_file)
    assert recipe.name == "mine"
    assert recipe.text2mask.learning_rate == 1e-5 and recipe.text2mask.revision == "1234567"
    assert recipe.evaluation.seeds == [0, 1]


def test_generators_work_at_the_datas_size_unless_they_say_otherwise(recipe_file):
    recipe = load_recipe(recipe_file, ["data.height=160"])
    assert (recipe.text2mask.height, recipe.text2mask.width) == (160, 64)
    assert (recipe.mask2img.height, recipe.mask2img.width) == (160, 96)


def test_a_saved_recipe_is_read_back_equal(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["name=other", "segmenter.p_aug=0.25", "synthesis.caption_styles=[at night]"])
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe
    assert yaml.safe_load((tmp_path / "saved.yaml").read_text())["synthesis"]["caption_styles"] == ["at night"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dta.height=8", "no section 'dta'. Did you mean 'data'?"),
        ("data.hight=8", "section data: there is no setting 'hight'. Did you mean 'height'?"),
        ("data.height=tall", "section data: height is 'tall'; it must be a whole number."),
        ("data.height=7", "section data: --height is 7; it must be a multiple of 8"),
        ("segmenter.resume=maybe", "resume is 'maybe'; it must be true or false."),
        ("evaluation.seeds=3", "seeds is 3; it must be a list"),
        ("height", "write section.key=value"),
        ("data.test_splits=[val", "--set data.test_splits=[val: '[val' is not YAML"),
        ("data.test_splits=[val, val]", "without repetitions"),
        ("evaluation.seeds=[1, 1]", "--seeds is [1, 1]; it must be without repetitions"),
        ("evaluation.seeds=[-1]", "0 or positive"),
        ("evaluation.arms=[]", "--arms is []; it must be at least one arm"),
        ("evaluation.arms=[real, real]", "without repetitions"),
        ("evaluation.eval_batch_size=0", "--eval_batch_size is 0; it must be positive"),
        ("segmenter.logging_steps=0", "--logging_steps is 0; it must be positive"),
        ("segmenter.crop_width=0", "--crop_width is 0; it must be positive"),
        ("text2mask.seed=-1", "--seed is -1"),
        ("mask2img.num_validation_images=-1", "--num_validation_images is -1"),
        ("mask2img.validation_inference_steps=0", "--validation_inference_steps is 0"),
        ("caption.max_new_tokens=0", "--max_new_tokens is 0"),
        ("synthesis.max_color_distance=0", "--max_color_distance is 0"),
        ("segmenter.synthetic_mode=pretrain", "--synthetic_until below 1"),
    ],
)
def test_a_wrong_override_is_one_clear_line(recipe_file, override, message):
    with pytest.raises(ValueError) as error:
        load_recipe(recipe_file, [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_saved_recipe_leaves_the_generators_at_the_datas_size(recipe_file, tmp_path):
    save_recipe(load_recipe(recipe_file), tmp_path / "saved.yaml")
    recipe = load_recipe(tmp_path / "saved.yaml", ["data.height=160"])
    assert (recipe.text2mask.height, recipe.mask2img.height, recipe.text2mask.width) == (160, 160, 64)


def test_a_recipe_stands_on_another(recipe_file, tmp_path, monkeypatch):
    upper = tmp_path / "deeper" / "upper.yaml"
    upper.parent.mkdir()
    upper.write_text("base: ../mine.yaml\npreset: 24gb\ndata: {width: 192}\nevaluation: {seeds: [5]}\n")
    monkeypatch.chdir(upper.parent)  # not the folder that `base` is read from
    recipe, lower = load_recipe(upper), load_recipe(recipe_file)
    assert recipe.name == "upper" and preset_of(upper) == "24gb"
    assert (recipe.data.height, recipe.data.width, recipe.evaluation.seeds) == (128, 192, [5])
    assert recipe.data.test_splits == lower.data.test_splits and recipe.text2mask.revision == "1234567"
    assert (recipe.mask2img.width, recipe.text2mask.width) == (192, 64)  # text2mask has its own

    top = tmp_path / "top.yaml"
    top.write_text("base: deeper/upper.yaml\n")
    assert preset_of(top) == "24gb" and load_recipe(top).evaluation.seeds == [5]
    built_in = tmp_path / "longer.yaml"
    built_in.write_text("base: quickstart\nname: longer\nsegmenter: {max_train_steps: 2000}\n")
    assert load_recipe(built_in).segmenter.max_train_steps == 2000
    assert load_recipe(built_in).text2mask == load_recipe("quickstart").text2mask


def test_the_word_no_is_a_precision(recipe_file):
    assert load_recipe(recipe_file, ["segmenter.mixed_precision=no"]).segmenter.mixed_precision == "no"


@pytest.mark.parametrize("name", builtin_recipes())
def test_every_arm_of_a_built_in_recipe_can_draw_its_records(name, tmp_path):
    recipe = load_recipe(name)
    for arm in {*recipe.evaluation.arms, "synthetic-only"}:
        config = arm_config(ARMS[arm], recipe.segmenter, 0, tmp_path, tmp_path / "made")
        mixture = RecordMixture(10, 10 if ARMS[arm].kinds else 0, config)
        rng = np.random.default_rng(0)
        steps = (0, config.max_train_steps // 3, config.max_train_steps - 1)
        drawn = {mixture.pick(index, rng, step)[0] for step in steps for index in range(mixture.num_records)}
        assert drawn == ({True} if arm == "synthetic-only" else {False, True} if ARMS[arm].kinds else {False})


def test_a_batch_that_the_settings_are_not_meant_for_is_warned_of():
    config = load_recipe("coco_panoptic_sdxl").segmenter
    assert config.batch_warning(8) is None and SegmenterConfig().batch_warning(3) is None
    assert "2 x gradient_accumulation_steps 1 x 1 processes = 2" in config.batch_warning(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dataset: {height: 64}", "has no section 'dataset'. Did you mean 'data'?"),
        ("data: [1, 2]", "section data, holds [1, 2]"),
        ("- 1", "must hold `name: value` lines"),
        ("data: {height: 64", "is not YAML"),
        ("base: wrong.yaml", "wrong.yaml stands on itself"),
        ("base: quickstrat", "wrong.yaml, base: There is no recipe quickstrat. Did you mean 'quickstart'?"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "wrong.yaml").write_text(content)
    with pytest.raises(ValueError) as error:
        load_recipe(tmp_path / "wrong.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lerning_rate", "1"], "There is no --lerning_rate. Did you mean '--learning_rate'?"),
        (["--max_train_steps", "many"], "invalid int value: 'many'"),
        (["--ema_decay", "2"], "--ema_decay is 2.0; it must be in [0, 1)."),
        (["--learning_rate"], "expected one argument"),
        (["ade20k_sxdl"], "There is no recipe ade20k_sxdl. Did you mean 'ade20k_sdxl'?"),
    ],
)
def test_wrong_flags_are_one_clear_line(argv, message):
    with pytest.raises(ValueError) as error:
        parse_config(Text2MaskConfig, argv=argv)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ade20k_sdxl", "coco_panoptic_sdxl"])
def test_full_size_recipes_draw_in_the_precision_of_their_training(name):
    recipe = load_recipe(name)
    assert recipe.synthesis.mixed_precision == recipe.mask2img.mixed_precision == "bf16"
