import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import load_from_disk

from seggen_hf.arms import list_folders
from seggen_hf.config import load_recipe
from seggen_hf.data.schema import labels_of
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.lock import lock_run
from seggen_hf.runs.preflight import check_run
from seggen_hf.runs.records import data_digest, load_train_records
from seggen_hf.runs.redo import begin_redo, finish_moves, list_redone
from seggen_hf.runs.report import list_costs
from seggen_hf.runs.runner import check_stages, choose_stages, run_stages, select_kinds
from seggen_hf.runs.scores import recipe_hash
from seggen_hf.runs.stage_marker import SettingsChanged, check_stage, fingerprint, list_changes, mark_stage
from seggen_hf.runs.stages import STAGES, list_stages
from seggen_hf.segmenter.sizes import named_config
from seggen_hf.trainers.checkpoints import list_checkpoints


def changed_files(folder, before):
    stamps = file_stamps(folder).items()
    return sorted(name for name, stamp in stamps if before.get(name) != stamp and name != "log/.lock")


def file_stamps(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_second_call_makes_nothing_anew(run_copy, tiny_recipe):
    before = file_stamps(run_copy)
    said = []
    run_stages(load_recipe(tiny_recipe), run_copy, say=said.append)
    kept = [line for line in said if "kept" in line]
    assert len(kept) == 6
    gathered = ("report.", "results.json", "recipe.yaml", "README.md", "log/", "pictures/")
    assert not [name for name in changed_files(run_copy, before) if not any(part in name for part in gathered)]


@pytest.mark.slow
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
    assert "captions: kept, it is finished" in said and any(line.endswith(", mask2img: goes on") for line in said)
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


@pytest.mark.slow
def test_new_arms_and_seeds_are_added_to_a_finished_run(run_copy, tiny_recipe):
    AcceleratorState._reset_state()
    Accelerator(mixed_precision="bf16")  # an earlier training of this process had another precision
    before = file_stamps(run_copy)
    recipe = load_recipe(
        tiny_recipe,
        ["evaluation.arms=[real, synthetic, renderer, style-augmentation, copy-paste]", "data.test_splits=[test]"],
    )
    run_stages(recipe, run_copy)
    results = json.loads((run_copy / "results.json").read_text())
    assert [row["arm"] for row in results["scores"]] == recipe.evaluation.arms
    assert not [name for name in changed_files(run_copy, before) if name.endswith(".safetensors") and name in before]
    config = json.loads((run_copy / "segmenter-style-augmentation/seed-0/run_config.json").read_text())
    assert config["style_augmentation"] and config["synthetic_dataset"] is None and config["copy_paste"] == 0
    config = json.loads((run_copy / "segmenter-copy-paste/seed-0/run_config.json").read_text())
    assert config["copy_paste"] == 0.5 and not config["style_augmentation"] and config["synthetic_dataset"] is None
    rendered, captions = load_from_disk(run_copy / "renderer"), load_from_disk(run_copy / "captions")
    assert rendered["kind"][:] == ["imgsyn", "masksyn"] * 8
    # ImgSyn's ceiling: the same map in another light; MaskSyn's: another scene.
    assert rendered[0]["segmentation_map"].tobytes() == captions[0]["segmentation_map"].tobytes()
    assert rendered[0]["image"].tobytes() != captions[0]["image"].tobytes()
    assert rendered[1]["segmentation_map"].tobytes() != captions[0]["segmentation_map"].tobytes()
    assert rendered[0]["panoptic_map"].tobytes() == captions[0]["panoptic_map"].tobytes()
    assert rendered[0]["segments_info"] == captions[0]["segments_info"] != rendered[1]["segments_info"]


@pytest.mark.slow
def test_redo_sets_aside_a_stage_and_what_reads_it(run_copy, tiny_recipe):
    said = []
    recipe = load_recipe(tiny_recipe, ["synthesis.mask2img_steps=2"])
    run_stages(recipe, run_copy, ["synthesize"], redo=["synthesize"], say=said.append)
    assert (run_copy / "replaced" / "1" / "synthetic" / "stage.json").is_file()
    assert (run_copy / "replaced" / "1" / "segmenter-synthetic" / "seed-0" / "stage.json").is_file()
    assert (run_copy / "replaced" / "1" / "results.json").is_file()
    assert (run_copy / "segmenter-real" / "seed-0" / "stage.json").is_file()
    assert (run_copy / "synthetic" / "stage.json").is_file()


def test_what_a_stage_reads_is_made_before_it(tiny_run, tiny_recipe, tmp_path):
    """From nothing all of it; of a finished run only what is missing, in the order of the run."""
    recipe = load_recipe(tiny_recipe, ["evaluation.arms=[real, synthetic, filtered]"])

    def chosen(folder, *kinds):
        return [stage.name for stage in choose_stages(list_stages(recipe, folder), kinds)]

    real, both, filtered = (f"segmenter-{arm}/seed-0" for arm in ("real", "synthetic", "filtered"))
    generators = ["captions", "text2mask", "mask2img", "synthetic"]
    assert chosen(tmp_path, "segmenter") == [*generators, real, both, "filtered", filtered]
    assert chosen(tmp_path, "filter") == [*generators, real, "filtered"]
    assert chosen(tmp_path, "mask2img") == ["captions", "mask2img"] and chosen(tmp_path, "evaluate") == []
    assert chosen(tiny_run, "segmenter") == [real, both, "filtered", filtered]


def test_nothing_is_scored_where_nothing_is_trained(tiny_recipe, tmp_path):
    with pytest.raises(ValueError, match="no finished segmenter"):
        run_stages(load_recipe(tiny_recipe), tmp_path / "run", ["evaluate"])


def test_stages_are_chosen_by_name_first_and_last():
    assert select_kinds() == list(STAGES)
    chosen = select_kinds(first="synthesize", last="segmenter")
    assert chosen == ["synthesize", "filter", "pseudo", "repaint", "segmenter"]
    assert select_kinds(only=["evaluate"]) == ["evaluate"]
    with pytest.raises(ValueError, match="no stage 'train'"):
        select_kinds(first="train")
    with pytest.raises(ValueError, match="exclude each other"):
        select_kinds(first="report", last="caption")


def test_soft_labels_are_of_the_segmenter_of_real_records(run_copy, tiny_recipe):
    """What is not taught is kept; what is taught comes after its teacher, and is made anew with another one."""
    arms = "evaluation.arms=[imgsyn, real]"
    recipe = load_recipe(tiny_recipe, ["segmenter.soft_labels=0.5", arms])
    by_name = {stage.name: stage for stage in list_stages(recipe, run_copy)}
    taught, judge = by_name["segmenter-imgsyn/seed-0"], by_name["segmenter-real/seed-0"]
    assert (
        judge in taught.inputs and judge.is_done and list(by_name).index(judge.name) < list(by_name).index(taught.name)
    )
    hard = {stage.name: stage for stage in list_stages(load_recipe(tiny_recipe, [arms]), run_copy)}
    assert hard[judge.name].fingerprint == judge.fingerprint
    assert hard[taught.name].fingerprint != taught.fingerprint and hard[taught.name].inputs[-1] is not judge
    said = []
    run_stages(recipe, run_copy, say=said.append)
    assert "segmenter-real/seed-0: kept, it is finished" in said
    facts = json.loads((taught.folder / "run_config.json").read_text())
    assert facts["soft_labels"] == 0.5 and facts["teacher"] == str(judge.folder)


def test_changes_are_listed_old_to_new():
    assert list_changes({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}) == ["b: 2 -> 3", "c: absent -> None"]


def test_a_setting_at_its_default_is_as_one_that_is_absent():
    assert (
        fingerprint({"segmenter.p_aug": 0.6}, {}) == fingerprint({}, {}) != fingerprint({"segmenter.p_aug": 0.5}, {})
    )
    assert list_changes({}, {"segmenter.p_aug": 0.6}) == []
    assert list_changes({}, {"segmenter.p_aug": 0.5}) == ["segmenter.p_aug: 0.6 -> 0.5"]


@pytest.mark.parametrize("case", json.loads(Path(__file__).with_name("stage_fingerprints.json").read_text()))
def test_stages_keep_their_fingerprints(case, tmp_path):
    """With another fingerprint a finished stage is refused: runs that people have would begin anew. The recipes lie
    beside this file, as they shipped once, so that those that ship can change."""
    recipe = load_recipe(Path(__file__).parent / "recipes" / f"{case['recipe']}.yaml", case["settings"])
    stages = list_stages(recipe, tmp_path)
    assert {stage.name: stage.fingerprint for stage in stages} == case["fingerprints"]


def test_a_palette_makes_the_generators_anew_and_not_the_segmenter_of_real_records(tiny_recipe, tmp_path):
    before, now = (
        {stage.name: stage.fingerprint for stage in list_stages(load_recipe(tiny_recipe, settings), tmp_path)}
        for settings in ([], ["data.palette=dataset"])
    )
    assert [name for name in now if now[name] == before[name]] == ["segmenter-real/seed-0"]


@pytest.mark.slow
def test_finished_trainings_give_back_what_only_they_needed(tiny_run, tiny_recipe, tmp_path):
    names = ("text2mask", "mask2img", "segmenter-real/seed-0")
    left = [path for name in names for path in (tiny_run / name).iterdir() if path.name in ("checkpoints", "cache")]
    assert not left
    settings = ["evaluation.keep_checkpoints=true", "text2mask.checkpointing_steps=1"]
    run_stages(load_recipe(tiny_recipe, settings), tmp_path / "kept", kinds=("caption", "text2mask"))
    assert list_checkpoints(tmp_path / "kept" / "text2mask" / "checkpoints")
    assert (tmp_path / "kept" / "text2mask" / "cache").is_dir()
    # It is a setting of how: with another value nothing is made anew.
    stages = list_stages(load_recipe(tiny_recipe, settings[1:]), tmp_path / "kept")
    check_stages(stages, [], None)


def test_listing_stages_loads_no_model_and_no_data():
    heavy = "torch numpy datasets transformers diffusers accelerate".split()
    script = f"import seggen_hf.runs.stages, sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_folders_of_a_run_are_those_of_its_stages(tiny_recipe, tmp_path):
    for settings in (
        ["evaluation.arms=[real, synthetic, renderer, synthetic-only]", "evaluation.seeds=[0, 2]"],
        ["evaluation.arms=[real]"],
        ["synthesis.masksyn_variants=0"],
        ["synthesis.mask2img_model=x"],
        ["evaluation.arms=[self-training, real, filtered]", "data.unlabelled=unlabelled"],
        ["data.unlabelled=unlabelled", "adapt.enabled=false"],
        ["evaluation.arms=[self-training, real]", "data.unlabelled=unlabelled", "adapt.enabled=false"],
    ):
        recipe = load_recipe(tiny_recipe, settings)
        stages = [str(stage.folder.relative_to(tmp_path)) for stage in list_stages(recipe, tmp_path)]
        assert sorted(list_folders(recipe)) == sorted(stages)


@pytest.mark.slow
def test_an_interrupted_redo_goes_on_and_a_new_one_begins_anew(run_copy, tiny_recipe):
    recipe = load_recipe(tiny_recipe, ["segmenter.learning_rate=2e-4"])
    stages = list_stages(recipe, run_copy)
    shutil.copytree(run_copy / "segmenter-real", run_copy / "segmenter-imgsyn")  # the recipe does not name it
    place = begin_redo(run_copy, ["segmenter"], list_redone(stages, ["segmenter"]), stages, recipe_hash(recipe))
    assert (place / "segmenter-imgsyn" / "seed-0").is_dir() and not (run_copy / "segmenter-imgsyn/seed-0").exists()
    # Killed before all was moved: the next call moves the rest.
    shutil.move(place / "segmenter-synthetic/seed-0", run_copy / "segmenter-synthetic/seed-0")
    remembered = RunFolder(run_copy).redo
    entry = json.loads(remembered.read_text())
    remembered.write_text(json.dumps(entry | {"is_moved": False}))
    finish_moves(run_copy)
    assert not (run_copy / "segmenter-synthetic/seed-0").exists()
    real = stages[-2]
    with mark_stage(real.folder, real.name, real.settings, real.fingerprint, data="scenes") as facts:
        facts |= {"steps": 2, "records": 8, "synthetic_records": 0, "trained_parameters": 1}
        named_config("unit").save_pretrained(real.folder)
    said = []
    run_stages(recipe, run_copy, ["segmenter"], redo=["segmenter"], say=said.append)
    assert "segmenter-real/seed-0: kept, it is finished" in said and not remembered.exists()
    assert not (run_copy / "replaced" / "2").exists()


def test_changed_training_data_is_refused_until_captions_are_made_anew(run_copy, tiny_recipe):
    recipe = load_recipe(tiny_recipe)
    stages = list_stages(recipe, run_copy)
    check_stages(stages, [], {"labelled": "scenes"})
    with pytest.raises(SettingsChanged, match="data has changed since .*captions.*--redo caption"):
        check_stages(stages, [], {"labelled": "other"})
    names = [stage.name for stage in list_redone(stages, ["caption"], {"labelled": "other"})]
    assert "segmenter-real/seed-0" in names
    # New captions of the same data leave what reads none as it is.
    names = [stage.name for stage in list_redone(stages, ["caption"], {"labelled": "scenes"})]
    assert "segmenter-real/seed-0" not in names and "segmenter-synthetic/seed-0" in names


def test_the_digest_of_a_folder_changes_with_its_files(tiny_recipe, scene_records, tmp_path):
    for split, rows in (("train", (0, 1)), ("test", (2, 3))):
        write_folder(scene_records, tmp_path / "data", split, rows)
    settings = [f"data.dataset_name={tmp_path / 'data'}", "data.test_splits=[test]", "evaluation.arms=[real]"]
    recipe = load_recipe(tiny_recipe, settings)
    before = data_digest(recipe, load_train_records(recipe))
    for file in (tmp_path / "data").rglob("*.png"):  # a copy made without its times is the same data
        os.utime(file, ns=(1, 1))
    assert before == data_digest(recipe, load_train_records(recipe))
    painted = load_recipe(tiny_recipe, [*settings, "data.palette=dataset"])  # which decides nothing that is in it
    assert before == data_digest(painted, load_train_records(painted))
    check_run(recipe, tmp_path / "run")
    shutil.copyfile(tmp_path / "data/test/images/2.png", tmp_path / "data/train/images/0.png")
    assert data_digest(recipe, load_train_records(recipe)) != before
    with pytest.raises(ValueError, match="2 of the test split 'test' is the same image as 0 of 'train'"):
        check_run(recipe, tmp_path / "run")


def write_folder(records, folder, split, rows):
    for name in ("images", "masks"):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    for row in rows:
        records[row]["image"].save(folder / split / "images" / f"{row}.png")
        records[row]["segmentation_map"].save(folder / split / "masks" / f"{row}.png")
    colored = zip(labels_of(records).id2label.items(), labels_of(records).colors, strict=True)
    categories = [{"id": i, "name": name, "color": color} for (i, name), color in colored]
    (folder / "classes.json").write_text(json.dumps({"ignore_index": 255, "categories": categories}))


def test_a_stage_that_failed_before_its_first_file_takes_corrected_settings(tmp_path):
    with pytest.raises(OSError), mark_stage(tmp_path / "a", "a", {"caption.captioner": "wrong"}, "x"):
        raise OSError
    check_stage(tmp_path / "a", {"caption.captioner": "right"}, "y")
    (tmp_path / "a" / "progress.jsonl").write_text("{}")
    with pytest.raises(SettingsChanged, match="caption.captioner: wrong -> right"):
        check_stage(tmp_path / "a", {"caption.captioner": "right"}, "y")


def test_two_processes_do_not_share_a_run_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from seggen_hf.runs.lock import lock_run\n"
        "with lock_run(Path(sys.argv[1])): print('has it', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(ValueError, match=f"in use by process {other.pid}"), lock_run(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with lock_run(tmp_path):  # the dead hold no lock
        assert (tmp_path / "log" / ".lock").read_text() == str(os.getpid())


def test_markers_and_scores_hold_versions_and_command_but_no_folder(tiny_run):
    for path in [*tiny_run.rglob("stage.json"), *tiny_run.rglob("evaluation.json")]:
        content = json.loads(path.read_text())
        for entry in [content] if "stage" in content else content.values():
            assert entry["versions"]["torch"] and entry["command"] == "seggen run tiny.yaml", path
    for name in ("text2mask/README.md", "synthetic/README.md", "synthetic/manifest.json", "report.md"):
        assert str(tiny_run.parent) not in (tiny_run / name).read_text(), name
    assert "seggen run tiny.yaml" in (tiny_run / "text2mask" / "README.md").read_text()


@pytest.mark.slow
def test_results_name_what_was_scored_and_what_is_missing(run_copy, tiny_recipe):
    recipe = load_recipe(tiny_recipe, ["evaluation.seeds=[0, 1]"])
    run_stages(recipe, run_copy, ["evaluate", "report"], command="seggen evaluate x")
    results = json.loads((run_copy / "results.json").read_text())
    assert results["seeds"] == {"real": [0], "synthetic": [0]} and results["command"] == "seggen run tiny.yaml"
    assert results["not_trained"] == ["segmenter-real/seed-1", "segmenter-synthetic/seed-1"]
    assert "Not trained yet, hence not scored: segmenter-real/seed-1" in (run_copy / "report.md").read_text()


@pytest.mark.slow
def test_an_arm_that_the_recipe_dropped_leaves_the_report(run_copy, tiny_recipe):
    run_stages(load_recipe(tiny_recipe, ["evaluation.arms=[real]"]), run_copy)
    assert [row["stage"] for row in list_costs(run_copy)] == ["captions", "segmenter-real/seed-0", "evaluate"]
    assert (run_copy / "segmenter-synthetic" / "seed-0" / "stage.json").is_file()
