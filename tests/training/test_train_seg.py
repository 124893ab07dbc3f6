"""The script as users start it: alone, and as two gloo processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCRIPT = Path(__file__).parents[2] / "training" / "train_seg.py"
FLAGS = (
    "--dataset_name scenes --max_train_records 8 --max_test_records 7 --test_splits test "
    "--model unit --crop_height 64 --crop_width 64 --max_train_steps 3 --learning_rate 1e-3 --logging_steps 1"
).split()


@pytest.fixture(scope="module")
def script(load_script):
    return load_script(SCRIPT)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [[line[name] for name in ("loss", "grad_norm")] for line in lines if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["unit", "eomt-unit"])
def test_two_processes_have_the_losses_and_scores_of_one(script, tmp_path, model):
    """Panoptic, whose loss is that of semantic segmentation with other masks, and whose scores hold mIoU too."""
    flags = [*FLAGS, "--task", "panoptic", "--model", model, "--report_to", "tensorboard"]
    script.main([*flags, "--train_batch_size", "4", "--output_dir", str(tmp_path / "one")])
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT), *flags]
        + ["--train_batch_size", "2", "--output_dir", str(tmp_path / "two")],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-5)
    scores = [json.loads((tmp_path / name / "results.json").read_text())["test"] for name in ("one", "two")]
    assert scores[0]["num_images"] == 7 and scores[0].keys() == scores[1].keys()
    for name in ("mIoU", "PQ", "AP"):
        assert scores[1][name] == pytest.approx(scores[0][name], abs=2e-3)  # rounding may move single pixels
    assert (tmp_path / "two" / "model.safetensors").is_file()
    for name, score in zip(("one", "two"), scores, strict=True):
        events = EventAccumulator(str(tmp_path / name / "log")).Reload()
        assert [told.step for told in events.Scalars("loss")] == [1, 2, 3]
        assert [told.value for told in events.Scalars("test/test/mIoU")] == [pytest.approx(score["mIoU"])]


def test_a_dry_run_trains_nothing(script, tmp_path, capsys):
    assert script.main([*FLAGS, "--dry_run", "--output_dir", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "class head" in told and "3 steps x 16 samples" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--synthetic_dataset", "--dataset_name"])
def test_data_that_is_not_there_is_one_line_and_status_1(script, tmp_path, capsys, flag):
    nowhere = str(tmp_path / "nowhere")
    assert script.main([*FLAGS, flag, nowhere, "--output_dir", str(tmp_path / "run")]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and nowhere in errors[0]


def test_a_wrong_flag_is_one_line_and_status_2(script, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(["--p_aug", "2"])
    assert stopped.value.code == 2
    assert "--p_aug" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        script.main(["--arms", "real"])
    assert "There is no --arms" in capsys.readouterr().err
