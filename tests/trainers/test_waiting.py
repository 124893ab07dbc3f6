"""A training gives its device everything at once: nothing in a forward pass makes it wait."""

import pytest
import torch
from generators import build
from waits import Copies, Literals, copies_of_a_step


def test_what_waits_is_noted():
    found: list[str] = []
    with Copies(found), Literals(found):
        torch.ones(2).to("meta")
        torch.tensor([1.0], device="meta")
        torch.full((2,), 1.0, device="meta")
    assert found == ["_to_copy", "tensor"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("text2mask", {}),
        ("text2mask", {"lora_rank": 4, "snr_gamma": 5.0}),
        ("mask2img", {"snr_gamma": 5.0}),
        ("mask2img", {"lora_rank": 4}),
        ("mask2img", {"train_base": True, "gradient_checkpointing": True}),
    ],
)
def test_a_generators_loss_waits_for_nothing(kind, changes, miniature_dir, scene_records, tmp_path):
    task, _ = build(kind, miniature_dir, tmp_path, scene_records, **changes)
    task.to(torch.device("cpu"), torch.float32)
    assert copies_of_a_step(task, task.base.unet) == []
