"""The plan of a whole run, and `seggen plan`."""

import json

import pytest
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import DataConfig, SegmenterConfig, Text2MaskConfig, load_recipe, parse_config, save_recipe
from seggen_hf.config.presets import MEMORY, PRESETS
from seggen_hf.labels import LabelSet
from seggen_hf.plan.gpus import EFFICIENCY, Gpu, choose_gpus
from seggen_hf.plan.run_plan import RunPlan, plan_recipe
from seggen_hf.plan.stage_plan import GIB, KINDS, StagePlan
from seggen_hf.runs.preflight import plan_run


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_plan_covers_every_stage_of_a_run(tiny_recipe):
    result = call("plan", tiny_recipe, "--gpu", "h100", "--gpu", "t4", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    stages = {stage["name"]: stage for stage in plan["stages"]}
    assert list(stages) == [
        "text2mask",
        "mask2img",
        "synthesize masksyn",
        "synthesize imgsyn",
        "segmenter",
        "evaluate",
    ]
    recipe = load_recipe(tiny_recipe)
    segmenters = len(recipe.evaluation.arms) * len(recipe.evaluation.seeds)
    assert stages["segmenter"]["times"] == stages["evaluate"]["times"] == segmenters
    assert stages["synthesize imgsyn"]["samples"] == plan["num_records"] * recipe.synthesis.imgsyn_variants
    for stage in stages.values():
        assert stage["peak"] > 0 and stage["flops"] > 0
        for name in ("h100", "t4"):
            assert stage["gpus"][name]["samples_per_second"] > 0 and stage["gpus"][name]["hours"] > 0
    assert plan["peak"] == max(stage["peak"] for stage in stages.values())
    assert plan["gpus"]["h100"]["fits"] and plan["gpus"]["t4"]["hours"] > plan["gpus"]["h100"]["hours"]
    assert plan["push"] > sum(stage["push"] for stage in stages.values()) - 1
    trained = stages["text2mask"]["trained"]
    assert f"checkpoints, 2 of {12 * trained / 1e9:.2f} GB" in stages["text2mask"]["disk"]


def test_a_card_that_is_not_known_is_a_wrong_argument(tiny_recipe):
    result = call("plan", tiny_recipe, "--gpu", "abacus")
    assert result.exit_code == 2 and "abacus" in result.stderr and "h100" in result.stderr
    result = call("plan", tiny_recipe, "--preset", "13gb")
    assert result.exit_code == 2 and "there are 12gb, 16gb" in result.stderr


def run_of(peak: float, **settings) -> RunPlan:
    stage = StagePlan("text2mask", "text2mask", {}, memory={"all": int(peak * GIB)}, **settings)
    return RunPlan("x", 1, [stage], [1], None)


def test_a_card_keeps_a_tenth_free():
    card = Gpu(20.0, 100.0, 10.0, "made up")
    assert run_of(17.9).fits(card) and not run_of(18.1).fits(card)
    assert run_of(17.9).verdict("card", card).startswith("card: fits, peak 17.9 of 20 GiB (text2mask)")
    assert "leaves less than a tenth free" in run_of(18.1).verdict("card", card)
    assert (
        run_of(21)
        .verdict("card", card, "12gb")
        .endswith("does not fit, peak 21.0 of 20 GiB (text2mask); --preset 12gb fits")
    )


def test_time_follows_from_operations_and_the_rate_of_the_precision():
    card = Gpu(20.0, 100.0, 10.0, "made up")
    half, single = (run_of(1, samples=1000, flops=1e12, precision=p) for p in ("bf16", "no"))
    assert single.hours(card) == pytest.approx(10 * half.hours(card))
    assert half.hours(card) == pytest.approx(1e15 / (EFFICIENCY["text2mask"] * 100e12) / 3600)
    several = RunPlan("x", 4, half.stages, [3], None)
    assert several.hours(card) == pytest.approx(3 * half.hours(card) / 4)


@pytest.mark.slow
def test_the_data_of_known_labels_need_not_be_there():
    plan = plan_recipe(load_recipe("ade20k_sdxl"), LabelSet.builtin("ade20k"), measure=False)
    assert plan.num_records == 20_210 and any("20,210 records" in note for note in plan.notes)
    samples = {stage.name: stage.samples for stage in plan.stages}
    assert samples["synthesize masksyn"] == 202_100 and samples["synthesize imgsyn"] == 1_010_500  # the paper's


# Presets


def test_a_preset_is_laid_between_the_recipe_and_what_is_set(tmp_path):
    recipe = load_recipe("ade20k_sdxl", ["text2mask.lora_rank=8", "preset=24gb"])
    assert recipe.text2mask.lora_rank == 8 and recipe.text2mask.train_batch_size == 4
    assert recipe.mask2img.optimizer == "adamw_8bit" and recipe.synthesis.offload == "model"
    assert (recipe.segmenter.train_batch_size, recipe.segmenter.gradient_accumulation_steps) == (8, 2)
    file = tmp_path / "own.yaml"
    save_recipe(recipe, file)
    assert load_recipe(file) == recipe  # all settings stand there: the preset itself is not needed again
    file.write_text("name: own\npreset: 12gb\ntext2mask: {train_batch_size: 6}\n")
    own = load_recipe(file)
    assert own.mask2img.lora_rank == 32 and not own.mask2img.train_base
    assert (own.text2mask.train_batch_size, own.text2mask.gradient_accumulation_steps) == (2, 3)
    assert load_recipe(file, ["preset=80gb"]).mask2img.lora_rank == 0


def test_the_scripts_take_a_preset():
    config, data = parse_config(
        Text2MaskConfig, DataConfig, argv=["ade20k_sdxl", "--preset", "24gb", "--lora_rank", "4"]
    )
    assert (config.lora_rank, config.learning_rate, data.height) == (4, 1e-4, 768)
    (config,) = parse_config(SegmenterConfig, argv=["--preset=12gb"])
    assert (config.train_batch_size, config.gradient_accumulation_steps) == (2, 8)
    with pytest.raises(ValueError, match="no preset '13gb'; there are 12gb"):
        parse_config(SegmenterConfig, argv=["--preset", "13gb"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_the_samples_of_a_step(name):
    before, after = load_recipe("ade20k_sdxl"), load_recipe("ade20k_sdxl", [f"preset={name}"])
    for section in ("text2mask", "mask2img"):
        a, b = getattr(before, section), getattr(after, section)
        assert a.train_batch_size * a.gradient_accumulation_steps == b.train_batch_size * b.gradient_accumulation_steps
    assert after.segmenter.batch_warning(processes=1) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("12gb", KINDS),
        ("16gb", ("synthesize", "segmenter", "evaluate")),  # its generators differ in nothing but larger batches
        ("24gb", ("mask2img", "synthesize", "segmenter")),
        ("48gb", ("text2mask", "synthesize", "segmenter")),
    ],
)
def test_a_preset_leaves_a_tenth_of_its_card_free(name, kinds):
    card = Gpu(MEMORY[name], 1.0, 1.0, "the smallest of its size")
    plan = plan_recipe(load_recipe("ade20k_sdxl", [f"preset={name}"]), LabelSet.builtin("ade20k"), kinds=kinds)
    assert plan.fits(card), plan.verdict(name, card)


def test_hours_without_a_card_are_told_where_somebody_would_wait_for_them():
    planned, _ = plan_run(load_recipe("quickstart"))
    assert planned.cpu_hours == pytest.approx(0.5, rel=0.15)  # docs/walkthrough.md: 1,816 s of stages
    cards = choose_gpus(["rtx4090"])
    assert "without a card: about 3" in planned.to_text(cards, {"rtx4090": None})
    assert planned.to_dict(cards, {})["cpu_hours"] == planned.cpu_hours
    planned.times = [1_000 * times for times in planned.times]
    assert "without a card" not in planned.to_text(cards, {"rtx4090": None})
