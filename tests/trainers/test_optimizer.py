import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file
from toy import ToyTask, settings

from seggen_hf.trainers import optimizer as optimizers
from seggen_hf.trainers.checkpoints import _flatten, _unflatten, checkpoint_bytes, list_checkpoints, read_state
from seggen_hf.trainers.loop import describe_training, train


class WideTask(ToyTask):
    """Its middle layer has more weights than the 4,096 from which on moments are kept in 8 bits."""

    def __init__(self, width: int = 128):
        super().__init__()
        torch.manual_seed(0)
        self.trainable = torch.nn.Sequential(
            torch.nn.Linear(3, width), torch.nn.Dropout(0.2), torch.nn.Linear(width, width), torch.nn.Linear(width, 1)
        )


def test_an_8_bit_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    pytest.importorskip("bitsandbytes")
    train(WideTask(), settings(tmp_path / "whole", optimizer="adamw_8bit"))
    train(WideTask(), settings(tmp_path / "parts", optimizer="adamw_8bit", max_train_steps=2))
    stored = load_file(tmp_path / "parts" / "checkpoints" / "step-00000002" / "optimizer.safetensors")
    assert {"uint8", "float32"} <= {str(t.dtype).removeprefix("torch.") for t in stored.values()}
    train(WideTask(), settings(tmp_path / "parts", optimizer="adamw_8bit"))
    one, other = (load_file(tmp_path / name / "toy.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_the_bytes_of_an_8_bit_checkpoint_are_known(tmp_path):
    pytest.importorskip("bitsandbytes")
    task = WideTask(1000)
    train(task, settings(tmp_path, optimizer="adamw_8bit", max_train_steps=1))
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    written = sum(file.stat().st_size for file in path.iterdir())
    trained = sum(p.numel() for p in task.trainable.parameters())
    assert written == pytest.approx(checkpoint_bytes(trained, average=True, optimizer="adamw_8bit"), rel=0.01)


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        optimizers.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(ValueError, match=r"needs bitsandbytes: pip install 'seggen_hf\[8bit\]'"):
        train(ToyTask(), settings(tmp_path / "run", optimizer="adamw_8bit"))
    assert not (tmp_path / "run").exists()


def test_the_nested_state_of_an_8_bit_optimizer_comes_back(tmp_path):
    """The state that bitsandbytes 0.50 has of a large and a small parameter."""
    large = {"state1": torch.arange(8, dtype=torch.uint8), "qmap1": torch.rand(256), "absmax1": torch.rand(1)}
    small = {"state1": torch.rand(5)}
    state = {i: {"step": 7, "__bnb_optimizer_quant_state__": s} for i, s in enumerate((large, small))}
    flat = {}
    for index, entries in state.items():
        flat |= _flatten(entries, str(index))
    assert all(torch.is_tensor(value) for value in flat.values())
    found = _unflatten(flat)
    assert found[0]["step"] == 7 and type(found[0]["step"]) is int
    for index, entries in state.items():
        inner = found[index]["__bnb_optimizer_quant_state__"]
        assert inner.keys() == entries["__bnb_optimizer_quant_state__"].keys()
        assert all(torch.equal(inner[k], v) for k, v in entries["__bnb_optimizer_quant_state__"].items())


def test_a_checkpoint_from_before_there_was_a_choice_is_adamws(tmp_path):
    train(ToyTask(), settings(tmp_path, max_train_steps=2))
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    state = json.loads((path / "state.json").read_text())
    del state["fingerprint"]["optimizer"], state["fingerprint"]["ema_update_steps"]
    (path / "state.json").write_text(json.dumps(state))
    assert read_state(path, describe_training(ToyTask(), settings(tmp_path), 1)).step == 2
    with pytest.raises(ValueError, match="optimizer was 'adamw' and is now 'adamw_8bit'"):
        read_state(path, describe_training(ToyTask(), settings(tmp_path, optimizer="adamw_8bit"), 1))
