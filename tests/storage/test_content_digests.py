"""Digests of weights and records: what changes them, and what does not."""

import hashlib
import os
import shutil
import time

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image

from seggen_hf.storage import content_digests
from seggen_hf.storage.content_digests import FileDigests, even_places, records_digest, weights_digest
from seggen_hf.storage.digests import digest_of, json_digest


def test_the_digests_of_values_are_those_that_folders_hold():
    assert digest_of({"seed": 1, "records": "ab"}) == "fb277092f0e5d45f"
    assert json_digest([{"b": 1, "a": None}, {}]) == "1be570fe1e2de6c7"


def test_one_changed_weight_changes_the_digest_of_a_small_module():
    module = torch.nn.Linear(4, 4)
    before = weights_digest({"a": module})
    assert weights_digest({"a": module.bfloat16().float().bfloat16()}) == weights_digest({"a": module.float()})
    with torch.no_grad():
        module.weight[1, 2] += 1e-1
    assert weights_digest({"a": module}) != before


def test_a_copied_file_is_the_same_record_and_a_changed_one_is_not(tmp_path):
    def digest(folder):
        paths = [str(path) for path in sorted(folder.glob("*"))]
        return records_digest(Dataset.from_dict({"map": paths}, features=Features({"map": Image()})), ["map"])

    (tmp_path / "one").mkdir()
    for number in range(2):
        (tmp_path / "one" / f"{number}.png").write_bytes(bytes([number]) * 9000)
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)  # other times
    before = digest(tmp_path / "one")
    assert digest(tmp_path / "two") == before
    (tmp_path / "two" / "1.png").write_bytes(bytes([1]) * 8999 + b"x")
    assert digest(tmp_path / "two") != before


@pytest.mark.parametrize("length", [0, 1, 2, 63, 64, 65, 1000, 2**24 + 1, 29_491_200, 2**40 + 7])
def test_places_are_even_and_end_at_the_last_one(length):
    places = even_places(length, 64).tolist()
    assert len(places) == min(length, 64) and places == sorted(set(places))
    if length > 1:
        assert (places[0], places[-1]) == (0, length - 1)
        steps = {b - a for a, b in zip(places, places[1:], strict=False)}
        assert max(steps) - min(steps) <= 1


@torch.no_grad()
def test_a_tensor_of_twenty_million_elements_has_a_digest_that_its_last_one_changes():
    module = torch.nn.Embedding(20_000_000, 1)  # beyond 2^24, where float32 skips whole numbers
    before = weights_digest({"a": module})
    module.weight[-1] += 1
    assert weights_digest({"a": module}) != before


def test_a_byte_in_the_middle_of_a_file_changes_its_digest_and_the_index_sees_it(tmp_path):
    """With the size and the time of change that it had: the file system's own stamp tells."""
    file, index = tmp_path / "image.bmp", tmp_path / "cache" / "digests.sqlite"
    content = bytearray(np.random.default_rng(0).bytes(200_000))
    file.write_bytes(content)
    old = time.time() - 3600
    os.utime(file, (old, old))

    def digest() -> bytes:
        with FileDigests(index) as files:
            return files.digest(str(file))

    first = digest()
    assert digest() == first == hashlib.blake2b(content, digest_size=16).digest()
    content[70_001] ^= 1
    file.write_bytes(content)
    os.utime(file, (old, old))
    assert digest() == hashlib.blake2b(content, digest_size=16).digest() != first


def test_a_file_that_stays_is_read_once_and_without_an_index_each_time(tmp_path, monkeypatch):
    file, read = tmp_path / "image.bmp", []
    file.write_bytes(b"pixels")
    monkeypatch.setattr(content_digests, "TICK", -1)  # long ago
    file_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(1) or file_digest(*given))
    for place, expected in ((tmp_path / "index.sqlite", 1), (tmp_path / "image.bmp" / "index.sqlite", 3)):
        for _ in range(2):
            with FileDigests(place) as files:
                assert files.digest(str(file)) == hashlib.blake2b(b"pixels", digest_size=16).digest()
        assert len(read) == expected
