import json
import subprocess
import sys

import datasets
import numpy as np
import pytest
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.data.schema import encode_image, encode_map


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_line_starts_without_heavy_imports():
    code = "import seggen_hf.cli, sys; print({'torch', 'transformers', 'datasets', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_help_lists_what_there_is():
    result = call("--help")
    assert result.exit_code == 0
    for name in (
        "quickstart",
        "init",
        "run",
        "plan",
        "train",
        "doctor",
        "caption",
        "synthesize",
        "filter",
        "evaluate",
        "predict",
        "export",
        "report",
        "status",
        "push",
        "demo",
    ):
        assert name in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "no-such-recipe"], "There is no recipe no-such-recipe"),
        (["run", "quickstart", "--set", "data.heigth=64"], "Did you mean 'height'?"),
        (["run", "quickstart", "--set", "data.height=sixty"], "whole number"),
        (["run", "quickstart", "--set", "data.test_splits=[val"], "is not YAML"),
        (["run", "quickstart", "--only", "training"], "no stage 'training'"),
        (["train", "vae", "quickstart"], "no training 'vae'"),
        (["synthesize", "scenes", "out", "--mask2img", "x", "--set", "imgsyn_variant=4"], "imgsyn_variants"),
    ],
)
def test_wrong_arguments_exit_with_2_and_one_line(arguments, told):
    result = call(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_a_missing_argument_exits_with_2():
    assert call("run").exit_code == 2
    assert call("no-such-command").exit_code == 2


def test_what_fails_in_use_exits_with_1_and_one_line(tmp_path):
    result = call("report", tmp_path)
    assert result.exit_code == 1 and "no recipe.yaml" in result.stderr and result.stderr.count("\n") == 1
    assert "Traceback" in call("report", tmp_path, "--debug").stderr
    for command in (["doctor"], ["evaluate"], ["filter"], ["report"], ["push", "--namespace", "me"]):
        missing = call(command[0], tmp_path / "nowhere", *command[1:])
        assert missing.exit_code == 1 and missing.stderr.count("\n") == 1, command


@pytest.mark.slow
def test_a_finished_run_is_told_as_a_table_or_as_json(tiny_run, tiny_recipe):
    result = call("run", tiny_recipe, "--out", tiny_run)
    assert result.exit_code == 0, result.stderr
    assert "mIoU, %" in result.stdout and "no statement about chance" in result.stdout
    answer = json.loads(call("evaluate", tiny_run, "--json").stdout)
    assert len(answer["results"]["scores"]) == 4
    answer = json.loads(call("report", tiny_run, "--json").stdout)
    assert len(answer["scores"]) == 4 and answer["report"].endswith("report.html")


def test_changed_settings_exit_with_1(tiny_run, tiny_recipe):
    result = call("run", tiny_recipe, "--out", tiny_run, "--set", "text2mask.seed=5")
    assert result.exit_code == 1 and "text2mask.seed: 0 -> 5" in result.stderr


@pytest.mark.slow
def test_a_dry_run_prints_sizes_and_trains_nothing(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("run", tiny_recipe, "--dry-run")
    assert result.exit_code == 0, result.stderr
    for name in ("text2mask", "mask2img", "segmenter"):
        assert name in result.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_segmenters_are_scored_on_other_data(tiny_run):
    result = call("evaluate", tiny_run / "segmenter-real" / "seed-0", "scenes", "--split", "val", "--json")
    (row,) = json.loads(result.stdout)
    assert row["split"] == "val" and row["num_images"] == 100 and 0 <= row["mIoU"] <= 1
    assert call("evaluate", tiny_run / "segmenter-real" / "seed-0").exit_code == 2
    assert row["task"] == "semantic"
    result = call("evaluate", tiny_run / "segmenter-real" / "seed-0", "scenes", "--task", "boxes")
    assert result.exit_code == 2 and "there are semantic, panoptic, instance" in result.stderr
    assert call("evaluate", tiny_run, "--task", "panoptic").exit_code == 2


@pytest.mark.slow
def test_captions_and_synthesis_run_alone(tiny_run, tmp_path):
    result = call("caption", tiny_run / "captions", tmp_path / "captioned", "--recaption")
    assert result.exit_code == 0, result.stderr
    flags = ["--set", "mask2img_steps=1", "--height", 64, "--width", 64, "--mask2img", tiny_run / "mask2img"]
    result = call("synthesize", tmp_path / "captioned", tmp_path / "made", *flags)
    assert result.exit_code == 0 and "8 synthetic records" in result.stderr
    answer = json.loads(call("synthesize", tmp_path / "captioned", tmp_path / "made", *flags, "--json").stdout)
    assert answer["num_samples"] == 8
    again = call("caption", tiny_run / "captions", tmp_path / "again", "--recaption", "--json")
    assert len(json.loads(again.stdout)["captions"]) == json.loads(again.stdout)["records"] == 8
    assert call("caption", tiny_run / "captions", tmp_path / "captioned").exit_code == 1


def test_the_doctor_answers_as_text_or_json(camvid_dir):
    result = call("doctor", camvid_dir, "--split", "val", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)


def test_a_copy_that_cannot_be_written_is_refused_before_the_examination(camvid_dir, tmp_path):
    result = call("doctor", camvid_dir, "--split", "val", "--fix", tmp_path)
    assert result.exit_code == 1 and "exists" in result.stderr and result.stdout == ""


def test_commands_that_read_data_take_its_columns_and_labels(tmp_path):
    maps = [encode_map(np.array([[0, 1, 2]] * 16), 3, f"p{i}") for i in range(2)]
    rows = [{"photo": encode_image(np.full((16, 3, 3), i, np.uint8)), "ids": maps[i]} for i in range(2)]
    features = datasets.Features({name: datasets.Image() for name in ("photo", "ids")})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "data")
    (tmp_path / "labels.json").write_text('["sky", "road"]')
    flags = ["--image-column", "photo", "--mask-column", "ids", "--labels", tmp_path / "labels.json"]
    assert "--zero_is_void" in call("doctor", tmp_path / "data", *flags).stdout
    flags.append("--zero-is-void")
    assert call("doctor", tmp_path / "data", *flags).exit_code == 0
    assert call("caption", tmp_path / "data", tmp_path / "captioned", *flags).exit_code == 0
    assert call("synthesize", "--help").exit_code == call("evaluate", "--help").exit_code == 0
    assert "--zero-is-void" in call("evaluate", "--help").stdout
