import json
import shutil

import pytest
import torch

from seggen_hf.trainers.average import WeightAverage
from seggen_hf.trainers.checkpoint_writer import CheckpointWriter
from seggen_hf.trainers.checkpoints import (
    TrainingState,
    checkpoint_bytes,
    list_checkpoints,
    load_checkpoint,
    make_room,
    rotate_checkpoints,
)


def trained(steps: int = 2, frozen: bool = False):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    model[2].requires_grad_(not frozen)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for _ in range(steps):
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save_checkpoint(folder, model, optimizer, average, state):
    writer = CheckpointWriter(folder, limit=9)
    writer.begin(model, optimizer, average, state)
    writer.wait()
    return folder / f"step-{state.step:08d}"


def test_weights_moments_and_counters_come_back(tmp_path):
    model, optimizer = trained(3)
    path = save_checkpoint(tmp_path, model, optimizer, None, TrainingState(step=3, fingerprint={"seed": 0}))
    other, other_optimizer = trained(0)
    state = load_checkpoint(path, other, other_optimizer, None, {"seed": 0})
    assert state.step == 3
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert all(torch.equal(v, other_optimizer.state[b][k]) for k, v in optimizer.state[a].items())


def test_frozen_weights_are_not_stored_but_statistics_are(tmp_path):
    from safetensors.torch import load_file

    model, optimizer = trained(1, frozen=True)
    path = save_checkpoint(tmp_path, model, optimizer, None, TrainingState(step=1))
    names = set(load_file(path / "model.safetensors"))
    assert "2.weight" not in names and {"0.weight", "1.running_mean", "1.num_batches_tracked"} <= names


def test_other_settings_are_refused_by_name(tmp_path):
    model, optimizer = trained(1)
    path = save_checkpoint(tmp_path, model, optimizer, None, TrainingState(step=1, fingerprint={"seed": 0}))
    with pytest.raises(ValueError, match="seed was 0 and is now 7"):
        load_checkpoint(path, model, optimizer, None, {"seed": 7})


def test_another_model_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, *trained(1), None, TrainingState(step=1))
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 4))
    with pytest.raises(ValueError, match="another model"):
        load_checkpoint(path, other, torch.optim.AdamW(other.parameters()), None, {})


@pytest.mark.parametrize("damage", ["truncated", "missing", "no state", "half state", "temporary"])
def test_a_damaged_checkpoint_is_never_taken(tmp_path, damage):
    good = save_checkpoint(tmp_path, *trained(1), None, TrainingState(step=1))
    bad = save_checkpoint(tmp_path, *trained(2), None, TrainingState(step=2))
    if damage == "truncated":
        file = bad / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "missing":
        (bad / "optimizer.safetensors").unlink()
    elif damage == "no state":
        (bad / "state.json").unlink()
    elif damage == "half state":
        text = (bad / "state.json").read_text()
        (bad / "state.json").write_text(text[: len(text) // 2])
    else:
        shutil.move(bad, tmp_path / ".step-00000002.tmp")
    assert list_checkpoints(tmp_path) == [good]


def test_rotation_keeps_the_newest(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, *trained(1), None, TrainingState(step=step))
    rotate_checkpoints(tmp_path, limit=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


@pytest.mark.parametrize(
    ("limit", "kept"), [(1, ["step-00000004"]), (2, ["step-00000004"]), (3, ["step-00000003", "step-00000004"])]
)
def test_room_is_made_before_writing_and_a_whole_one_stays(tmp_path, limit, kept):
    for step in range(1, 5):
        save_checkpoint(tmp_path, *trained(1), None, TrainingState(step=step))
    (tmp_path / ".step-00000005.tmp").mkdir()
    make_room(tmp_path, limit, needed=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == kept


def test_a_disk_without_room_is_told_in_bytes_and_nothing_is_removed(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, *trained(1), None, TrainingState(step=step))
    with pytest.raises(OSError, match=r"needs 1,000,000,000,000,000 bytes and the disk of .* has [\d,]+ for it"):
        make_room(tmp_path, 2, needed=10**15)
    assert len(list_checkpoints(tmp_path)) == 2


@pytest.mark.parametrize("average", [False, True])
def test_the_bytes_of_a_checkpoint_are_known_before_it_is_written(tmp_path, average):
    model = torch.nn.Sequential(
        *(torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.BatchNorm1d(300)) for _ in range(4))
    )
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 300)).square().mean().backward()
    optimizer.step()
    parameters = list(model.parameters())
    path = save_checkpoint(
        tmp_path, model, optimizer, WeightAverage(parameters, 0.9) if average else None, TrainingState(step=1)
    )
    written = sum(file.stat().st_size for file in path.iterdir())
    buffers = sum(b.numel() for b in model.buffers())
    expected = checkpoint_bytes(sum(p.numel() for p in parameters), buffers, average)
    assert written == pytest.approx(expected, rel=0.01)


def test_a_checkpoint_holds_safetensors_and_json_alone(tmp_path):
    path = save_checkpoint(tmp_path, *trained(1), None, TrainingState(step=1, history=[{"loss": 1.0}]))
    assert sorted(p.name for p in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert json.loads((path / "state.json").read_text())["history"] == [{"loss": 1.0}]


def test_a_network_in_channels_last_goes_on_as_if_it_had_not_stopped(tmp_path):
    def build():
        torch.manual_seed(0)
        model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def step(model, optimizer, number):
        pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        model(pixels).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, optimizer = build()
    for number in range(4):
        if number == 2:
            path = save_checkpoint(tmp_path, whole, optimizer, None, TrainingState(step=2))
        step(whole, optimizer, number)
    resumed, optimizer = build()
    load_checkpoint(path, resumed, optimizer, None, {})
    for number in (2, 3):
        step(resumed, optimizer, number)
    torch.testing.assert_close(resumed.weight, whole.weight)
