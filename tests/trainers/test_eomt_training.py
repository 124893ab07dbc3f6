"""EoMT from a setting to a scored folder, for every task and both kinds of ViT."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from unit_segmenters import eomt_config, maskformer_config

from seggen_hf.config import SegmenterConfig
from seggen_hf.data.schema import labels_of
from seggen_hf.segmenter.build import load_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.tasks import TASKS
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.segmenter import SegmenterTask

KINDS = ("eomt", "eomt_dinov3")


@pytest.fixture(scope="module")
def make_task(scene_records, tmp_path_factory):
    """A `SegmenterTask` of unit size: `make_task("eomt_dinov3", "panoptic", gradient_checkpointing=True)`."""

    def make(kind, name="semantic", records=None, config=None, **settings):
        folder = tmp_path_factory.mktemp("model")
        (config or (maskformer_config() if kind == "maskformer" else eomt_config(kind))).save_pretrained(folder)
        settings = {"model": str(folder), "crop_height": 64, "crop_width": 64, "train_batch_size": 2} | settings
        settings.setdefault("output_dir", str(tmp_path_factory.mktemp("training")))
        records = scene_records if records is None else records
        task = SegmenterTask.from_config(
            SegmenterConfig(**settings), records, validation_records=records.select(range(2)), task=name
        )
        task.trainable.train()
        return task

    return make


def batch_of(task, number=2, step=0, **changes):
    return task.collate([task.sample(i, np.random.default_rng(i), step) | changes for i in range(number)])


def gradients(task, batch):
    task.trainable.zero_grad(set_to_none=True)
    loss, parts = task.loss(task.trainable, batch)
    loss.backward()
    return loss, parts, {name: p.grad for name, p in task.trainable.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", [*KINDS, "maskformer"])
def test_every_task_trains_is_scored_and_loads_again(make_task, scene_records, kind, name):
    task = make_task(kind, name, max_train_steps=6, learning_rate=1e-2, lr_scheduler="constant", max_grad_norm=1.0)
    loss, parts, found = gradients(task, batch_of(task))
    assert set(found) == {n for n, p in task.trainable.named_parameters() if p.requires_grad}
    assert loss.item() == pytest.approx(sum(v.item() for k, v in parts.items() if k.startswith("loss")), rel=1e-5)
    before = {n: p.clone() for n, p in task.trainable.named_parameters()}
    run = train(task, task.config)
    changed = [n for n, p in task.trainable.named_parameters() if not torch.equal(p, before[n])]
    assert set(changed) == set(found) and f"validation/{TASKS[name].metric}" in run.history[-1]
    labels = labels_of(scene_records)
    model, processor = load_segmenter(run.folder, labels)
    if kind != "maskformer":
        assert model.attn_mask_probs.tolist() == [0.0, 0.0]
    few = scene_records.select(range(2))
    scores = evaluate_segmenter(model, processor, few, task=name, labels=labels)
    assert scores[TASKS[name].metric] == pytest.approx(run.history[-1][f"validation/{TASKS[name].metric}"], abs=1e-6)
    assert ("squares of 64" in scores["protocol"]) == (kind != "maskformer")


@pytest.mark.parametrize("kind", KINDS)
def test_whose_queries_look_everywhere_follows_from_step_and_seeds(make_task, kind):
    task = make_task(kind, max_train_steps=400)
    first, again, later = (batch_of(task, step=step) for step in (150, 150, 399))
    assert torch.equal(first["unmasked"], again["unmasked"]) and first["unmasked"].shape == (2, 2, 10)
    assert first["mask_probabilities"].tolist() == pytest.approx([0.5**0.9, 1.0]) and not first["unmasked"][:, 1].any()
    assert later["unmasked"].all() and not batch_of(task, step=0)["unmasked"].any()
    shares = [batch_of(task, 8, 150, seed=seed)["unmasked"][:, 0].float().mean() for seed in range(40)]
    assert np.mean(shares) == pytest.approx(1 - 0.5**0.9, abs=0.1)
    assert gradients(task, first)[0].item() == gradients(task, again)[0].item()
    assert task.trainable.attn_mask_probs.tolist() == pytest.approx([0.5**0.9, 1.0])
    other = batch_of(task, step=150, seed=5)["unmasked"]
    assert not torch.equal(other, first["unmasked"])


@pytest.mark.parametrize("kind", [*KINDS, "maskformer"])
def test_void_pixels_and_images_without_a_mask_do_no_harm(make_task, scene_records, kind):
    """An image that nobody labelled, beside another and alone."""
    task = make_task(kind)
    samples = [task.sample(i, np.random.default_rng(i), 0) for i in range(2)]
    nothing = samples[1]["targets"]
    nothing.valid_mask[:] = False
    nothing.mask_labels, nothing.class_labels = nothing.mask_labels[:0], nothing.class_labels[:0]
    for batch in (samples, samples[1:]):
        loss, _, found = gradients(task, task.collate(batch))
        assert loss.isfinite() and all(g.isfinite().all() for g in found.values())
        assert set(found) == {n for n, p in task.trainable.named_parameters() if p.requires_grad}
    assert loss.item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_rates_grow_from_the_first_block_to_the_last(make_task, kind):
    task = make_task(kind, learning_rate=1e-3, backbone_lr_multiplier=0.04)
    names = {id(p): name for name, p in task.trainable.named_parameters()}
    of = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in task.parameter_groups() for p in g["params"]}
    assert set(of) == set(names.values())
    for block, rate in enumerate((4e-5, 2e-4, 1e-3)):
        assert of[f"layers.{block}.attention.q_proj.weight"] == pytest.approx((rate, 0.05))
        assert of[f"layers.{block}.norm1.weight"] == pytest.approx((rate, 0.0))
    assert of["embeddings.cls_token"] == pytest.approx((4e-5, 0.05))
    assert of["layernorm.weight"] == of["query.weight"] == pytest.approx((1e-3, 0.0))
    assert of["class_predictor.weight"] == of["mask_head.fc1.weight"] == pytest.approx((1e-3, 0.05))


@pytest.mark.parametrize("kind", [*KINDS, "maskformer"])
def test_recomputed_activations_change_no_gradient(make_task, kind):
    changes = {} if kind == "maskformer" else {"config": eomt_config(kind, drop_path_rate=0.3)}
    plain, recomputed = (make_task(kind, gradient_checkpointing=on, **changes) for on in (False, True))
    assert any(getattr(m, "gradient_checkpointing", False) for m in recomputed.trainable.modules())
    batch = batch_of(plain, step=50_000)
    first, again = gradients(plain, batch), gradients(recomputed, batch)
    assert first[0].item() == again[0].item() and first[2].keys() == again[2].keys()
    for name, gradient in first[2].items():
        torch.testing.assert_close(again[2][name], gradient, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_gives_nearly_the_same_loss_and_finite_gradients(make_task, kind):
    task = make_task(kind)
    batch = batch_of(task)
    full, _, exact = gradients(task, batch)
    for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 5e-3)):
        with torch.autocast("cpu", dtype):
            half, _, rounded = gradients(task, batch)
        assert half.dtype == torch.float32 and half.item() == pytest.approx(full.item(), rel=tolerance)
        assert rounded.keys() == exact.keys() and all(g.isfinite().all() for g in rounded.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(make_task, kind, tmp_path):
    """To the bit, with the average of its weights: the annealing goes on where it was."""
    weights = []
    config = eomt_config(kind, drop_path_rate=0.2, **{"pos_embed_rescale": 2.0} if kind == "eomt_dinov3" else {})
    settings = {"max_train_steps": 4, "checkpointing_steps": 2, "ema_decay": 0.9, "learning_rate": 1e-3}
    task = make_task(kind, config=config, output_dir=str(tmp_path), **settings)
    for part in (0, 1):
        folder = train(task, task.config).folder
        weights.append(load_file(folder / "model.safetensors"))
        if part == 0:
            shutil.rmtree(tmp_path / "checkpoints" / "step-00000004")
            task = make_task(kind, config=config, output_dir=str(tmp_path), **settings | {"model": task.config.model})
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    assert weights[0]["attn_mask_probs"].tolist() == [0.0, 0.0]
