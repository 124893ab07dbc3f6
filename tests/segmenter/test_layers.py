import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder
from unit_segmenters import BACKBONES, unit_config

from seggen_hf.config import SegmenterConfig
from seggen_hf.segmenter.build import freeze_batch_norm
from seggen_hf.segmenter.layers import adapt_layers, enable_checkpointing
from seggen_hf.trainers.segmenter import SegmenterTask


def build(config, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Mask2FormerForUniversalSegmentation(config)
        for name, parameter in model.named_parameters():
            if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
                torch.nn.init.normal_(parameter, std=0.3)  # zeros would hide what they multiply
    return model.train()


@pytest.fixture(scope="module")
def make_task(scene_records, tmp_path_factory):
    """A `SegmenterTask` of unit size on a backbone: `make_task("swin", "panoptic", gradient_checkpointing=True)`."""

    def make(backbone, name="semantic", config_changes=None, **settings):
        folder = tmp_path_factory.mktemp("model")
        unit_config(backbone, **(config_changes or {})).save_pretrained(folder)
        settings = {"model": str(folder), "crop_height": 64, "crop_width": 64} | settings
        task = SegmenterTask.from_config(SegmenterConfig(**settings), scene_records, task=name)
        task.trainable.train()
        return task

    return make


def batch_of(task, number=2):
    return task.collate([task.sample(i, np.random.default_rng(i), 0) for i in range(number)])


def gradients(task, batch):
    task.trainable.zero_grad(set_to_none=True)
    loss, _ = task.loss(task.trainable, batch)
    loss.backward()
    return loss, {name: p.grad for name, p in task.trainable.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapted_layers_compute_what_the_librarys_do(backbone, pre_norm):
    config = unit_config(backbone, encoder_layers=2, pre_norm=pre_norm)
    theirs, ours = build(config), build(config)
    adapt_layers(ours)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    assert not any(type(module) is Mask2FormerPixelDecoder for module in ours.modules())
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    results = []
    for model in (theirs, ours):
        found = model(pixel_values=pixels, output_auxiliary_logits=True)
        layers = [*found.auxiliary_logits, found]
        logits = [layer[name] for layer in layers for name in ("masks_queries_logits", "class_queries_logits")]
        torch.stack([x.square().mean() for x in logits]).sum().backward()
        results.append((logits, {name: p.grad for name, p in model.named_parameters()}))
    for mine, other in zip(results[1][0], results[0][0], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    for name, other in results[0][1].items():
        if other is not None:
            torch.testing.assert_close(results[1][1][name], other, rtol=1e-3, atol=1e-5, msg=name)
    theirs.eval(), ours.eval()
    with torch.no_grad():
        seen = [model(pixel_values=pixels).masks_queries_logits for model in (ours, theirs)]
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)


class Copies(TorchDispatchMode):
    """Counts tensors that go from the CPU to the device."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = [x for x in args if torch.is_tensor(x)]
        if torch.is_tensor(out) and out.is_meta and given and all(x.device.type == "cpu" for x in given):
            self.number += 1
        return out


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_forward_pass_never_waits_for_the_device(backbone):
    """On meta, whose tensors have no values: whoever asks for one fails."""
    pixels = torch.empty(2, 3, 64, 64, device="meta")
    model = build(unit_config(backbone)).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        model(pixel_values=pixels)
    adapt_layers(model)
    with Copies() as copies:
        out = model(pixel_values=pixels, output_auxiliary_logits=True)
        out.masks_queries_logits.sum().backward()
    assert copies.number == 0
    with Copies() as copies:
        torch.tensor([1.0, 2.0]).to("meta")
    assert copies.number == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["semantic", "panoptic", "instance"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_gives_nearly_the_same_loss_and_finite_gradients(make_task, backbone, name):
    task = make_task(backbone, name)
    batch = batch_of(task)
    full, exact = gradients(task, batch)
    for dtype, tolerance in ((torch.bfloat16, 5e-3), (torch.float16, 2e-3)):
        with torch.autocast("cpu", dtype):
            half, rounded = gradients(task, batch)
        assert half.dtype == torch.float32 and half.item() == pytest.approx(full.item(), rel=tolerance)
        assert rounded.keys() == exact.keys() and all(g.isfinite().all() for g in rounded.values())
        flat = [torch.cat([g.flatten() for g in grads.values()]) for grads in (exact, rounded)]
        assert torch.cosine_similarity(*flat, dim=0) > 0.9


def test_under_autocast_places_and_sampling_stay_float32(make_task):
    """On a feature map of 300 places a side bfloat16 would put many sampling points into the same cell."""
    task, seen = make_task("swin"), []
    decoder = task.trainable.model.pixel_level_module.decoder
    attention = decoder.encoder.layers[0].self_attn
    attention.register_forward_pre_hook(lambda module, args: seen.extend(args[:4]))
    attention.sampling_offsets.register_forward_hook(lambda module, args, out: seen.append(out))
    attention.value_proj.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        task.loss(task.trainable, batch_of(task))
    *places, value, offsets = seen
    assert all(x.dtype == torch.float32 for x in (*places, offsets)) and value.dtype == torch.bfloat16
    assert len(places[2].unique(dim=1)[0]) == places[2].shape[1]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_recomputed_activations_change_no_gradient(make_task, backbone, frozen):
    """With stochastic depth and dropout, whose draws must come again; and each batch enters batch norm once."""
    changes = {"dropout": 0.2, "encoder_layers": 2} | ({"drop_path_rate": 0.5} if backbone == "swin" else {})
    results = []
    for checkpointing in (False, True):
        task = make_task(backbone, config_changes=changes, gradient_checkpointing=checkpointing)
        norms = freeze_batch_norm(task.trainable) if frozen else 0
        assert bool(norms) == (frozen and backbone == "resnet")
        batch, kept = batch_of(task), {}

        def pack(x, kept=kept):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss, _ = task.loss(task.trainable, batch)
        loss.backward()
        grads = {name: p.grad for name, p in task.trainable.named_parameters() if p.grad is not None}
        results.append((loss, grads, dict(task.trainable.named_buffers()), sum(kept.values())))
    (loss, grads, buffers, kept), (again, grads_again, buffers_again, kept_again) = results
    assert loss.item() == again.item() and grads.keys() == grads_again.keys()
    for one, other in ((grads, grads_again), (buffers, buffers_again)):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-6)
    assert kept_again < 0.7 * kept


def test_swins_layers_are_recomputed_once_and_all_parts_take_part(make_task):
    task, runs = make_task("swin", gradient_checkpointing=True), []
    parts = {
        "swin": task.trainable.model.pixel_level_module.encoder.swin.encoder.layers[1].blocks[1].mlp,
        "encoder": task.trainable.model.pixel_level_module.decoder.encoder.layers[0].fc1,
        "decoder": task.trainable.model.transformer_module.decoder.layers[1].fc1,
    }
    for name, module in parts.items():
        module.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
    gradients(task, batch_of(task))
    assert {name: runs.count(name) for name in parts} == dict.fromkeys(parts, 2)


def test_a_backbone_that_cannot_be_recomputed_is_refused():
    model = build(unit_config("resnet"))
    adapt_layers(model)
    encoder = model.model.pixel_level_module.encoder
    encoder.encoder.stages = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="A resnet backbone has no --gradient_checkpointing"):
        enable_checkpointing(model)
