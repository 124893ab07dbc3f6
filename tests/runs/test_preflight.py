"""A look at every file before a run, in bounded memory."""

import importlib.util
import time
import tracemalloc

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value

from seggen_hf.config import load_recipe
from seggen_hf.data.doctor import digest_image
from seggen_hf.runs import records as run_records
from seggen_hf.runs.preflight import check_run
from seggen_hf.runs.records import image_digests
from seggen_hf.runs.runner import run_stages


@pytest.mark.slow
def test_pictures_are_not_in_memory_together(tmp_path, monkeypatch):
    """An executor takes all its arguments at once: were they pictures, a data set of 100 GB would have to fit."""
    features = Features({"image": Image(decode=False), "image_id": Value("string")})
    pixels = np.random.default_rng(0).bytes(1_000_000)
    rows = [{"image": {"bytes": pixels + bytes([i]), "path": None}, "image_id": str(i)} for i in range(60)]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "data")
    records = Dataset.load_from_disk(tmp_path / "data")
    del rows

    def digest_slowly(value):  # pictures are read faster than they are worked on
        time.sleep(0.02)
        return digest_image(value)

    monkeypatch.setattr(run_records, "digest_image", digest_slowly)
    tracemalloc.start()
    try:
        found = image_digests(records)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == len(set(found)) == 60
    assert peak < 20_000_000


def test_a_missing_optimizer_is_told_before_the_first_stage(tmp_path, tiny_recipe, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    recipe = load_recipe(tiny_recipe, ["segmenter.optimizer=adamw_8bit"])
    with pytest.raises(ValueError, match=r"needs bitsandbytes: pip install 'seggen_hf\[8bit\]'"):
        check_run(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["segmenter.model=mask2former"], "--model mask2former needs --backbone_model"),
        (["segmenter.model=eomt-unit", "segmenter.crop_width=96"], "an EoMT sees squares"),
        (["segmenter.model=eomt-unit", "data.task=instance", "segmenter.inference_size=80"], "sees whole images"),
    ],
)
def test_what_a_segmenter_cannot_be_is_told_before_the_first_stage(tmp_path, tiny_recipe, settings, told):
    with pytest.raises(ValueError, match=told):
        run_stages(load_recipe(tiny_recipe, settings), tmp_path / "run")
    assert not (tmp_path / "run" / "captions").exists()


def test_a_missing_tracker_is_told_before_the_first_stage(tmp_path, tiny_recipe):
    missing = next(name for name in ("swanlab", "aim", "dvclive") if importlib.util.find_spec(name) is None)
    recipe = load_recipe(tiny_recipe, [f"segmenter.report_to=tensorboard,{missing}"])
    with pytest.raises(ValueError, match=f"--report_to {missing} needs .*: pip install {missing}"):
        check_run(recipe, tmp_path / "run")
