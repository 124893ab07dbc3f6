import contextlib
import math
import multiprocessing
import resource
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import ToyTask, settings

from seggen_hf.trainers import checkpoint_writer
from seggen_hf.trainers.checkpoint_writer import CheckpointWriter, HostBlocks
from seggen_hf.trainers.checkpoints import TrainingState, list_checkpoints, load_checkpoint
from seggen_hf.trainers.loop import train


def network(value: float) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(4, 2).to(memory_format=torch.channels_last)
    torch.nn.init.constant_(model.weight, value)
    return model, torch.optim.AdamW(model.parameters())


@pytest.fixture
def held(monkeypatch):
    """Writing stops before each file until the event is set; the names of the files that were begun."""
    go_on, begun = threading.Event(), []

    def save(tensors, path):
        begun.append(path.name)
        assert go_on.wait(30)
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint_writer, "save_file", save)
    yield go_on, begun
    go_on.set()


def test_training_goes_on_while_a_checkpoint_of_before_is_written(tmp_path, held):
    model, optimizer = network(1.0)
    writer = CheckpointWriter(tmp_path, 2)
    writer.begin(model, optimizer, None, state := TrainingState(step=1, history=[{"loss": 1.0}]))
    torch.nn.init.constant_(model.weight, 2.0)
    state.step = 2
    state.history.append({"loss": 2.0})
    writer.check()
    assert not list_checkpoints(tmp_path)
    held[0].set()
    writer.wait()
    other, other_optimizer = network(0.0)
    found = load_checkpoint(tmp_path / "step-00000001", other, other_optimizer, None, {})
    assert (found.step, found.history) == (1, [{"loss": 1.0}]) and torch.all(other.weight == 1.0)


def test_the_buffers_of_the_copy_are_used_again_once_they_are_written(tmp_path, held):
    model, optimizer = network(1.0)
    writer = CheckpointWriter(tmp_path, 2)
    writer.begin(model, optimizer, None, TrainingState(step=1))
    places = [t.data_ptr() for t in writer._host["model.safetensors"].values()]
    threading.Timer(0.2, held[0].set).start()
    torch.nn.init.constant_(model.weight, 2.0)
    writer.begin(model, optimizer, None, TrainingState(step=2))
    writer.wait()
    assert [t.data_ptr() for t in writer._host["model.safetensors"].values()] == places
    values = [load_file(path / "model.safetensors")["weight"].unique().item() for path in list_checkpoints(tmp_path)]
    assert values == [1.0, 2.0]


def test_blocks_hold_every_buffer_and_little_more(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "BLOCK", 2**16)
    shapes = [(100, 33), (), (0, 3), (7,), *[(90, 31)] * 12, (200, 200)]
    kinds = [torch.float32, torch.bfloat16, torch.uint8, torch.int64]
    tensors = {
        str(i): torch.arange(math.prod(shape)).reshape(shape).to(kinds[i % 4]) for i, shape in enumerate(shapes)
    }
    total = sum(checkpoint_writer._padded(t) for t in tensors.values())
    blocks = HostBlocks(total, pin=False)
    buffers = {name: blocks.take(tensor).copy_(tensor) for name, tensor in tensors.items()}
    assert all(buffer.is_contiguous() for buffer in buffers.values())
    storages = {b.untyped_storage().data_ptr(): b.untyped_storage().nbytes() for b in buffers.values()}
    assert 1 < len(storages) < 8 and total <= sum(storages.values()) < 1.5 * total
    save_file(buffers, tmp_path / "all.safetensors")
    found = load_file(tmp_path / "all.safetensors")
    assert all(torch.equal(found[name], t) and found[name].dtype == t.dtype for name, t in tensors.items())


def test_a_training_on_the_cpu_touches_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # one is there, and may be somebody else's
    before = torch.cuda.is_initialized()
    writer = CheckpointWriter(tmp_path, 2)
    writer.begin(*network(1.0), None, TrainingState(step=1))
    writer.wait()
    assert len(list_checkpoints(tmp_path)) == 1 and torch.cuda.is_initialized() == before


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_disk_never_holds_more_than_the_limit_or_two(tmp_path, monkeypatch, limit):
    seen = []

    def save(tensors, path):
        seen.append((len(list(tmp_path.iterdir())), len(list_checkpoints(tmp_path))))
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint_writer, "save_file", save)
    writer = CheckpointWriter(tmp_path, limit)
    for step in range(1, 6):
        writer.begin(*network(step), None, TrainingState(step=step))
        writer.wait()
    assert max(total for total, _ in seen) == max(2, limit)
    assert all(whole >= 1 for _, whole in seen[2:])  # a network and an optimizer each: all after the first
    assert len(list_checkpoints(tmp_path)) == limit


@contextlib.contextmanager
def files_up_to(size: int):
    """Larger files cannot be written in the block, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_is_told_at_the_next_look_and_leaves_the_one_before(tmp_path):
    writer = CheckpointWriter(tmp_path, 2)
    writer.begin(*network(1.0), None, TrainingState(step=1))
    writer.wait()
    large = torch.nn.Linear(1000, 1000)
    with files_up_to(2_000_000):
        writer.begin(large, torch.optim.AdamW(large.parameters()), None, TrainingState(step=2))
        with pytest.raises(OSError, match="step-00000002 could not be written: .*File too large") as caught:
            for _ in range(200):
                writer.check()
                time.sleep(0.05)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    writer.wait()  # told once


def test_a_full_disk_ends_the_training(tmp_path):
    task = ToyTask()
    task.trainable = torch.nn.Sequential(torch.nn.Linear(3, 100_000), torch.nn.Identity(), torch.nn.Linear(100_000, 1))
    with files_up_to(1_000_000), pytest.raises(OSError, match="step-00000002 could not be written"):
        train(task, settings(tmp_path))
    assert not (tmp_path / "toy.safetensors").exists() and not list_checkpoints(tmp_path / "checkpoints")


def test_a_training_whose_checkpoints_do_not_fit_is_refused_before_its_first_step(tmp_path, monkeypatch):
    usage = checkpoint_writer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint_writer.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    task = ToyTask()
    with pytest.raises(OSError, match=r"needs 1,312 bytes and the disk of .* has 1,000 for it"):
        train(task, settings(tmp_path))
    assert not task.seen


def write_for_ever(folder: Path) -> None:
    writer, model = CheckpointWriter(folder, 1), torch.nn.Linear(1500, 1500)
    for step in range(1, 10_000):
        writer.begin(model, torch.optim.AdamW(model.parameters()), None, TrainingState(step=step))


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.05, 0.08, 0.13])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, delay):
    process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=[tmp_path])
    process.start()
    try:
        deadline = time.monotonic() + 60
        while not list_checkpoints(tmp_path):
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
    finally:
        process.kill()
        process.join()
    newest = list_checkpoints(tmp_path)[-1]
    assert load_file(newest / "model.safetensors")["weight"].shape == (1500, 1500)
    assert len(list(tmp_path.iterdir())) <= 3  # the one before, one that was being removed, one being written
