"""The script that trains and ships the miniature base, at unit size."""

import dataclasses
import json
from pathlib import Path

import pytest
from diffusers import StableDiffusionXLPipeline

from seggen_hf.storage.folders import BASE, claim_folder, hold_folder


@pytest.fixture
def train_base(load_script, tmp_path, monkeypatch):
    """A function that runs the script with arguments and a batch size, and ships to `tmp_path`/shipped."""
    script = load_script(Path(__file__).parents[2] / "training" / "train_base.py")
    monkeypatch.setattr(script, "ASSETS", tmp_path / "shipped")
    monkeypatch.setattr(script, "PICTURES", {"num_palettes": 8, "num_drawings": 8})
    monkeypatch.setattr(script, "NUM_SCENES", {"cpu": 24, "cuda": 24})
    build_config = script.build_config

    def run(batch_size: int, *arguments: object) -> None:
        def small(*given):
            return dataclasses.replace(build_config(*given), size="unit", train_batch_size=batch_size)

        monkeypatch.setattr(script, "build_config", small)
        monkeypatch.setattr("sys.argv", ["train_base.py", *map(str, arguments)])
        script.main()

    return run


@pytest.mark.slow
def test_a_base_is_trained_shipped_and_trained_on(train_base, tmp_path):
    steps = ["--decoder_steps", 1, "--prior_steps", 2]
    train_base(4, *steps, "--output_dir", tmp_path / "first")
    shipped = tmp_path / "shipped"
    first = StableDiffusionXLPipeline.from_pretrained(str(shipped), use_safetensors=True)
    assert "prior: 2 steps of 4, loss" in (shipped / "README.md").read_text()

    earlier = shipped.rename(tmp_path / "earlier")
    train_base(6, *steps, "--output_dir", tmp_path / "second", "--warm_start", earlier)
    second = StableDiffusionXLPipeline.from_pretrained(str(shipped), use_safetensors=True)
    card = (shipped / "README.md").read_text()
    assert "decoder: 1 steps of 4, then 1 steps of 6, loss" in card
    assert "prior: 2 steps of 4, then 2 steps of 6, loss" in card
    assert [json.loads(line)["step"] for line in (shipped / "prior-history.jsonl").read_text().splitlines()] == [2, 4]

    weights = [pipeline.unet.conv_in.weight.float() for pipeline in (first, second)]
    moved = (weights[0] - weights[1]).abs().max()
    assert 0 < moved < 0.01  # it went on from the first one's weights; others are some 0.1 away
    assert not any(str(tmp_path) in path.read_text() for path in shipped.rglob("*.json"))


def test_two_processes_do_not_share_a_folder(train_base, tmp_path):
    claim_folder(tmp_path / "base", BASE)
    with hold_folder(tmp_path / "base", BASE), pytest.raises(SystemExit, match="in use by another process"):
        train_base(4, "--output_dir", tmp_path / "base")


def test_no_steps_are_refused(train_base, tmp_path):
    with pytest.raises(SystemExit, match="max_train_steps is 0; it must be positive"):
        train_base(4, "--decoder_steps", 0, "--output_dir", tmp_path / "base")
