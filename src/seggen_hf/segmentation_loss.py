"""Mask2Former's training loss, with pixels that nobody labelled left out and every random draw seeded per sample.

What differs from `transformers`' `Mask2FormerLoss`, whose matching cost is computed and loss functions are reused:
- Points are drawn among the labelled pixels only. There, void pixels are negatives of every mask.
- One set of candidate points per image, from that image's own seed, serves all its masks and decoder layers. A batch
  therefore has the same loss however it is split over processes; and one sampling call replaces several per image.
- Both normalizers (masks, and weights of the classification) are sums over all processes divided by their number, so
  the mean of the processes' losses is the loss of the joint batch. There, `get_num_masks` divides twice.
- Points lie on pixel centers and logits are extended at the border, as in the interpolation at inference.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch.nn.utils.rnn import pad_sequence
from transformers.models.mask2former.modeling_mask2former import (
    dice_loss,
    sample_point,
    sigmoid_cross_entropy_loss,
)


@dataclass
class SegmentationTargets:
    """What the masks of one image should be.

    mask_labels (bool, `(num_masks, height, width)`), class_labels (int64, `(num_masks,)`), and valid_mask (bool,
    `(height, width)`): pixels that are labelled; all others count neither for nor against any mask.
    """

    mask_labels: torch.Tensor
    class_labels: torch.Tensor
    valid_mask: torch.Tensor


def semantic_targets(segmentation_map: torch.Tensor, ignore_index: int = 255) -> SegmentationTargets:
    """One mask per label in `segmentation_map` (integers, `(height, width)`)."""
    valid_mask = segmentation_map != ignore_index
    class_labels = torch.unique(segmentation_map[valid_mask]).long()
    mask_labels = segmentation_map[None] == class_labels[:, None, None]
    return SegmentationTargets(mask_labels, class_labels, valid_mask)


def panoptic_targets(panoptic_map: torch.Tensor, segments_info, things_only: bool = False) -> SegmentationTargets:
    """One mask per segment in `panoptic_map` (integers, `(height, width)`).

    Void (0) and crowds, whose instances nobody knows, count neither for nor against any mask. With `things_only`, for
    instance segmentation, stuff has no mask of its own and is against all others'.

    Args:
        segments_info: `id`, `category_id`, `isthing` and `iscrowd` of the segments; some may have no pixel left.
    """
    info = {int(s["id"]): s for s in segments_info if not s.get("iscrowd", False)}
    ids = torch.unique(panoptic_map)
    labelled = ids[torch.tensor([i in info for i in ids.tolist()], dtype=torch.bool)]
    masked = [i for i in labelled.tolist() if info[i]["isthing"] or not things_only]
    class_labels = torch.tensor([info[i]["category_id"] for i in masked], dtype=torch.int64)
    mask_labels = panoptic_map[None] == torch.tensor(masked, dtype=panoptic_map.dtype)[:, None, None]
    return SegmentationTargets(mask_labels, class_labels, torch.isin(panoptic_map, labelled))


def sum_over_processes(values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum `values` over all processes (collective), and how many there are."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return values, 1
    values = values.clone()
    torch.distributed.all_reduce(values)
    return values, torch.distributed.get_world_size()


def pixel_centers(indices: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Normalized (x, y) in [0, 1] of flat pixel indices: `(...)` -> `(..., 2)`."""
    x = (indices % width + 0.5) / width
    y = (torch.div(indices, width, rounding_mode="floor") + 0.5) / height
    return torch.stack([x, y], dim=-1)


def sample_logits(logits: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Value of low-resolution `logits` (batch, channels, h, w) at `pixel_centers` (batch, points, 2)."""
    return sample_point(logits, centers.to(logits.dtype), align_corners=False, padding_mode="border")


@torch.no_grad()
def matching_cost(class_logits, point_logits, point_labels, class_labels, config) -> torch.Tensor:
    """Cost of each query for each mask: the one of `Mask2FormerHungarianMatcher`, for all images and layers at once.

    Args:
        class_logits (`(batch, layers, queries, num_labels + 1)`), point_logits (`(batch, layers, queries, points)`),
        point_labels (`(batch, num_masks, points)`), class_labels (`(batch, num_masks)`).
    Returns: float32 `(batch, layers, queries, num_masks)`.
    """
    layers, queries, points = point_logits.shape[1:]
    logits, probabilities = point_logits.flatten(1, 2), point_logits.flatten(1, 2).sigmoid()
    labels = point_labels.transpose(1, 2)  # (B, P, N)
    with torch.autocast(logits.device.type, enabled=False):  # sums over thousands of points need float32
        mask_cost = (F.softplus(logits).sum(-1, keepdim=True) - logits @ labels) / points
        sizes = probabilities.sum(-1, keepdim=True) + labels.sum(1, keepdim=True)
        dice_cost = 1 - (2 * probabilities @ labels + 1) / (sizes + 1)
    cost = (config.mask_weight * mask_cost + config.dice_weight * dice_cost).unflatten(1, (layers, queries))
    wanted = class_labels[:, None, None].expand(-1, layers, queries, -1)
    return cost - config.class_weight * class_logits.softmax(-1).gather(-1, wanted)


def match(cost: torch.Tensor, num_masks: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Assign queries to the first `num_masks[i]` masks of image i, in each layer (Hungarian algorithm, on the CPU).

    Returns: image, layer, query and mask of each match, int64 `(matches,)` each.
    """
    if not torch.isfinite(cost).all():
        raise FloatingPointError("The segmenter's outputs are infinite or NaN; lower --learning_rate.")
    matches = []
    for i, (layers, n) in enumerate(zip(cost.cpu().numpy(), num_masks, strict=True)):
        for j, layer in enumerate(layers):
            queries, masks = linear_sum_assignment(layer[:, :n])
            matches.append(np.stack([np.full(len(queries), i), np.full(len(queries), j), queries, masks]))
    return tuple(torch.from_numpy(np.concatenate(matches, axis=1)).to(cost.device))


def draw_points(valid_mask: torch.Tensor, seed: int, count: int) -> torch.Tensor:
    """Flat indices of `count` pixels among those of `valid_mask`, int64 `(count,)`; zeros if there is none."""
    pixels = valid_mask.flatten().nonzero()[:, 0]
    if len(pixels) == 0:
        return torch.zeros(count, dtype=torch.int64, device=valid_mask.device)
    places = torch.randint(len(pixels), (count,), generator=torch.Generator().manual_seed(int(seed)))
    return pixels[places.to(pixels.device)]


def segmentation_loss(
    outputs, targets: list[SegmentationTargets], seeds, config
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of a batch, summed over decoder layers and weighted as `config` (a Mask2FormerConfig) says.

    Called by every process: the normalizers are sums over all of them.

    Args:
        outputs: of the model called without labels and with `output_auxiliary_logits=True`.
        targets: one per image; all of the size of `pixel_values`.
        seeds (sequence of `int`): one per image; the points drawn follow from it alone.
    Returns: the loss, and its parts `loss_cross_entropy`, `loss_mask`, `loss_dice` (weighted, detached).
    """
    if outputs.auxiliary_logits is None:
        raise ValueError("Call the model with output_auxiliary_logits=True: each decoder layer is supervised.")
    everything = [*outputs.auxiliary_logits, outputs]  # auxiliary ones are dicts, and so is a model output
    class_logits = torch.stack([layer["class_queries_logits"].float() for layer in everything], 1)  # (B, L, Q, C + 1)
    mask_logits = torch.stack([layer["masks_queries_logits"].float() for layer in everything], 1)  # (B, L, Q, h, w)
    layers, queries, num_classes = class_logits.shape[1:]
    height, width = targets[0].valid_mask.shape
    class_labels = pad_sequence([target.class_labels for target in targets], batch_first=True)  # (B, N)
    flat_masks = pad_sequence([target.mask_labels.flatten(1) for target in targets], batch_first=True)  # (B, N, H * W)

    # 1. Points of each image, on its labelled pixels: for matching, to choose uncertain ones from, at random.
    num_points = config.train_num_points
    num_uncertain = int(num_points * config.importance_sample_ratio)
    counts = [num_points, int(num_points * config.oversample_ratio), num_points - num_uncertain]
    drawn = torch.stack([draw_points(t.valid_mask, s, sum(counts)) for t, s in zip(targets, seeds, strict=True)])
    for_match, candidates, at_random = drawn.split(counts, dim=1)
    # Once per image: its masks in all layers share its points, and the integer division is slow.
    centers = pixel_centers(drawn, height, width)
    match_centers, candidate_centers, random_centers = centers.split(counts, dim=1)

    # 2. Which query answers for which mask, in each layer.
    cost = matching_cost(
        class_logits.detach(),
        sample_logits(mask_logits.detach().flatten(1, 2), match_centers).unflatten(1, (layers, queries)),
        flat_masks.gather(2, for_match[:, None].expand(-1, flat_masks.shape[1], -1)).float(),
        class_labels,
        config,
    )
    images, layer_ids, query_ids, mask_ids = match(cost, [len(target.class_labels) for target in targets])

    # 3. Matched masks at the points where they are least certain, and at some random ones.
    chosen = mask_logits[images, layer_ids, query_ids][:, None]  # (M, 1, h, w)
    with torch.no_grad():
        uncertainty = -sample_logits(chosen, candidate_centers[images])[:, 0].abs()
        most = uncertainty.topk(num_uncertain, dim=1, sorted=False).indices
        points = torch.cat([candidates[images[:, None], most], at_random[images]], dim=1)  # (M, num_points)
        point_centers = torch.cat([candidate_centers[images[:, None], most], random_centers[images]], dim=1)
        point_labels = flat_masks[images[:, None], mask_ids[:, None], points].float()
    point_logits = sample_logits(chosen, point_centers)[:, 0]

    # 4. Classes of all queries: that of their mask, or none. An image without a labelled pixel says nothing.
    null_class = num_classes - 1
    class_targets = torch.full(class_logits.shape[:-1], null_class, dtype=torch.int64, device=class_logits.device)
    class_targets[images, layer_ids, query_ids] = class_labels[images, mask_ids]
    weights = torch.where(class_targets == null_class, config.no_object_weight, 1.0)
    weights = weights * torch.stack([target.valid_mask.any() for target in targets])[:, None, None]
    errors = F.cross_entropy(class_logits.flatten(0, 2), class_targets.flatten(), reduction="none")

    # 5. Normalize by what there is in all processes.
    num_masks = torch.tensor(float(sum(len(target.class_labels) for target in targets)), device=weights.device)
    totals, num_processes = sum_over_processes(torch.stack([num_masks, weights[:, -1].sum()]))  # layers weigh the same
    num_masks, total_weight = totals.clamp(min=1e-6) / num_processes
    cross_entropy = (errors * weights.flatten()).sum() / total_weight
    if len(images):
        mask = sigmoid_cross_entropy_loss(point_logits, point_labels, num_masks)
        dice = dice_loss(point_logits, point_labels, num_masks)
    else:  # no mask in the whole batch: keeps every parameter in the graph, as data parallel training requires
        mask = dice = mask_logits.sum() * 0.0
    parts = {
        "loss_cross_entropy": config.class_weight * cross_entropy,
        "loss_mask": config.mask_weight * mask,
        "loss_dice": config.dice_weight * dice,
    }
    return sum(parts.values()), {name: value.detach() for name, value in parts.items()}
