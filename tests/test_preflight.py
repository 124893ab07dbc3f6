"""A look at every file before a run, in bounded memory."""

import tracemalloc

import numpy as np
from datasets import Dataset, Features, Image, Value

from seggen_hf.preflight import _digests


def test_pictures_are_not_in_memory_together(tmp_path):
    """An executor takes all its arguments at once: were they pictures, a data set of 100 GB would have to fit."""
    features = Features({"image": Image(decode=False), "image_id": Value("string")})
    pixels = np.random.default_rng(0).bytes(1_000_000)
    rows = [{"image": {"bytes": pixels + bytes([i]), "path": None}, "image_id": str(i)} for i in range(60)]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "data")
    records = Dataset.load_from_disk(tmp_path / "data")
    del rows
    tracemalloc.start()
    try:
        found = _digests(records)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(found.values()) == [str(i) for i in range(60)]
    assert peak < 20_000_000
