"""Fixtures that several folders of tests share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def miniature_dir(tmp_path_factory) -> Path:
    """A unit-size SDXL folder with random weights, whose tokenizer knows the scenes' words."""
    from seggen_hf.data.scenes import SCENE_WORDS
    from seggen_hf.miniature import save_miniature

    return save_miniature(tmp_path_factory.mktemp("base") / "miniature", "unit", SCENE_WORDS, seed=0)


@pytest.fixture(scope="session")
def scene_records():
    """Eight labelled scene records."""
    from seggen_hf.data.scenes import scene_records

    return scene_records("train", num_records=8)


@pytest.fixture(scope="session")
def shared_data_dir() -> Path:
    """The real data sets; not part of the project."""
    folder = Path(os.environ.get("SEGGEN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SEGGEN_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def camvid_dir(shared_data_dir) -> Path:
    folder = shared_data_dir / "camvid"
    if not folder.is_dir():
        pytest.skip(f"no CamVid at {folder}")
    return folder
