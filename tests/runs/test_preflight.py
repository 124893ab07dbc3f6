"""A look at every file before a run, in bounded memory."""

import hashlib
import importlib.util
import tracemalloc

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value

from seggen_hf.config import load_recipe
from seggen_hf.runs.preflight import check_run
from seggen_hf.runs.records import image_digests
from seggen_hf.runs.runner import run_stages
from seggen_hf.storage import content_digests


@pytest.mark.slow
def test_pictures_are_not_in_memory_together(tmp_path):
    """A data set of 100 GB would have to fit."""
    features = Features({"image": Image(decode=False), "image_id": Value("string")})
    pixels = np.random.default_rng(0).bytes(1_000_000)
    rows = [{"image": {"bytes": pixels + bytes([i]), "path": None}, "image_id": str(i)} for i in range(60)]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "data")
    records = Dataset.load_from_disk(tmp_path / "data")
    del rows

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


def test_an_image_is_read_once_as_long_as_it_stays(tmp_path, monkeypatch):
    """The same digest whether the picture lies in a file or in the record; of nothing none."""
    monkeypatch.setattr(content_digests, "TICK", -1)  # long ago
    content = np.random.default_rng(1).bytes(1000)
    (tmp_path / "one.png").write_bytes(content)
    (tmp_path / "empty.png").write_bytes(b"")
    values = [
        {"bytes": None, "path": str(tmp_path / "one.png")},
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(tmp_path / "empty.png")},
        {"bytes": None, "path": str(tmp_path / "absent.png")},
        None,
    ]
    records = Dataset.from_dict({"image": values}, features=Features({"image": Image(decode=False)}))
    found = image_digests(records)
    assert found[0] == found[1] != "" and found[2:] == ["", "", ""]
    read, file_digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(1) or file_digest(*given))
    assert image_digests(records) == found and not read
    (tmp_path / "one.png").write_bytes(content[::-1])
    assert image_digests(records)[0] not in ("", found[0]) and read == [1]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("data.test_splits=[train]", "trained on"),
        ("data.test_splits=[nowhere]", "no split 'nowhere'"),
        ("data.dataset_name=./nowhere", "does not exist"),
        ("mask2img.base_model=/nowhere/model", "mask2img.base_model is '/nowhere/model'"),
        ("segmenter.model=/nowhere/model", "segmenter.model is '/nowhere/model'"),
        ("segmenter.model=/nowhere/config.json", "segmenter.model is /nowhere/config.json, which does not exist"),
        ("segmenter.backbone_model=/nowhere/model", "segmenter.backbone_model is"),
        ("mask2img.controlnet_model=/nowhere/model", "mask2img.controlnet_model is"),
        ("mask2img.validation_segmenter=/nowhere/model", "mask2img.validation_segmenter is"),
        ("synthesis.density_share=0.5", "needs caption.attributes with `density`"),
        ("text2mask.height=128", "text2mask would be trained at 128 x 64"),
        ("mask2img.dry_run=true", "mask2img.dry_run is set.*seggen plan"),
    ],
)
def test_what_must_fail_fails_before_the_first_stage(tiny_recipe, tmp_path, setting, told):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=told):
        run_stages(load_recipe(tiny_recipe, [setting]), out)
    assert not (out / "captions").exists()


def test_the_check_counts_what_it_read(tiny_recipe, tmp_path):
    counts = check_run(load_recipe(tiny_recipe), tmp_path / "run")
    assert counts == {"records": 8, "labels": 15, "tests": {"test": 4, "unseen": 4}, "warnings": []}
    (warning,) = check_run(load_recipe(tiny_recipe, ["data.max_train_records=1"]), tmp_path / "run")["warnings"]
    assert warning.startswith("train never shows ")
