import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from forked_python import client_environment, free_port, start_python
from safetensors.torch import load_file
from toy import ToyTask, settings

from seggen_hf.process.stopping import Stopped, exit_status, termination_raises
from seggen_hf.trainers.checkpoints import list_checkpoints
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.script import told_in_a_line

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signalled(ToyTask):
    """Sends its own process a signal when the loss of a step is asked for."""

    def __init__(self, at: int, number: int, times: int = 1):
        super().__init__()
        self.at, self.number, self.times, self.step = at, number, times, 0

    def loss(self, module, batch):
        if self.step == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        self.step += 1
        return super().loss(module, batch)


@pytest.fixture(autouse=True)
def interruptible():
    """A process that a shell starts in the background begins with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "toy.safetensors") for folder in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a | b)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("at", [0, 3, 6, 9])
def test_a_signal_ends_with_a_checkpoint_of_that_step_and_resuming_gives_the_same_weights(tmp_path, number, at):
    changes = {"max_train_steps": 10, "checkpointing_steps": 4, "logging_steps": 4, "dataloader_num_workers": at // 6}
    handlers = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(Stopped, match=f"stopped at step {at + 1} of .*goes on there") as caught:
        train(Signalled(at, number), settings(tmp_path / "parts", **changes))
    assert exit_status(caught.value) == 128 + number
    assert [signal.getsignal(n) for n in SIGNALS] == handlers
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == f"step-{at + 1:08d}"
    assert not (tmp_path / "parts" / "toy.safetensors").exists()
    rest = ToyTask()
    train(rest, settings(tmp_path / "parts", **changes | {"dataloader_num_workers": 0}))
    assert len(rest.seen) == 2 * (10 - at - 1)
    train(ToyTask(), settings(tmp_path / "whole", **changes))
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not(tmp_path):
    task = Signalled(3, signal.SIGINT, times=2)
    with pytest.raises(Stopped):
        train(task, settings(tmp_path, max_train_steps=10, checkpointing_steps=0))
    assert task.step == 3 and not list_checkpoints(tmp_path / "checkpoints")
    task = Signalled(3, signal.SIGTERM, times=2)
    with pytest.raises(Stopped, match="stopped at step 4"):
        train(task, settings(tmp_path, max_train_steps=10, checkpointing_steps=0))


def test_a_signal_that_comes_while_the_result_is_saved_is_not_lost(tmp_path):
    class Late(ToyTask):
        def save(self, folder):
            os.kill(os.getpid(), signal.SIGTERM)
            super().save(folder)

    with pytest.raises(Stopped):
        train(Late(), settings(tmp_path))
    assert (tmp_path / "toy.safetensors").exists()


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train(Signalled(1, signal.SIGINT), settings(tmp_path)).steps == 4
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_closes_what_is_open():
    with pytest.raises(Stopped) as caught, termination_raises():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert exit_status(caught.value) == 143 and exit_status(KeyboardInterrupt()) == 130


@pytest.mark.parametrize(
    ("ending", "status", "told"),
    [
        (lambda: None, 0, ""),
        (
            lambda: os.kill(os.getpid(), signal.SIGTERM),
            143,
            "error: stopped; the same command goes on where it was.\n",
        ),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "error: stopped; the same command goes on where it was.\n"),
        (lambda: int("x"), 1, "error: invalid literal for int() with base 10: 'x'\n"),
    ],
)
def test_a_script_ends_with_a_line_and_a_status(ending, status, told, capsys):
    assert told_in_a_line(ending) == status
    assert capsys.readouterr().err == told


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from toy import ToyTask, settings
from seggen_hf.process.stopping import exit_status
from seggen_hf.trainers.loop import train

class Slow(ToyTask):
    def loss(self, module, batch):
        time.sleep(0.02)
        return super().loss(module, batch)

try:
    train(Slow(), settings(sys.argv[2], max_train_steps=int(sys.argv[3]), checkpointing_steps=0, logging_steps=7,
                           dataloader_num_workers=int(sys.argv[4])))
except KeyboardInterrupt as stop:
    print(stop, file=sys.stderr)
    sys.exit(exit_status(stop))
"""


def start(folder: Path, steps: int, workers: int, **environment):
    words = ["-c", SCRIPT, Path(__file__).parent, folder, steps, workers]
    return start_python(words, client_environment(**environment), folder.parent, start_new_session=True)


def await_progress(process, folder: Path) -> None:
    """The first step is taken when the settings are written and a moment has passed."""
    deadline = time.monotonic() + 90
    while not (folder / "run_config.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)


@pytest.mark.slow
def test_a_process_with_workers_whose_whole_group_gets_the_signal_ends_well(tmp_path):
    """As Ctrl-C in a terminal, and the end of a batch job, do it."""
    process = start(tmp_path / "parts", 1_000_000, 2)
    try:
        await_progress(process, tmp_path / "parts")
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 143, said
    (path,) = list_checkpoints(tmp_path / "parts" / "checkpoints")
    step = json.loads((path / "state.json").read_text())["step"]
    assert 0 < step < 10_000 and f"stopped at step {step}" in said and "Traceback" not in said
    changes = {"checkpointing_steps": 0, "max_train_steps": step + 3}
    train(ToyTask(), settings(tmp_path / "parts", **changes))
    train(ToyTask(), settings(tmp_path / "whole", **changes))
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_processes_of_one_training_agree_on_the_step(tmp_path):
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "ACCELERATE_USE_CPU": "true"}
    folder = tmp_path / "parts"
    ranks = [start(folder, 1_000_000, 0, RANK=rank, LOCAL_RANK=rank, **shared) for rank in range(2)]
    try:
        await_progress(ranks[0], folder)
        ranks[1].send_signal(signal.SIGTERM)  # only one of them
        said = [rank.communicate(timeout=60)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [143, 143], said
    (path,) = list_checkpoints(folder / "checkpoints")
    step = int(path.name.removeprefix("step-"))
    assert all(f"stopped at step {step} " in one for one in said) and (step % 7 == 0 or step % 10 == 0)
