"""Digests of weights and records: what changes them, and what does not."""

import shutil

import pytest
import torch
from datasets import Dataset, Features, Image

from seggen_hf.content_digests import even_places, records_digest, weights_digest
from seggen_hf.digests import digest_of, json_digest


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
