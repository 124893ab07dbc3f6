"""The scripts as users start them: alone, killed and continued, and as two gloo processes."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from forked_python import client_environment, run_python, run_ranks, start_python
from safetensors.torch import load_file

from seggen_hf.config import AdaptConfig, DataConfig, Mask2ImgConfig, Text2MaskConfig, parse_config
from seggen_hf.pipelines import Mask2ImgPipeline, Text2MaskPipeline
from seggen_hf.plan.generators import plan_text2mask
from seggen_hf.trainers.adapt import AdaptTask
from seggen_hf.trainers.mask2img import Mask2ImgTask
from seggen_hf.trainers.script import run_script
from seggen_hf.trainers.text2mask import Text2MaskTask

TRAINING = Path(__file__).parents[2] / "training"
PARTS = {
    "text2mask": (Text2MaskConfig, Text2MaskTask, Text2MaskPipeline),
    "mask2img": (Mask2ImgConfig, Mask2ImgTask, Mask2ImgPipeline),
    "adapt": (AdaptConfig, AdaptTask, StableDiffusionXLPipeline),
}
OWN = {"adapt": ["--train_text_encoders"]}


def flags(base, out, **changes) -> list[str]:
    defaults = {
        "base_model": base,
        "output_dir": out,
        "max_train_records": 6,
        "height": 32,
        "width": 32,
        "learning_rate": 1e-3,
        "train_batch_size": 4,
        "max_train_steps": 3,
        "logging_steps": 1,
        "num_validation_images": 1,
        "validation_inference_steps": 2,
    }
    return [str(word) for name, value in (defaults | changes).items() for word in (f"--{name}", value)]


def in_process(kind: str, arguments: list[str]) -> int:
    config_class, task_class, _ = PARTS[kind]
    return run_script(config_class, task_class, None, arguments)


def environment() -> dict[str, str]:
    return client_environment(OMP_NUM_THREADS=1, ACCELERATE_USE_CPU="true")


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def all_weights(folder: Path) -> dict:
    names = ("unet", "controlnet", "text_encoder", "text_encoder_2")
    return {f"{n}.{k}": v for n in names for f in (folder / n).glob("*.safetensors") for k, v in load_file(f).items()}


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(miniature_dir, tmp_path):
    for kind in PARTS:
        assert in_process(kind, flags(miniature_dir, tmp_path / "one" / kind) + OWN.get(kind, [])) == 0
    for kind, (_, _, pipeline_class) in PARTS.items():
        arguments = flags(miniature_dir, tmp_path / "two" / kind, train_batch_size=2) + OWN.get(kind, [])
        run_ranks([TRAINING / f"train_{kind}.py", *arguments], environment(), tmp_path)
        assert losses(tmp_path / "two" / kind) == pytest.approx(losses(tmp_path / "one" / kind), rel=1e-4)
        one, two = all_weights(tmp_path / "one" / kind), all_weights(tmp_path / "two" / kind)
        assert all(torch.allclose(one[name], two[name], atol=2e-4) for name in one | two)
        pipeline_class.from_pretrained(tmp_path / "two" / kind)


@pytest.mark.slow
def test_a_killed_run_continues_to_the_weights_of_an_unbroken_one(miniature_dir, tmp_path):
    changes = {"max_train_steps": 30, "checkpointing_steps": 2, "ema_decay": 0.9}
    arguments = flags(miniature_dir, tmp_path / "killed", **changes)
    command = [TRAINING / "train_mask2img.py", *arguments]
    with (tmp_path / "log").open("w") as log:
        process = start_python(command, environment(), tmp_path, log=log)
    checkpoints = tmp_path / "killed" / "checkpoints"
    for _ in range(6000):
        if list(checkpoints.glob("step-*")) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()[-3000:]
    assert not (tmp_path / "killed" / "model_index.json").exists()
    run_python(command, environment(), tmp_path)
    command = [command[0], *flags(miniature_dir, tmp_path / "whole", **changes)]  # a process too: as many threads
    run_python(command, environment(), tmp_path)
    killed, whole = all_weights(tmp_path / "killed"), all_weights(tmp_path / "whole")
    assert all(torch.equal(killed[name], whole[name]) for name in killed | whole)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_wrong_arguments_exit_with_2_and_one_line(capsys):
    with pytest.raises(SystemExit) as exit_:
        in_process("text2mask", ["--lerning_rate", "1"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: There is no --lerning_rate. Did you mean '--learning_rate'?\n"


def test_what_fails_in_use_is_one_line_and_exit_status_1(tmp_path, capsys):
    assert in_process("text2mask", flags(tmp_path / "nowhere", tmp_path / "out")) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "--base_model" in error[0]


@pytest.mark.parametrize(("flags", "size"), [([], 64), (["--height", "96", "--width", "96"], 96)])
def test_without_a_recipe_generators_work_at_the_size_of_the_data(flags, size):
    for config in parse_config(Text2MaskConfig, DataConfig, argv=flags):
        assert (config.height, config.width) == (size, size)


def test_a_dry_run_prints_the_plan_and_writes_nothing(miniature_dir, tmp_path, capsys):
    arguments = [*flags(miniature_dir, tmp_path / "out"), "--dry_run"]
    assert run_script(Text2MaskConfig, Text2MaskTask, plan_text2mask, arguments) == 0
    told = capsys.readouterr().out
    assert "3 steps x 4 samples = 12 samples seen" in told and "latents" in told and "peak" in told
    assert not (tmp_path / "out").exists()
