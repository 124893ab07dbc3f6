"""Trainings in processes of their own: the same results, one error, and nothing that outlives the run."""

import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
from forked_python import client_environment, start_python
from safetensors.numpy import load_file

from seggen_hf.config import load_recipe
from seggen_hf.runs.lock import lock_run
from seggen_hf.runs.runner import run_stages
from seggen_hf.trainers.checkpoints import list_checkpoints

pytestmark = pytest.mark.slow  # each of them needs a run of its own


@pytest.fixture
def untrained_run(tiny_run, tmp_path):
    """A copy of the finished run without its segmenters."""
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    for path in [*folder.glob("segmenter-*"), folder / "predictions"]:
        shutil.rmtree(path)
    (folder / "results.json").unlink()
    return folder


def test_trainings_together_make_what_they_make_one_after_the_other(untrained_run, tiny_run, tiny_recipe, capfd):
    said = []
    shutil.rmtree(untrained_run / "synthetic")
    run_stages(load_recipe(tiny_recipe, ["evaluation.jobs=2"]), untrained_run, command="seggen run x", say=said.append)
    assert "[transformers]" not in capfd.readouterr().err  # nothing that nobody can act on
    names = [f"segmenter-{arm}/seed-0" for arm in ("real", "synthetic")]
    steps = [
        re.sub(r"^stage \d of \d, |; about .* left.*$", "", line.split(" in ")[0])
        for line in said
        if re.search("begins|done in", line)
    ]
    assert steps[:2] == ["synthetic: begins", f"{names[0]}: begins"] and len(steps) == 6
    assert steps.index(f"{names[1]}: begins") == steps.index("synthetic: done") + 1  # it reads them
    for name in names:
        before, after = (load_file(run / name / "model.safetensors") for run in (tiny_run, untrained_run))
        assert before.keys() == after.keys() and all(np.allclose(before[k], after[k], atol=1e-4) for k in before)
        markers = [json.loads((run / name / "stage.json").read_text()) for run in (tiny_run, untrained_run)]
        assert markers[0]["fingerprint"] == markers[1]["fingerprint"] and markers[0]["data"] == markers[1]["data"]
        assert markers[1]["command"] == "seggen run x"
        assert (untrained_run / name / "predictions" / "unseen" / "0.png").is_file()
    rows = [json.loads((run / "results.json").read_text())["scores"] for run in (tiny_run, untrained_run)]
    for one, other in zip(*rows, strict=True):
        assert [one[k] for k in ("arm", "seed", "split")] == [other[k] for k in ("arm", "seed", "split")]
        assert one["mIoU"] == pytest.approx(other["mIoU"], abs=1e-3)


def test_the_error_of_one_training_ends_the_run_in_a_line(untrained_run, tiny_recipe):
    shard = next((untrained_run / "synthetic").rglob("*.parquet"))
    shard.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="^segmenter-synthetic/seed-0: .*") as caught:
        run_stages(load_recipe(tiny_recipe, ["evaluation.jobs=2"]), untrained_run)
    assert "\n" not in str(caught.value) and not (untrained_run / "results.json").exists()
    last = (untrained_run / "log" / "run.log").read_text().splitlines()[-1]
    assert "failed: ValueError: segmenter-synthetic/seed-0: " in last


def test_trainings_end_with_the_run_and_keep_its_folder_until_then(untrained_run, tiny_recipe):
    words = ["-m", "seggen_hf.cli", "run", tiny_recipe, "--out", untrained_run]
    words += ["--set", "evaluation.jobs=2", "--set", "segmenter.max_train_steps=100000"]
    words += ["--set", "segmenter.checkpointing_steps=5"]
    run = start_python(words, client_environment(), untrained_run.parent)
    try:
        progress = [untrained_run / f"segmenter-{arm}" / "seed-0" / "history.jsonl" for arm in ("real", "synthetic")]
        deadline = time.monotonic() + 120
        while not all(path.is_file() and path.stat().st_size for path in progress):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    with pytest.raises(ValueError, match="in use by process"), lock_run(untrained_run):  # they live a moment longer
        pass
    while True:
        try:
            with lock_run(untrained_run):
                break
        except ValueError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    sizes = [path.stat().st_size for path in progress]
    time.sleep(1.0)
    assert [path.stat().st_size for path in progress] == sizes


def test_a_run_that_is_stopped_leaves_checkpoints_of_that_moment(untrained_run, tiny_recipe):
    words = ["-m", "seggen_hf.cli", "run", tiny_recipe, "--out", untrained_run]
    words += ["--set", "evaluation.jobs=2", "--set", "segmenter.max_train_steps=100000"]
    words += ["--set", "segmenter.checkpointing_steps=0", "--set", "segmenter.validation_steps=3"]
    run = start_python(words, client_environment(), untrained_run.parent, start_new_session=True)
    folders = [untrained_run / f"segmenter-{arm}" / "seed-0" for arm in ("real", "synthetic")]
    try:
        deadline = time.monotonic() + 120
        while not all(list((folder / "validation").glob("step-*.png")) for folder in folders):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(run.pid, signal.SIGTERM)
        said = run.communicate(timeout=100)[1]
    finally:
        run.kill()
    assert run.returncode == 143, said
    assert said.strip().splitlines()[-1] == "error: stopped; the same command goes on where it was."
    assert "Traceback" not in said
    assert "\x1b[A" in said  # the bar of one below that of the other
    assert "stopped by SIGTERM" in (untrained_run / "log" / "run.log").read_text()
    for folder in folders:
        (checkpoint,) = list_checkpoints(folder / "checkpoints")
        begun = json.loads((folder / "stage.started.json").read_text())
        assert int(checkpoint.name.removeprefix("step-")) >= 3 and begun["seconds"] > 0
    with lock_run(untrained_run):
        pass
