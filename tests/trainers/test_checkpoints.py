import json
import shutil

import pytest
import torch

from seggen_hf.trainers.checkpoints import (
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    rotate_checkpoints,
    save_checkpoint,
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


def test_rotation_keeps_the_newest_and_clears_leftovers(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, *trained(1), None, TrainingState(step=step))
    (tmp_path / ".step-00000101.tmp").mkdir()
    rotate_checkpoints(tmp_path, limit=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_a_checkpoint_holds_safetensors_and_json_alone(tmp_path):
    path = save_checkpoint(tmp_path, *trained(1), None, TrainingState(step=1, history=[{"loss": 1.0}]))
    assert sorted(p.name for p in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert json.loads((path / "state.json").read_text())["history"] == [{"loss": 1.0}]
