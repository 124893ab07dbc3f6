"""From a Mask2Former's queries to semantic maps, panoptic maps and instances: detectron2's rules, at the image's size.

`transformers` resizes all masks to 384 x 384, stretches padding into the image, fuses no stuff unless told to and may
then give one id to two segments. Here mask logits are enlarged to the padded input, the padding is cut off, and the
rest is resized to the original size before any rule is applied, in strips of rows where an image is large.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..segments import measure_segments
from .placed_masks import ABSENT, PlacedMasks

STRIP_BYTES = 256 * 2**20  # of enlarged masks and scores of one image held at once
OBJECT_THRESHOLD, OVERLAP_THRESHOLD = 0.8, 0.8  # of Mask2Former's configurations (arXiv:2112.01527)
MAX_INSTANCES = 100


@dataclass
class QueryOutput:
    """What a Mask2Former says of one image.

    Args:
        class_logits (`(queries, num_labels + 1)`), mask_logits (`(queries, h, w)`): as the model returns them.
        padded_size, input_size, original_size (height, width): of the model's input with and without padding, and of
            the image.
        semantic: what semantic maps are made of, if not of the same queries.
    """

    class_logits: torch.Tensor
    mask_logits: torch.Tensor | PlacedMasks
    padded_size: tuple[int, int]
    input_size: tuple[int, int]
    original_size: tuple[int, int]
    semantic: "QueryOutput | None" = None

    def pieces(
        self, queries: torch.Tensor | None = None, extra_planes: int = 0, max_bytes: int = STRIP_BYTES
    ) -> Iterator[tuple[slice, slice, list[int], torch.Tensor]]:
        """Mask logits at the original size: whole, or in strips from the top; of `PlacedMasks` in blocks.

        A 12-megapixel image with 100 queries and 150 labels would take 17 GB at once.

        Args:
            queries (int64): indices of those wanted; all if not given.
            extra_planes (`int`): maps of the image's width that the caller holds beside logits and probabilities.
            max_bytes (`int`): what all of them may take.
        Yields: rows and columns of the image, the places in `queries` of those that have a part there, and their
            logits `(queries, rows, columns)`; the others are `ABSENT` there.
        """
        logits: Any = self.mask_logits
        height, width = self.original_size
        if isinstance(logits, PlacedMasks):
            chosen = logits if queries is None else logits.select(queries.tolist())
            yield from chosen.blocks(self.padded_size, self.input_size, self.original_size)
            return
        logits = logits if queries is None else logits[queries]
        every = list(range(len(logits)))
        planes = max(1, 2 * len(logits) + extra_planes)
        rows = max(1, max_bytes // (4 * planes * max(width, self.padded_size[1])))
        if rows < max(height, self.padded_size[0]):
            for start in range(0, height, rows):
                stop = min(start + rows, height)
                yield slice(start, stop), slice(0, width), every, self._rows(logits, start, stop)
            return
        masks = F.interpolate(logits[None], size=self.padded_size, mode="bilinear", align_corners=False)
        masks = masks[..., : self.input_size[0], : self.input_size[1]]
        if tuple(self.original_size) != tuple(self.input_size):
            masks = F.interpolate(masks, size=tuple(self.original_size), mode="bilinear", align_corners=False)
        yield slice(0, height), slice(0, width), every, masks[0]

    def _rows(self, logits: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of the masks at the original size, `(queries, stop - start, width)`."""

        def input_rows(first: int, last: int) -> torch.Tensor:
            enlarged = _resize_rows(lambda a, b: logits[:, a:b], logits.shape[1], self.padded_size, first, last)
            return enlarged[..., : self.input_size[1]]

        if tuple(self.original_size) == tuple(self.input_size):
            return input_rows(start, stop)
        return _resize_rows(input_rows, self.input_size[0], self.original_size, start, stop)


def _resize_rows(source, height: int, size: tuple[int, int], start: int, stop: int) -> torch.Tensor:
    """Rows `start` to `stop` of a bilinear resize to `size` of maps with `height` rows; `source(a, b)` gives rows of
    those. `F.interpolate` does the same, but needs all rows."""
    places = ((torch.arange(start, stop, dtype=torch.float64) + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
    above = places.floor().long()
    below = (above + 1).clamp(max=height - 1)
    first = int(above[0])
    rows = source(first, int(below[-1]) + 1)
    share = (places - above).to(rows)[:, None]
    rows = torch.lerp(rows[:, (above - first).to(rows.device)], rows[:, (below - first).to(rows.device)], share)
    return F.interpolate(rows[None], size=(stop - start, size[1]), mode="bilinear", align_corners=False)[0]


def semantic_scores(output: QueryOutput, max_bytes: int = STRIP_BYTES) -> Iterator[torch.Tensor]:
    """Scores `(num_labels, rows, width)` of one image, in strips: mask probabilities weighted by class probabilities,
    Mask2Former's semantic inference."""
    output = output.semantic or output
    weights = output.class_logits.softmax(-1)[:, :-1]
    for _, _, _, masks in output.pieces(extra_planes=weights.shape[1], max_bytes=max_bytes):
        yield torch.einsum("qc,qhw->chw", weights, masks.sigmoid())


def panoptic_segments(
    output: QueryOutput,
    things: Sequence[int],
    object_threshold: float = OBJECT_THRESHOLD,
    overlap_threshold: float = OVERLAP_THRESHOLD,
    max_bytes: int = STRIP_BYTES,
) -> tuple[np.ndarray, list[dict]]:
    """Mask2Former's panoptic inference.

    Queries whose best class is a label of at least `object_threshold` compete for pixels by class times mask
    probability. A query keeps the pixels that it wins with a mask probability of 0.5 or more, unless it wins less than
    `overlap_threshold` of its own mask. All segments of a stuff class are one.

    Args:
        things: label ids of things.
    Returns: panoptic_map int32 `(height, width)`, ids from 1 and 0 for void; and segments_info: id, category_id,
        isthing, iscrowd, area, bbox (x, y, width, height), score (class probability, the best of fused segments).
    """
    num_labels = output.class_logits.shape[-1] - 1
    scores, labels = output.class_logits.softmax(-1).max(-1)
    kept = ((labels != num_labels) & (scores > object_threshold)).nonzero()[:, 0]
    winner = np.full(output.original_size, -1, np.int32)  # place in `kept`, where its mask is there
    if len(kept) == 0:
        return winner + 1, []
    # Whole numbers: float32 stops counting at 2^24 pixels, and an image may have 2^27.
    own, won = torch.zeros_like(kept), torch.zeros_like(kept)
    for rows, columns, found, logits in output.pieces(kept, extra_planes=len(kept), max_bytes=max_bytes):
        probabilities, here = logits.sigmoid(), torch.tensor(found, dtype=torch.int64, device=kept.device)
        weighed = scores[kept][here][:, None, None] * probabilities
        if len(found) < len(kept):  # of the others, which are not there, the surest takes part
            others = scores[kept].clone()
            others[here] = -1.0
            surest = others.argmax()
            here = torch.cat([here, surest[None]])
            nothing = logits.new_full((1, *logits.shape[1:]), ABSENT).sigmoid()
            probabilities = torch.cat([probabilities, nothing])
            weighed = torch.cat([weighed, others[surest] * nothing])
        best = weighed.argmax(0)
        inside = probabilities.gather(0, best[None])[0] >= 0.5
        best = here[best]
        own[here] += (probabilities >= 0.5).sum((1, 2))
        won += torch.bincount(best.flatten(), minlength=len(kept))
        winner[rows, columns] = torch.where(inside, best, -1).cpu().numpy()
    own, won = own.cpu().numpy(), won.cpu().numpy()
    stays = (own > 0) & (won / np.maximum(own, 1) >= overlap_threshold)
    stays &= np.bincount(winner[winner >= 0], minlength=len(kept)) > 0

    # Ids in the order of the queries; a stuff class has the id of its first.
    id_of, segments, stuff = np.zeros(len(kept) + 1, np.int32), [], {}
    for place, (label, score) in enumerate(zip(labels[kept].tolist(), scores[kept].tolist(), strict=True)):
        if not stays[place]:
            continue
        if label in stuff:
            id_of[place] = stuff[label]["id"]
            stuff[label]["score"] = max(stuff[label]["score"], score)
            continue
        segment = {"id": len(segments) + 1, "category_id": label, "isthing": label in things, "score": score}
        segments.append(segment)
        id_of[place] = segment["id"]
        if not segment["isthing"]:
            stuff[label] = segment
    panoptic_map = id_of[winner]  # -1 is the last entry, which is 0
    return panoptic_map, measure_segments(panoptic_map, segments)


def instance_masks(
    output: QueryOutput, things: Sequence[int], max_instances: int = MAX_INSTANCES, max_bytes: int = STRIP_BYTES
) -> list[dict]:
    """Mask2Former's instance inference: the best `max_instances` pairs of query and class, those of things.

    Returns: for each `category_id`, `score` (class probability times the mean mask probability within the mask) and
        `mask`, bool `(height, width)`, where the logit is above 0; masks may overlap. Empty masks are left out.
    """
    probabilities = output.class_logits.softmax(-1)[:, :-1]
    num_labels = probabilities.shape[1]
    best = probabilities.flatten().topk(min(max_instances, probabilities.numel()))
    is_thing = torch.isin(best.indices % num_labels, torch.tensor(list(things), device=best.indices.device))
    scores, places = best.values[is_thing], best.indices[is_thing]
    queries, pair_query = torch.div(places, num_labels, rounding_mode="floor").unique(return_inverse=True)
    if len(queries) == 0:
        return []
    inside, area = torch.zeros(2, len(queries), device=scores.device)
    masks = np.zeros((len(queries), *output.original_size), bool)
    for rows, columns, found, logits in output.pieces(queries, max_bytes=max_bytes):
        there = logits > 0
        inside[found] += logits.sigmoid().mul_(there).sum((1, 2), dtype=torch.float32)
        area[found] += there.sum((1, 2), dtype=torch.float32)  # four times as fast as whole numbers
        masks[found, rows, columns] = there.cpu().numpy()
    scores = (scores * (inside / (area + 1e-6))[pair_query]).tolist()
    return [
        {"category_id": place % num_labels, "score": score, "mask": masks[query]}
        for place, score, query in zip(places.tolist(), scores, pair_query.tolist(), strict=True)
        if area[query] > 0
    ]
