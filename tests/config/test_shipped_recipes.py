"""Every recipe that ships is planned, as `--dry-run` does it, without weights and without the data that it names."""

import re

import pytest
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import load_recipe
from seggen_hf.config.values import builtin_recipes, list_differing
from seggen_hf.plan import run_plan

# Recipes whose data says how many labels it has are planned with data that is here.
OF_FOLDERS = {name: ["data.test_splits=[test]"] for name in ("camvid_mini", "nuclei_mini", "flux2_klein")}


@pytest.fixture(scope="module", autouse=True)
def equal_trainings_are_planned_once():
    """Recipes share generators, and to compute a plan of SDXL takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plan_text2mask", "plan_mask2img"):
            patch.setattr(run_plan, name, _remembering(getattr(run_plan, name)))
        yield


def _remembering(plan):
    found = {}

    def remembered(config, *rest):
        key = repr((list_differing(config), rest))
        if key not in found:
            found[key] = plan(config, *rest)
        return found[key]

    return remembered


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_a_dry_run_tells_what_every_stage_takes_and_writes_nothing(name, tmp_path):
    changes = ["data.dataset_name=scenes", *OF_FOLDERS[name]] if name in OF_FOLDERS else []
    words = [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(app, ["run", name, "--dry-run", "--out", str(tmp_path / "run"), *words])
    assert done.exit_code == 0, done.output
    recipe = load_recipe(name)
    told = {stage: f"{getattr(recipe, stage).max_train_steps:,} steps" for stage in ("mask2img", "segmenter")}
    if recipe.synthesis.masksyn_variants:
        told["text2mask"] = f"{recipe.text2mask.max_train_steps:,} steps"
    for stage, steps in told.items():
        (part,) = re.findall(rf"^{stage}\n(?:  .*\n)+", done.stdout, flags=re.MULTILINE)
        assert steps in part
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(name for name in builtin_recipes() if "_sdxl" in name))
def test_a_step_of_a_recipe_at_full_size_sees_the_papers_batch(name):
    recipe = load_recipe(name)
    processes = 1 if name.endswith("_lora") else 8
    assert recipe.segmenter.batch_warning(processes) is None and recipe.segmenter.total_batch_size == 16
    for stage in (recipe.text2mask, recipe.mask2img):
        assert stage.train_batch_size * stage.gradient_accumulation_steps * processes == 32


@pytest.mark.parametrize(
    ("name", "settings"),  # Mask2Former's: steps, queries, crop, milestones
    [
        ("ade20k_sdxl_swin_large", (160_000, None, 640, None)),
        ("coco_panoptic_sdxl_swin_large", (737_500, 200, 1024, [655_556, 710_184])),
        ("coco_instance_sdxl", (368_750, 100, 1024, [327_778, 355_092])),
    ],
)
def test_segmenters_train_as_mask2former_published_it(name, settings):
    segmenter = load_recipe(name).segmenter
    steps, queries, crop, milestones = settings
    assert (segmenter.max_train_steps, segmenter.num_queries) == (steps, queries)
    assert segmenter.crop_height == segmenter.crop_width == crop
    assert milestones is None or segmenter.lr_milestones == milestones
