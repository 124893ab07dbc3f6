"""Mask2Former's training loss, and EoMT's, without pixels that nobody labelled, all random draws seeded per sample.

What differs from `transformers`' `Mask2FormerLoss`, whose matching cost and losses are computed:
- Points are drawn among the labelled pixels only. There, void pixels are negatives of every mask.
- One set of candidate points per image, from that image's own seed, serves all its masks and decoder layers. A batch
  therefore has the same loss however it is split over processes; and one sampling call replaces several per image.
- The points are drawn, and the masks read there, on the CPU and before the batch is made (`draw_points`): the device
  sees no whole mask, and waits for the CPU once in a step, for the matching of all images and layers.
- Both normalizers (masks, and weights of the classification) are sums over all processes divided by their number, so
  the mean of the processes' losses is the loss of the joint batch. There, `get_num_masks` divides twice.
- Points lie on pixel centers and logits are extended at the border, as in the interpolation at inference.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch.nn.utils.rnn import pad_sequence
from transformers.models.mask2former.modeling_mask2former import sample_point, sigmoid_cross_entropy_loss


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss's parts and numbers of its points, named as in Mask2Former's config, with its defaults.

    An EoMT's loss is the same. A MaskFormer's is not (focal, on whole masks), and its weights belong to that: it is
    trained with those of its successor.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75

    @classmethod
    def of(cls, config) -> "LossSettings":
        """Those in a segmenter's config, where it has all."""
        names = [field.name for field in fields(cls)]
        return (
            cls(**{name: getattr(config, name) for name in names}) if all(hasattr(config, n) for n in names) else cls()
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


@dataclass
class PointTargets:
    """What a batch of images should be, at the points where its loss is measured.

    centers (float32, `(batch, points, 2)`): (x, y) in [0, 1]. First those for matching, then those to choose uncertain
    ones from, then those at random, as many as `count_points` says.
    labels (bool, or float32 in [0, 1], `(batch, num_masks, points)`): of the masks there, and class_labels (int64,
    `(batch, num_masks)`), both zero beyond an image's own number of masks.
    is_labelled (bool, `(batch,)`): whether any pixel is; an image where none is says nothing.
    num_masks: of each image; known on the CPU, whatever the device of the tensors.
    """

    centers: torch.Tensor
    labels: torch.Tensor
    class_labels: torch.Tensor
    is_labelled: torch.Tensor
    num_masks: list[int]


def count_points(config) -> tuple[int, int, int]:
    """Points of an image for matching, to choose uncertain ones from, and at random."""
    num_points = config.train_num_points
    num_uncertain = int(num_points * config.importance_sample_ratio)
    return num_points, int(num_points * config.oversample_ratio), num_points - num_uncertain


def draw_pixels(valid_mask: torch.Tensor, seed: int, count: int) -> torch.Tensor:
    """Flat indices of `count` pixels among those of `valid_mask`, int64 `(count,)`; zeros if there is none."""
    pixels = valid_mask.flatten().nonzero()[:, 0]
    if len(pixels) == 0:
        return torch.zeros(count, dtype=torch.int64)
    return pixels[torch.randint(len(pixels), (count,), generator=torch.Generator().manual_seed(int(seed)))]


def draw_points(targets: list[SegmentationTargets], seeds, config) -> PointTargets:
    """Draw the points of each image among its labelled pixels, and read its masks there; on the CPU.

    Args:
        targets: one per image, all of one size.
        seeds (sequence of `int`): one per image; its points follow from it alone.
    """
    count, (height, width) = sum(count_points(config)), targets[0].valid_mask.shape
    drawn = [draw_pixels(target.valid_mask, seed, count) for target, seed in zip(targets, seeds, strict=True)]
    labels = [target.mask_labels.flatten(1)[:, pixels] for target, pixels in zip(targets, drawn, strict=True)]
    return PointTargets(
        centers=pixel_centers(torch.stack(drawn), height, width),
        labels=pad_sequence(labels, batch_first=True),
        class_labels=pad_sequence([target.class_labels for target in targets], batch_first=True),
        is_labelled=torch.stack([target.valid_mask.any() for target in targets]),
        num_masks=[len(target.class_labels) for target in targets],
    )


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
def matching_cost(class_logits, logits, labels, class_labels, config) -> torch.Tensor:
    """Cost of each query for each mask in one decoder layer: the one of `Mask2FormerHungarianMatcher`, of all images.

    Args:
        class_logits (`(batch, queries, num_labels + 1)`), logits (`(batch, queries, points)`), labels (`(batch,
        num_masks, points)`), class_labels (`(batch, num_masks)`); floats are float32.
    Returns: float32 `(batch, queries, num_masks)`.
    """
    points, probabilities, labels = logits.shape[2], logits.sigmoid(), labels.transpose(1, 2)  # (B, P, N)
    mask_cost = (F.softplus(logits).sum(-1, keepdim=True) - logits @ labels) / points
    sizes = probabilities.sum(-1, keepdim=True) + labels.sum(1, keepdim=True)
    dice_cost = 1 - (2 * probabilities @ labels + 1) / (sizes + 1)
    cost = config.mask_weight * mask_cost + config.dice_weight * dice_cost
    wanted = class_labels[:, None].expand(-1, logits.shape[1], -1)
    return cost - config.class_weight * class_logits.softmax(-1).gather(-1, wanted)


def match(cost: torch.Tensor, num_masks: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Assign queries to the first `num_masks[i]` masks of image i, in each layer (Hungarian algorithm, on the CPU).

    The device waits here, and nowhere else in the loss: for one copy of all costs.

    Args:
        cost (`(layers, batch, queries, num_masks)`).
    Returns: image `(matches,)`, query `(layers, matches)` and mask `(layers, matches)` of each match, int64.
    """
    costs = cost.cpu().numpy()
    if not np.isfinite(costs).all():
        raise FloatingPointError("The segmenter's outputs are infinite or NaN; lower --learning_rate.")
    assigned = [
        [linear_sum_assignment(image[:, :n]) for image, n in zip(layer, num_masks, strict=True)] for layer in costs
    ]
    # An image has as many matches in each layer.
    images = np.repeat(np.arange(len(num_masks)), [len(queries) for queries, _ in assigned[0]])
    parts = [np.concatenate([pair[part] for pair in layer]) for part in (0, 1) for layer in assigned]
    places = torch.from_numpy(np.stack([images, *parts])).to(cost.device, non_blocking=True)
    queries, masks = places[1:].chunk(2)
    return places[0], queries, masks


def dice_losses(point_logits: torch.Tensor, point_labels: torch.Tensor) -> torch.Tensor:
    """Of each mask what `transformers`' `dice_loss` sums up: `(masks, points)` -> `(masks,)`, in [0, 1]."""
    probabilities = point_logits.sigmoid()
    overlap = 2 * (probabilities * point_labels).sum(-1)
    return 1 - (overlap + 1) / (probabilities.sum(-1) + point_labels.sum(-1) + 1)


def segmentation_loss(
    outputs, targets: PointTargets, config: LossSettings, dice_weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of a batch, summed over decoder layers and weighted as `config` says.

    Called by every process: the normalizers are sums over all of them. Computed in float32, also under autocast: sums
    over thousands of points need it.

    Args:
        outputs: of the model called without labels and with `output_auxiliary_logits=True`.
        targets: from `draw_points` with the same `config`, on the device of the outputs.
        dice_weights: factors of the images' Dice terms, float32 `(batch,)`; 1 if not given.
    Returns: the loss, and its parts `loss_cross_entropy`, `loss_mask`, `loss_dice` (weighted, detached).
    """
    if outputs.auxiliary_logits is None:
        raise ValueError("Call the model with output_auxiliary_logits=True: each decoder layer is supervised.")
    everything = [*outputs.auxiliary_logits, outputs]  # auxiliary ones are dicts, and so is a model output
    with torch.autocast(targets.centers.device.type, enabled=False):
        return _loss_of_layers(
            torch.stack([layer["class_queries_logits"].float() for layer in everything]),
            [layer["masks_queries_logits"] for layer in everything],
            targets,
            config,
            dice_weights,
        )


def _loss_of_layers(class_logits, mask_logits, targets, config, dice_weights):
    """`class_logits` (L, B, Q, C + 1) in float32; `mask_logits`, (B, Q, h, w) of each layer, in any precision: only
    the matched ones are copied, and all together are gigabytes."""
    queries, num_classes = class_logits.shape[2:]
    counts = count_points(config)
    match_centers, candidate_centers, random_centers = targets.centers.split(counts, dim=1)
    match_labels, candidate_labels, random_labels = targets.labels.split(counts, dim=2)

    # 1. Which query answers for which mask, in each layer.
    wanted = match_labels.float(), targets.class_labels
    with torch.no_grad():
        costs = [
            matching_cost(classes, sample_logits(masks.float(), match_centers), *wanted, config)
            for classes, masks in zip(class_logits, mask_logits, strict=True)
        ]
    images, query_ids, mask_ids = match(torch.stack(costs), targets.num_masks)

    # 2. Matched masks at the points where they are least certain, and at some random ones.
    num_uncertain = config.train_num_points - counts[2]
    point_logits, point_labels = [], []
    for masks, found, wanted in zip(mask_logits, query_ids, mask_ids, strict=True):
        chosen = masks.flatten(0, 1).index_select(0, images * queries + found)[:, None].float()  # (M, 1, h, w)
        with torch.no_grad():
            uncertainty = -sample_logits(chosen, candidate_centers[images])[:, 0].abs()
            most = uncertainty.topk(num_uncertain, dim=1, sorted=False).indices
            rows = images[:, None]
            centers = torch.cat([candidate_centers[rows, most], random_centers[images]], dim=1)  # (M, num_points, 2)
            labels = [candidate_labels[rows, wanted[:, None], most], random_labels[images, wanted]]
        point_labels.append(torch.cat(labels, dim=1).float())
        point_logits.append(sample_logits(chosen, centers)[:, 0])
    point_logits, point_labels = torch.cat(point_logits), torch.cat(point_labels)

    # 3. Classes of all queries: that of their mask, or none. An image without a labelled pixel says nothing.
    null_class = num_classes - 1
    class_targets = torch.full(class_logits.shape[:-1], null_class, dtype=torch.int64, device=class_logits.device)
    layer_ids = torch.arange(len(class_logits), device=images.device)[:, None]
    class_targets[layer_ids, images, query_ids] = targets.class_labels[images, mask_ids]
    weights = torch.where(class_targets == null_class, config.no_object_weight, 1.0)
    weights = weights * targets.is_labelled[:, None]
    errors = F.cross_entropy(class_logits.flatten(0, 2), class_targets.flatten(), reduction="none")

    # 4. Normalize by what there is in all processes.
    num_masks = torch.full((), float(sum(targets.num_masks)), device=weights.device)
    totals, num_processes = sum_over_processes(torch.stack([num_masks, weights[-1].sum()]))  # layers weigh the same
    num_masks, total_weight = totals.clamp(min=1e-6) / num_processes
    cross_entropy = (errors * weights.flatten()).sum() / total_weight
    if len(images):
        share: Any = num_masks  # a tensor divides as well as the int of the declared type
        mask = sigmoid_cross_entropy_loss(point_logits, point_labels, share)
        dices = dice_losses(point_logits, point_labels)
        if dice_weights is not None:
            dices = dices * dice_weights[images].repeat(len(class_logits))
        dice = dices.sum() / num_masks
    else:  # no mask in the whole batch: keeps every parameter in the graph, as data parallel training requires
        nothing: Any = sum(masks.float().sum() for masks in mask_logits) * 0.0
        mask = dice = nothing
    parts = {
        "loss_cross_entropy": config.class_weight * cross_entropy,
        "loss_mask": config.mask_weight * mask,
        "loss_dice": config.dice_weight * dice,
    }
    total: Any = sum(parts.values())
    return total, {name: value.detach() for name, value in parts.items()}
