"""Digests of weights and records: what changes them, and what does not."""

import shutil

import torch
from datasets import Dataset, Features, Image

from seggen_hf.digests import records_digest, weights_digest


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
