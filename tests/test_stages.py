import json
import shutil

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import load_from_disk

from seggen_hf.arms import ARMS, arm_config, check_arms
from seggen_hf.config import SegmenterConfig
from seggen_hf.markers import SettingsChanged, list_changes
from seggen_hf.preflight import check_run
from seggen_hf.recipe import load_recipe
from seggen_hf.runs import run_stages, select_kinds
from seggen_hf.stages import STAGES, list_stages


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    """A copy of the finished run that a test may change."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def changed_files(folder, before):
    return sorted(name for name, stamp in file_stamps(folder).items() if before.get(name) != stamp)


def file_stamps(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_run_leaves_every_artefact_with_its_cost(tiny_run):
    for name in (
        "captions",
        "text2mask",
        "mask2img",
        "synthetic",
        "segmenter-real/seed-0",
        "segmenter-synthetic/seed-0",
    ):
        marker = json.loads((tiny_run / name / "stage.json").read_text())
        assert marker["seconds"] > 0 and 0.05 < marker["peak_memory_gb"] < 8
        assert not (tiny_run / name / "stage.started.json").exists()
    for name in ("recipe.yaml", "results.json", "report.md", "report.html", "log/run.log", "synthetic/README.md"):
        assert (tiny_run / name).is_file()


def test_results_hold_every_arm_seed_and_split_with_protocol_and_versions(tiny_run):
    results = json.loads((tiny_run / "results.json").read_text())
    rows = {(row["arm"], row["seed"], row["split"]): row for row in results["scores"]}
    assert set(rows) == {(arm, 0, split) for arm in ("real", "synthetic") for split in ("test", "unseen")}
    for row in rows.values():
        assert 0 <= row["mIoU"] <= 1 and len(row["per_label"]) == 15 and "confusion matrix" in row["protocol"]
        assert row["steps"] == 2
    assert rows["synthetic", 0, "test"]["synthetic_records"] == 16
    assert results["versions"]["torch"] and results["command"] == "seggen run tiny.yaml"


def test_the_second_call_makes_nothing_anew(run_copy, tiny_recipe):
    before = file_stamps(run_copy)
    said = []
    run_stages(load_recipe(tiny_recipe), run_copy, say=said.append)
    kept = [line for line in said if "kept" in line]
    assert len(kept) == 6
    gathered = ("report.", "results.json", "recipe.yaml", "README.md", "log/", "pictures/")
    assert not [name for name in changed_files(run_copy, before) if not any(part in name for part in gathered)]


def test_a_stage_that_failed_halfway_goes_on_and_earlier_ones_are_kept(tiny_recipe, tmp_path):
    out = tmp_path / "run"
    # The cache's limit fails inside the training, after the stage has begun; it is no setting of the result.
    recipe = load_recipe(tiny_recipe, ["mask2img.cache_max_gb=1e-9", "synthesis.masksyn_variants=0"])
    with pytest.raises(ValueError, match="cache_max_gb"):
        run_stages(recipe, out, select_kinds(last="mask2img"))
    assert (out / "captions" / "stage.json").is_file()
    assert (out / "mask2img" / "stage.started.json").is_file() and not (out / "mask2img" / "stage.json").exists()
    said = []
    recipe = load_recipe(tiny_recipe, ["synthesis.masksyn_variants=0"])
    run_stages(recipe, out, select_kinds(last="synthesize"), say=said.append)
    assert "captions: kept, it is finished" in said and "mask2img: goes on" in said
    assert json.loads((out / "mask2img" / "stage.json").read_text())["resumed"]
    assert not (out / "text2mask").exists()  # nothing that is to be made needs it
    assert json.loads((out / "synthetic" / "stage.json").read_text())["facts"] == {"records": 8, "imgsyn": 8}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("mask2img.learning_rate=0.1", r"mask2img .*mask2img.learning_rate: 1e-05 -> 0.1.*--redo mask2img"),
        ("data.max_train_records=7", r"captions .*data.max_train_records: 8 -> 7"),
        ("segmenter.max_train_steps=3", r"segmenter-real.*segmenter.max_train_steps: 2 -> 3.*--redo segmenter"),
    ],
)
def test_changed_settings_of_a_finished_stage_are_refused_and_nothing_is_touched(run_copy, tiny_recipe, setting, told):
    before = file_stamps(run_copy)
    with pytest.raises(SettingsChanged, match=told):
        run_stages(load_recipe(tiny_recipe, [setting]), run_copy)
    assert not changed_files(run_copy, before)


def test_settings_that_change_no_result_are_not_refused(tiny_run, tiny_recipe):
    recipe = load_recipe(tiny_recipe, ["mask2img.logging_steps=3", "synthesis.batch_size=2"])
    stages = {stage.name: stage for stage in list_stages(recipe, tiny_run)}
    done = json.loads((tiny_run / "mask2img" / "stage.json").read_text())
    assert stages["mask2img"].fingerprint == done["fingerprint"]


def test_new_arms_and_seeds_are_added_to_a_finished_run(run_copy, tiny_recipe):
    AcceleratorState._reset_state()
    Accelerator(mixed_precision="bf16")  # an earlier training of this process had another precision
    before = file_stamps(run_copy)
    recipe = load_recipe(
        tiny_recipe, ["evaluation.arms=[real, synthetic, renderer, style-augmentation]", "data.test_splits=[test]"]
    )
    run_stages(recipe, run_copy)
    results = json.loads((run_copy / "results.json").read_text())
    assert [row["arm"] for row in results["scores"]] == ["real", "synthetic", "renderer", "style-augmentation"]
    assert not [name for name in changed_files(run_copy, before) if name.endswith(".safetensors") and name in before]
    config = json.loads((run_copy / "segmenter-style-augmentation/seed-0/run_config.json").read_text())
    assert config["style_augmentation"] and config["synthetic_dataset"] is None
    rendered, captions = load_from_disk(run_copy / "renderer"), load_from_disk(run_copy / "captions")
    assert rendered["kind"][:] == ["imgsyn", "masksyn"] * 8
    # ImgSyn's ceiling: the same map in another light; MaskSyn's: another scene.
    assert rendered[0]["segmentation_map"].tobytes() == captions[0]["segmentation_map"].tobytes()
    assert rendered[0]["image"].tobytes() != captions[0]["image"].tobytes()
    assert rendered[1]["segmentation_map"].tobytes() != captions[0]["segmentation_map"].tobytes()


def test_redo_sets_aside_a_stage_and_what_reads_it(run_copy, tiny_recipe):
    said = []
    recipe = load_recipe(tiny_recipe, ["synthesis.mask2img_steps=2"])
    run_stages(recipe, run_copy, ["synthesize"], redo=["synthesize"], say=said.append)
    assert (run_copy / "replaced" / "1" / "synthetic" / "stage.json").is_file()
    assert (run_copy / "replaced" / "1" / "segmenter-synthetic" / "seed-0" / "stage.json").is_file()
    assert (run_copy / "replaced" / "1" / "results.json").is_file()
    assert (run_copy / "segmenter-real" / "seed-0" / "stage.json").is_file()
    assert (run_copy / "synthetic" / "stage.json").is_file()


def test_a_stage_without_its_inputs_is_refused(tiny_recipe, tmp_path):
    with pytest.raises(ValueError, match="captions, which is not finished; run the stage caption first"):
        run_stages(load_recipe(tiny_recipe), tmp_path / "run", ["mask2img"])
    with pytest.raises(ValueError, match="no finished segmenter"):
        run_stages(load_recipe(tiny_recipe), tmp_path / "run", ["evaluate"])


def test_stages_are_chosen_by_name_first_and_last():
    assert select_kinds() == list(STAGES)
    assert select_kinds(first="synthesize", last="segmenter") == ["synthesize", "segmenter"]
    assert select_kinds(only=["evaluate"]) == ["evaluate"]
    with pytest.raises(ValueError, match="no stage 'train'"):
        select_kinds(first="train")
    with pytest.raises(ValueError, match="exclude each other"):
        select_kinds(first="report", last="caption")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["evaluation.arms=[real, renderer]", "data.dataset_name=elsewhere"], "renderer.*built-in scenes"),
        (["synthesis.imgsyn_variants=0", "evaluation.arms=[real, imgsyn]"], "imgsyn_variants is 0"),
        (["segmenter.synthetic_dataset=x"], "makes its own"),
        (["segmenter.style_augmentation=true"], "into every arm"),
    ],
)
def test_arms_that_cannot_be_are_refused(tiny_recipe, settings, told):
    with pytest.raises(ValueError, match=told):
        check_arms(load_recipe(tiny_recipe, settings))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("data.test_splits=[train]", "trained on"),
        ("data.test_splits=[nowhere]", "no split 'nowhere'"),
        ("data.dataset_name=./nowhere", "does not exist"),
        ("mask2img.base_model=/nowhere/model", "mask2img.base_model is '/nowhere/model'"),
        ("segmenter.model=/nowhere/model", "segmenter.model is '/nowhere/model'"),
    ],
)
def test_what_must_fail_fails_before_the_first_stage(tiny_recipe, tmp_path, setting, told):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=told):
        run_stages(load_recipe(tiny_recipe, [setting]), out)
    assert not (out / "captions").exists()


def test_the_check_counts_what_it_read(tiny_recipe, tmp_path):
    counts = check_run(load_recipe(tiny_recipe), tmp_path / "run")
    assert counts == {"records": 8, "labels": 15, "tests": {"test": 4, "unseen": 4}}


def test_arms_differ_in_their_records_only(tmp_path):
    config = SegmenterConfig(max_train_steps=7)
    configs = {name: vars(arm_config(arm, config, 3, tmp_path, tmp_path / "made")) for name, arm in ARMS.items()}
    differing = {key for other in configs.values() for key in other if other[key] != configs["real"][key]}
    assert differing == {"synthetic_dataset", "style_augmentation", "synthetic_mode"}
    assert configs["synthetic-only"]["synthetic_mode"] == "only"
    assert configs["real"]["synthetic_dataset"] is None and configs["real"]["max_train_steps"] == 7


def test_settings_that_an_arm_does_not_read_do_not_change_it(tmp_path):
    one = SegmenterConfig(synthetic_mode="joint", p_aug=0.1, synthetic_until=0.5)
    for name in ("real", "style-augmentation", "synthetic-only"):
        arm = ARMS[name]
        assert arm_config(arm, one, 0, tmp_path, tmp_path) == arm_config(arm, SegmenterConfig(), 0, tmp_path, tmp_path)
    assert arm_config(ARMS["imgsyn"], one, 0, tmp_path, tmp_path).p_aug == 0.1


def test_changes_are_listed_old_to_new():
    assert list_changes({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}) == ["b: 2 -> 3", "c: absent -> None"]
