import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.overrides import TorchFunctionMode
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as library

from seggen_hf.segmenter.loss import (
    SegmentationTargets,
    count_points,
    draw_pixels,
    draw_points,
    matching_cost,
    panoptic_targets,
    pixel_centers,
    sample_logits,
    segmentation_loss,
    semantic_targets,
)

NUM_LABELS, QUERIES, SIZE = 5, 8, 32


def config(**changes):
    settings = {"train_num_points": 200, "num_queries": QUERIES, "id2label": {i: str(i) for i in range(NUM_LABELS)}}
    return Mask2FormerConfig(**settings | changes)


def outputs(batch=2, layers=3, size=SIZE, seed=0):
    """Random model outputs with gradients; a small mask resolution imitates stride 4."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(layers):
        classes = torch.randn(batch, QUERIES, NUM_LABELS + 1, generator=generator)
        masks = torch.randn(batch, QUERIES, size, size, generator=generator) * 3
        made.append({"class_queries_logits": classes.requires_grad_(), "masks_queries_logits": masks.requires_grad_()})
    return library.Mask2FormerForUniversalSegmentationOutput(**made[-1], auxiliary_logits=made[:-1])


def blocks(seed=0, void=0):
    """A label map of 8-pixel blocks whose last `void` columns are ignored."""
    labels = torch.randint(0, NUM_LABELS, (SIZE // 8, SIZE // 8), generator=torch.Generator().manual_seed(seed))
    segmentation_map = labels.repeat_interleave(8, 0).repeat_interleave(8, 1)
    if void:
        segmentation_map[:, -void:] = 255
    return segmentation_map


def loss_of(out, targets, seeds, settings):
    return segmentation_loss(out, draw_points(targets, seeds, settings), settings)


def leaves(out):
    return [
        t
        for layer in [*out.auxiliary_logits, out]
        for t in (layer["class_queries_logits"], layer["masks_queries_logits"])
    ]


def test_without_void_it_is_the_librarys_loss_at_the_same_points(monkeypatch):
    settings = config(importance_sample_ratio=0.75)
    out, target = outputs(batch=1), semantic_targets(blocks())
    loss, parts = loss_of(out, [target], [7], settings)
    gradients = torch.autograd.grad(loss, leaves(out))

    points = draw_pixels(target.valid_mask, 7, 200 + 600 + 50)
    coordinates = torch.stack([(points % SIZE + 0.5) / SIZE, (points // SIZE + 0.5) / SIZE], -1)
    ours = dict(zip((200, 600, 50), coordinates.split([200, 600, 50]), strict=True))
    monkeypatch.setattr(torch, "rand", lambda n, count, _, device=None: ours[count].expand(n, -1, -1).clone())
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    criterion = library.Mask2FormerLoss(settings, weights)
    losses = criterion(
        out.masks_queries_logits,
        out.class_queries_logits,
        [target.mask_labels.float()],
        [target.class_labels],
        out.auxiliary_logits,
    )
    theirs = {name: sum(v * w for key, v in losses.items() if name in key) for name, w in weights.items()}
    for name, value in theirs.items():
        assert parts[name].item() == pytest.approx(value.item(), rel=1e-5), name
    for mine, other in zip(gradients, torch.autograd.grad(sum(theirs.values()), leaves(out)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)


def test_dice_of_images_is_weighed():
    """Half the factors, half the loss; no Dice of an image leaves that of the others, and nothing else moves."""
    settings = config()
    points = draw_points([semantic_targets(blocks(seed)) for seed in (0, 1)], [3, 4], settings)

    def weighed(*weights):
        return segmentation_loss(outputs(), points, settings, torch.tensor(weights) if weights else None)

    whole, parts = weighed()
    halved, half = weighed(0.5, 0.5)
    torch.testing.assert_close(half["loss_dice"], parts["loss_dice"] / 2)
    torch.testing.assert_close(halved, whole - parts["loss_dice"] / 2)
    alone = [weighed(*weights)[1]["loss_dice"] for weights in ((1.0, 0.0), (0.0, 1.0))]
    assert all(0 < dice < parts["loss_dice"] for dice in alone)
    torch.testing.assert_close(alone[0] + alone[1], parts["loss_dice"])


def test_matching_cost_is_the_librarys():
    settings, out, target = config(), outputs(batch=1, layers=1), semantic_targets(blocks())
    points = out.masks_queries_logits.flatten(2)  # all pixels
    labels = target.mask_labels.flatten(1).float()
    cost = matching_cost(out.class_queries_logits, points, labels[None], target.class_labels[None], settings)
    flat = points[0]
    expected = (
        5 * library.pair_wise_sigmoid_cross_entropy_loss(flat, labels)
        + 5 * library.pair_wise_dice_loss(flat, labels)
        - 2 * out.class_queries_logits[0].softmax(-1)[:, target.class_labels]
    )
    torch.testing.assert_close(cost[0], expected, rtol=1e-4, atol=1e-5)
    assert (linear_sum_assignment(cost[0].detach())[0] == linear_sum_assignment(expected.detach())[0]).all()


@pytest.mark.parametrize(("mask_size", "first_free_column"), [(SIZE, SIZE - 12), (SIZE // 4, SIZE // 4 - 2)])
def test_logits_under_void_pixels_change_neither_loss_nor_gradients(mask_size, first_free_column):
    # At stride 4 a void column's logit also enters its neighbors' interpolation: one cell more is not free.
    target = semantic_targets(blocks(void=12))
    before, after = outputs(batch=1, size=mask_size), outputs(batch=1, size=mask_size)
    with torch.no_grad():
        for layer in [*after.auxiliary_logits, after]:
            layer["masks_queries_logits"][..., first_free_column:] += 50 * torch.randn(mask_size - first_free_column)
    losses = [loss_of(out, [target], [3], config())[0] for out in (before, after)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    gradients = [torch.autograd.grad(loss, leaves(out)) for loss, out in zip(losses, (before, after), strict=True)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        if a.shape[-1] == mask_size:
            assert a[..., :first_free_column].abs().sum() > 0
            assert a[..., first_free_column:].abs().sum() == 0


def test_segments_are_targets_and_void_and_crowds_are_not_negatives():
    panoptic_map = torch.tensor([[5, 5, 0, 9], [5, 7, 7, 9], [70_000, 70_000, 7, 9]])
    segments = [
        {"id": 5, "category_id": 2, "isthing": True, "iscrowd": False},
        {"id": 7, "category_id": 0, "isthing": False, "iscrowd": False},
        {"id": 9, "category_id": 2, "isthing": True, "iscrowd": True},
        {"id": 70_000, "category_id": 2, "isthing": True, "iscrowd": False},
        {"id": 11, "category_id": 1, "isthing": True, "iscrowd": False},  # cut away
    ]
    targets = panoptic_targets(panoptic_map, segments)
    assert targets.class_labels.tolist() == [2, 0, 2] and targets.mask_labels.dtype == torch.bool
    for mask, id in zip(targets.mask_labels, (5, 7, 70_000), strict=True):
        assert torch.equal(mask, panoptic_map == id)
    assert torch.equal(targets.valid_mask, (panoptic_map != 0) & (panoptic_map != 9))
    things = panoptic_targets(panoptic_map, segments, things_only=True)
    assert things.class_labels.tolist() == [2, 2] and torch.equal(things.valid_mask, targets.valid_mask)
    nothing = panoptic_targets(torch.zeros(3, 4, dtype=torch.int64), segments)
    assert nothing.mask_labels.shape == (0, 3, 4) and not nothing.valid_mask.any()


def test_points_are_drawn_among_labelled_pixels_by_the_seed_alone():
    valid = semantic_targets(blocks(void=12)).valid_mask
    points = draw_pixels(valid, 5, 4000)
    assert valid.flatten()[points].all()
    assert len(points.unique()) > 0.98 * valid.sum()
    assert torch.equal(points, draw_pixels(valid, 5, 4000)) and not torch.equal(points, draw_pixels(valid, 6, 4000))


def test_points_see_what_interpolation_at_inference_shows():
    logits = torch.randn(1, 3, 8, 8)
    enlarged = torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)
    sampled = sample_logits(logits, pixel_centers(torch.arange(32 * 32)[None], 32, 32))
    torch.testing.assert_close(sampled, enlarged.flatten(2), rtol=0, atol=1e-5)


def test_the_loss_of_a_batch_is_that_of_its_parts_with_common_normalizers(monkeypatch):
    """What two processes compute, with the sum over processes put in by hand."""
    targets = [semantic_targets(blocks(seed, void)) for seed, void in ((0, 0), (1, 12), (2, 24), (3, 0))]
    seeds, settings = [4, 5, 6, 7], config()
    out = outputs(batch=4)
    joint, _ = loss_of(out, targets, seeds, settings)

    def part(rows):
        cut = [
            {k: v[rows] for k, v in layer.items() if k.endswith("queries_logits")}
            for layer in [*out.auxiliary_logits, out]
        ]
        return library.Mask2FormerForUniversalSegmentationOutput(**cut[-1], auxiliary_logits=cut[:-1])

    totals = []
    import seggen_hf.segmenter.loss as module

    monkeypatch.setattr(module, "sum_over_processes", lambda values: (totals.append(values), (values, 1))[1])
    for rows in (slice(0, 2), slice(2, 4)):
        loss_of(part(rows), targets[rows], seeds[rows], settings)
    total = totals[0] + totals[1]
    monkeypatch.setattr(module, "sum_over_processes", lambda values: (total, 2))
    halves = [loss_of(part(rows), targets[rows], seeds[rows], settings)[0] for rows in (slice(0, 2), slice(2, 4))]
    assert (sum(halves) / 2).item() == pytest.approx(joint.item(), rel=1e-6)


def test_images_without_labelled_pixels_add_nothing_and_keep_the_graph():
    empty = semantic_targets(torch.full((SIZE, SIZE), 255))
    out = outputs(batch=2)
    both, _ = loss_of(out, [semantic_targets(blocks()), empty], [1, 2], config())
    assert all(g[1].abs().sum() == 0 for g in torch.autograd.grad(both, leaves(out)))
    nothing, _ = loss_of(out, [empty, empty], [1, 2], config())
    assert nothing.item() == 0
    assert all(g is not None for g in torch.autograd.grad(nothing, leaves(out)))


def test_more_masks_than_queries_and_overlapping_masks_are_matched():
    masks = torch.rand(QUERIES + 3, SIZE, SIZE) < 0.3
    target = SegmentationTargets(masks, torch.zeros(QUERIES + 3, dtype=torch.int64), torch.ones(SIZE, SIZE) > 0)
    loss, _ = loss_of(outputs(batch=1), [target], [1], config())
    assert torch.isfinite(loss)


class Waits(TorchFunctionMode):
    """Counts calls for which a GPU's queue of work must first be done."""

    ASKING = ("cpu", "numpy", "item", "tolist", "nonzero", "unique", "masked_select", "__bool__", "__float__")
    number = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        indexes = args[1] if name in ("__getitem__", "__setitem__") else ()
        indexes = indexes if isinstance(indexes, tuple) else (indexes,)
        by_mask = any(torch.is_tensor(index) and index.dtype == torch.bool for index in indexes)
        moved = name == "to" and not kwargs.get("non_blocking") and torch.device in map(type, args)
        copied = moved or name in ("tensor", "as_tensor")
        self.number += name in self.ASKING or by_mask or copied
        return function(*args, **kwargs)


def test_the_device_is_waited_for_once():
    """For the costs of all images and layers; a thousand small waits a second is what a GPU otherwise does."""
    targets = draw_points([semantic_targets(blocks(seed, 8)) for seed in range(3)], [1, 2, 3], config())
    with Waits() as waits:
        loss, _ = segmentation_loss(outputs(batch=3, layers=4), targets, config())
    assert waits.number == 2  # `cpu`, and `numpy` of what is there
    with Waits() as waits:
        loss.cpu(), loss.item(), loss.expand(3)[torch.ones(3) > 0], bool(loss > 0), torch.tensor(1.0)
        loss.to(loss.device), loss.to(loss.device, non_blocking=True)
    assert waits.number == 6


def test_half_precision_logits_are_summed_in_float32():
    out, targets = outputs(), [semantic_targets(blocks(seed)) for seed in range(2)]
    for layer in [*out.auxiliary_logits, out]:
        for name in ("class_queries_logits", "masks_queries_logits"):
            layer[name] = layer[name].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = loss_of(out, targets, [1, 2], config())
    assert all(value.dtype == torch.float32 for value in (loss, *parts.values()))
    loss.backward()
    assert all(leaf.grad.isfinite().all() and leaf.grad.dtype == torch.bfloat16 for leaf in leaves(out))
    for layer in [*out.auxiliary_logits, out]:
        for name in ("class_queries_logits", "masks_queries_logits"):
            layer[name] = layer[name].float()
    assert loss_of(out, targets, [1, 2], config())[0].item() == loss.item()


def test_a_batch_holds_what_its_points_say():
    targets = [semantic_targets(blocks(void=12)), semantic_targets(torch.full((SIZE, SIZE), 255))]
    batch = draw_points(targets, [5, 6], config())
    assert batch.num_masks == [len(targets[0].class_labels), 0] and batch.is_labelled.tolist() == [True, False]
    columns, rows = (batch.centers[0] * SIZE - 0.5).round().long().unbind(-1)
    assert torch.equal(batch.labels[0], targets[0].mask_labels[:, rows, columns]) and not batch.labels[1].any()
    assert targets[0].valid_mask[rows, columns].all() and len(rows) == sum(count_points(config()))


def test_diverged_outputs_are_named():
    out = outputs(batch=1)
    with torch.no_grad():
        out.masks_queries_logits[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="learning_rate"):
        loss_of(out, [semantic_targets(blocks())], [1], config())
