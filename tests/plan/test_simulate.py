"""A step on the meta device against the same step with real tensors."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from seggen_hf.config import SegmenterConfig, Text2MaskConfig
from seggen_hf.labels import LabelSet
from seggen_hf.plan import memory_tracker
from seggen_hf.plan.generators import plan_text2mask
from seggen_hf.plan.memory_tracker import MemoryTracker
from seggen_hf.plan.meta_mode import MetaMode
from seggen_hf.plan.segmenter import plan_segmenter
from seggen_hf.plan.simulate import cost_of_inference, cost_of_training, empty


def layers(device):
    with torch.device(device):
        return torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64))


def test_the_tracker_counts_what_autograd_keeps():
    module = layers("meta")
    cost = cost_of_training([module], lambda: module(empty(128, 256)).sum(), "no")
    weights = 4 * sum(p.numel() for p in module.parameters())
    assert cost.weights == pytest.approx(weights, abs=4 * 512) and cost.gradients == weights
    # 2 operations a multiplication: forward, and backward for weights twice and inputs once (the first has none).
    assert cost.flops == 2 * 128 * (256 * 512 + 512 * 64) * 2 + 2 * 128 * 512 * 64
    assert cost.activations >= 4 * 128 * 512  # what ReLU keeps


def test_inference_keeps_no_layer_but_the_last():
    module = layers("meta")
    assert cost_of_inference([module], lambda: module(empty(128, 256))).activations < 4 * 128 * (256 + 2 * 512 + 64)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_unets_step_takes_on_meta_what_it_takes_in_memory(miniature_dir, checkpointing):
    """To a twentieth: the same count of bytes, over a real forward and backward pass on the CPU."""
    config = UNet2DConditionModel.load_config(miniature_dir, subfolder="unet")
    tokens, pooled = config["cross_attention_dim"], 16

    def peak(device):
        with torch.device(device):
            unet = UNet2DConditionModel.from_config(config).train()
            if checkpointing:
                unet.enable_gradient_checkpointing()
            shapes = (4, 4, 32, 32), (4, 32, tokens), (4, pooled), (4, 6)
            noisy, embeds, texts, ids = (torch.zeros(shape) for shape in shapes)
            steps = torch.zeros(4, dtype=torch.long)

        def loss():
            added = {"text_embeds": texts, "time_ids": ids}
            return unet(noisy, steps, embeds, added_cond_kwargs=added).sample.square().mean()

        if device == "meta":
            return cost_of_training([unet], loss, "no").peak
        tracker = MemoryTracker(device)
        tracker.hold(unet.parameters())
        with tracker:
            loss().backward()
        return tracker.peak

    assert peak("meta") == pytest.approx(peak("cpu"), rel=0.05)


@pytest.mark.slow
def test_what_is_remembered_is_what_torch_gives(miniature_dir, monkeypatch):
    """The whole plans of a generator's training and a segmenter's, with and without it, and again with all known."""
    config = Text2MaskConfig(base_model=str(miniature_dir), height=32, width=32, mixed_precision="bf16")
    labels = LabelSet.from_id2label({0: "sky", 1: "sea"})
    segmenter = SegmenterConfig(model="unit", crop_height=64, crop_width=64, train_batch_size=2)

    def both():
        plans = plan_text2mask(config), plan_segmenter(segmenter, labels)
        return [plan.memory | plan.phases | {"flops": plan.flops} for plan in plans]

    monkeypatch.setattr(memory_tracker, "REMEMBERED", memory_tracker.Remembered())
    assert both() == (again := both())
    monkeypatch.setattr(memory_tracker.Remembered, "run", lambda self, *given: memory_tracker.run_anew(*given))
    assert both() == again


def test_only_new_tensors_are_remembered():
    remembered, aten = memory_tracker.Remembered(), torch.ops.aten

    def run(func, *args):
        return remembered.run(func, args, {})[0]

    whole, number = empty(4, 6), torch.empty(3, dtype=torch.int64, device="meta")
    for func, args in (
        (aten.view.default, (whole, [24])),
        (aten._unsafe_view.default, (whole, [24])),
        (aten.transpose.int, (whole, 0, 1)),
        (aten.add_.Tensor, (whole, 1)),
    ):
        for _ in range(2):
            assert run(func, *args).untyped_storage()._cdata == whole.untyped_storage()._cdata
    for one, dtype in ((1, torch.int64), (1.0, torch.float32), (True, torch.int64)):  # equal, and of different types
        for _ in range(2):
            assert run(aten.add.Tensor, number, one).dtype == dtype
    turned = [run(aten.clone.default, whole.t()) for _ in range(2)]
    assert turned[0].stride() == turned[1].stride() == (1, 6) and turned[0] is not turned[1]
    split = [run(aten.native_layer_norm.default, whole, [6], None, None, 1e-5) for _ in range(2)]
    assert [t.shape for t in split[0]] == [t.shape for t in split[1]] and isinstance(split[1], tuple)


def test_autocast_casts_what_cuda_casts():
    module = torch.nn.Linear(8, 8, device="meta")
    mode = MetaMode(torch.bfloat16)
    with mode.forward():
        product = module(empty(2, 8))
        assert product.dtype == torch.bfloat16
        for function in (
            lambda x: torch.nn.functional.layer_norm(x, (8,)),
            lambda x: x.softmax(-1),
            lambda x: torch.nn.functional.group_norm(x[None], 2),
            lambda x: x.sum(),
        ):
            assert function(product).dtype == torch.float32
        assert torch.nn.functional.silu(product).dtype == torch.bfloat16  # takes what it gets
        with torch.autocast("meta", enabled=False):
            assert module(empty(2, 8)).dtype == torch.float32
    mode.backward(product.float().sum())
    assert module.weight.grad.dtype == torch.float32
