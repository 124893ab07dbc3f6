"""How far a run is can be read from its folder alone."""

import json
import os
import time

import pytest
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.runs import preflight
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.lock import lock_run
from seggen_hf.runs.stage_marker import DONE, STARTED
from seggen_hf.runs.stages import list_stages
from seggen_hf.runs.status import RunStatus, StageStatus


def status(run, *words):
    done = CliRunner().invoke(app, ["status", str(run), *words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if words else done.stdout


def reopen(folder, steps_done=None):
    """A finished stage as it was while it went on."""
    marker = json.loads((folder / DONE).read_text())
    (folder / DONE).unlink()
    (folder / STARTED).write_text(json.dumps(marker))
    (folder / "history.jsonl").unlink(missing_ok=True)
    if steps_done:
        lines = [{"step": step, "loss": 1.0, "samples_per_second": 4.0} for step in range(1, steps_done + 1)]
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')


def test_a_finished_run_is_told_as_such(tiny_run):
    found = status(tiny_run, "--json")
    assert found["done"] == len(found["stages"]) == 6 and found["process"] is None
    text = status(tiny_run)
    assert "captions" in text and "6 of 6 stages are done." in text and "goes on" not in text


def test_trainings_tell_their_steps_and_what_is_left(run_copy):
    reopen(run_copy / "segmenter-synthetic/seed-0", 1)
    reopen(run_copy / "segmenter-real/seed-0")
    (run_copy / "synthetic" / DONE).unlink()
    found = {stage["name"]: stage for stage in status(run_copy, "--json")["stages"]}
    training = found["segmenter-synthetic/seed-0"]
    assert (training["state"], training["step"], training["steps"]) == ("begun", 1, 2)
    assert training["left"] == 0.5 and training["silent"] < 60  # one step of 2 samples, at 4 samples a second
    assert found["synthetic"]["state"] == "waiting" and found["segmenter-real/seed-0"]["step"] == 0
    past = time.time() - 3600
    os.utime(run_copy / "segmenter-synthetic/seed-0/history.jsonl", (past, past))
    text = status(run_copy)
    assert "step 1 of 2, about 0 s left; nothing new for 60 min" in text
    assert "No process works on it: `seggen run" in text and "Last line of its log" in text


def made(name, state="waiting", **facts):
    return StageStatus(name, state, **facts)


def test_what_is_left_of_the_run_follows_from_what_was_done():
    """A waiting segmenter takes as long as the others did; of other stages nobody knows; two jobs halve it."""
    done = made("segmenter-real/seed-0", "done", seconds=100.0)
    goes_on = made("segmenter-real/seed-1", "begun", seconds=50.0, step=30, steps=40, left=30.0)
    waits = [made(f"segmenter-synthetic/seed-{seed}", steps=40) for seed in range(3)]
    run = RunStatus("r", None, [made("mask2img", steps=9), done, goes_on, *waits], None)
    assert run.left == (30 + 3 * 100, 1)
    assert run.tell_left() == "about 6 min left, and 1 stage whose time is not known yet"
    assert RunStatus("r", None, run.stages, None, jobs=2).left == (165, 1)
    first = RunStatus("r", None, [goes_on, *waits], None)
    assert first.left == (30 + 3 * 120, 0)  # the one that goes on will have taken 120
    assert RunStatus("r", None, [goes_on, *waits[:1]], None, jobs=2).left == (120, 0)  # no less than the longest
    assert RunStatus("r", None, waits, None).tell_left() == RunStatus("r", None, [done], None).tell_left() == ""


def test_stages_that_wait_take_what_the_plan_says_at_the_rate_of_those_that_are_done():
    done = made("text2mask", "done", seconds=200.0, work=100.0)
    waits = [
        made("mask2img", steps=9, work=50.0),
        made("synthetic", work=10.0),
        made("segmenter-real/seed-0", work=5.0),
    ]
    assert RunStatus("r", None, [done, *waits], None).left == (130, 0)
    goes_on = made("mask2img", "begun", seconds=30.0, step=10, steps=40, left=120.0, work=40.0)  # 160 in all
    assert RunStatus("r", None, [done, goes_on, *waits[1:]], None).left[0] == pytest.approx(120 + 15 * 360 / 140)
    began = made("synthetic", "begun", seconds=15.0, work=10.0)
    assert RunStatus("r", None, [done, began], None).left == (5, 0)
    trained = made("segmenter-real/seed-0", "done", seconds=7.0, work=5.0)
    assert RunStatus("r", None, [trained, made("segmenter-real/seed-1", work=5.0)], None).left == (7, 0)
    assert RunStatus("r", None, waits, None).left == (0, 3)  # nothing is done that could tell


def test_a_run_of_many_steps_is_planned_once_for_what_is_left_of_it(run_copy, monkeypatch):
    run = RunFolder(run_copy)
    recipe, stages = run.recipe(), list_stages(run.recipe(), run)
    preflight.plan_work(recipe, run, stages)
    assert not run.work.exists()  # it is over in seconds
    monkeypatch.setattr(preflight, "LONG", 1)
    preflight.plan_work(recipe, run, stages)
    written = run.work.stat().st_mtime_ns
    for stage in ("mask2img", "synthetic", "segmenter-synthetic/seed-0"):
        (run_copy / stage / DONE).unlink()
    found = status(run_copy, "--json")
    assert found["left"] > 0 and found["left_unknown"] == 0
    works = {stage["name"]: stage["work"] for stage in found["stages"] if stage["name"] != "captions"}
    assert len(works) == 5 and all(works.values())
    preflight.plan_work(recipe, run, stages)
    assert run.work.stat().st_mtime_ns == written
    recipe.synthesis.imgsyn_variants += 1
    preflight.plan_work(recipe, run, stages)
    assert status(run_copy, "--json")["left"] != found["left"]


def test_the_process_that_works_on_it_is_named_and_not_disturbed(run_copy):
    with lock_run(run_copy):
        assert status(run_copy, "--json")["process"] == str(os.getpid())
    with lock_run(run_copy):  # asking has left no lock
        pass


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert done.exit_code == 1 and "is no run folder" in done.stderr
