"""Large images seen through overlapping windows: what the queries of all windows say together, of the whole image.

A window is of the size that a segmenter was trained on. The queries of all windows become queries of the image: a
thing that two windows both see is one query, and so is all of a stuff class; each pixel is taken from the window whose
middle is nearest. The rules that make maps, segments and instances of queries (`segment_rules`) then work as on any
image.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .placed_masks import ABSENT, PlacedMasks
from .postprocessing import QueryOutput

OVERLAP = 0.25  # of a window, with the next one
GRID = 8  # pixels; windows begin at multiples of it, and so on whole pixels of the mask logits, which have a quarter
SAME_IOU = 0.5  # of two masks where their windows overlap: above it they are one thing
LEAST_SCORE = 0.05  # queries of a lower class probability are left out
SURE_SCORE = 0.5  # only things and stuff of a higher one join: masks of others would spoil those of sure ones


@dataclass(frozen=True)
class Windows:
    """Where the windows lie: a grid of squares without gaps, whose last row and column end where the image does.

    Args:
        height, width, size (pixels): of the padded image, and of a window; multiples of what an image is padded to.
    """

    height: int
    width: int
    size: int

    @property
    def starts(self) -> list[tuple[int, int]]:
        """Top and left of each window, row by row."""
        return [(top, left) for top in self._starts(self.height) for left in self._starts(self.width)]

    def _starts(self, side: int) -> list[int]:
        step = round(self.size * (1 - OVERLAP) / GRID) * GRID
        return sorted({min(start, side - self.size) for start in range(0, side - self.size + step, step)})

    def core(self, start: tuple[int, int]) -> tuple[slice, slice]:
        """The part of a window (rows and columns of the image) that is nearer to its middle than to another's."""
        return self._core(start[0], self.height), self._core(start[1], self.width)

    def _core(self, start: int, side: int) -> slice:
        starts = self._starts(side)
        place = starts.index(start)
        begin = 0 if place == 0 else (starts[place - 1] + self.size + start) // 2
        end = side if place == len(starts) - 1 else (start + self.size + starts[place + 1]) // 2
        return slice(begin, end)


def window_size(short_side: int, divisor: int) -> int:
    """Side of a window, of a segmenter that sees images with this short side."""
    return -(-short_side // divisor) * divisor


def merge_windows(
    windows: Windows,
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    things: Sequence[int] | None,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
) -> QueryOutput:
    """The queries of the whole image.

    Args:
        class_logits (`(windows, queries, num_labels + 1)`), mask_logits (`(windows, queries, h, w)`): of each window,
            in the order of `windows.starts`.
        things: label ids that have instances; parts of one in several windows are one query, and so is a stuff class
            (all other labels). With None the queries are those of semantic maps alone: one a label.
        input_size, original_size (height, width): of the image without padding, and before it was resized.
    """
    stride = windows.size // mask_logits.shape[-1]
    probabilities = class_logits.softmax(-1)[..., :-1]
    scores, labels = probabilities.max(-1)  # (W, Q)
    is_thing = torch.isin(labels, torch.tensor(sorted(things or ()), dtype=labels.dtype, device=labels.device))
    boxes = [[start // stride for start in place] for place in windows.starts]
    cores = [tuple(slice(s.start // stride, s.stop // stride) for s in windows.core(p)) for p in windows.starts]
    side = mask_logits.shape[-1]
    kept = [(scores[w] > LEAST_SCORE).nonzero()[:, 0].tolist() for w in range(len(boxes))]
    shape = (windows.height // stride, windows.width // stride)
    sizes = (windows.height, windows.width), input_size, original_size
    semantic = _semantic(probabilities, mask_logits, boxes, cores, shape, sizes)
    if things is None:
        return semantic
    owned = []  # pixels of each query in its window's own part
    for w, (y, x) in enumerate(boxes):
        rows, columns = cores[w]
        own = mask_logits[w, :, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] > 0
        owned.append(own.flatten(1).sum(1, dtype=torch.float32).tolist())
    found_classes, parts, places = [], [], []
    for members in _group(mask_logits, labels, scores, is_thing, kept, boxes):
        seen = list(dict.fromkeys(w for w, _ in members))
        top, left = (min(boxes[w][axis] for w in seen) for axis in (0, 1))
        bottom, right = (max(boxes[w][axis] for w in seen) + side for axis in (0, 1))
        part = torch.full((bottom - top, right - left), ABSENT, device=mask_logits.device)
        if is_thing[members[0]]:
            for w, q in members:
                y, x = boxes[w][0] - top, boxes[w][1] - left
                window = part[y : y + side, x : x + side]
                torch.maximum(window, mask_logits[w, q], out=window)
        for w in seen:  # where a window is nearest, it knows best
            (rows, columns), (y, x) = cores[w], boxes[w]
            best = mask_logits[w, [q for v, q in members if v == w]].amax(0)
            best = best[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            part[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = best
        own = sum(owned[w][q] for w, q in members)
        if is_thing[members[0]] and 2 * own < float((part > 0).sum()):
            continue  # most of it lies where other windows know better, and they see nothing
        found_classes.append(class_logits[max(members, key=lambda member: float(scores[member]))])
        parts.append(part)
        places.append((top, left))
    if not parts:  # nothing at all: one query that says so
        nothing = torch.full_like(class_logits[0, 0], ABSENT)
        nothing[-1] = 0.0
        found_classes, parts, places = [nothing], [mask_logits[0, 0]], [(boxes[0][0], boxes[0][1])]
    return QueryOutput(torch.stack(found_classes), PlacedMasks(parts, places, shape), *sizes, semantic)


def _semantic(probabilities, mask_logits, boxes, cores, shape, sizes) -> QueryOutput:
    """One query a label, whose mask is the label's share of the semantic scores; each pixel of its nearest window."""
    num_labels = probabilities.shape[-1]
    shares = torch.zeros(num_labels, *shape, device=mask_logits.device)
    for w, (y, x) in enumerate(boxes):
        rows, columns = cores[w]
        part = mask_logits[w, :, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x].sigmoid()
        scores = torch.einsum("qc,qhw->chw", probabilities[w], part)
        shares[:, rows, columns] = scores / scores.sum(0).clamp(min=1e-6)
    sure = torch.full((num_labels, num_labels + 1), ABSENT, device=mask_logits.device)
    sure[range(num_labels), range(num_labels)] = -ABSENT
    return QueryOutput(sure, shares.clamp(1e-4, 1 - 1e-4).logit(), *sizes)


def _group(mask_logits, labels, scores, is_thing, kept, boxes) -> list[list[tuple[int, int]]]:
    """Lists of (window, query) that are one.

    Things, the surest first: a query joins those of its label in other windows with which it agrees best where the two
    windows overlap, one of each window. Stuff: all of a label that are sure of it.
    """
    groups, stuff = [], {}
    for member in [(w, q) for w, queries in enumerate(kept) for q in queries if not is_thing[w, q]]:
        if scores[member] > SURE_SCORE:
            stuff.setdefault(int(labels[member]), []).append(member)
        else:
            groups.append([member])
    groups += stuff.values()
    of_things = [[q for q in queries if is_thing[w, q]] for w, queries in enumerate(kept)]
    agreeing = _agreeing(mask_logits, labels, of_things, boxes)
    found: dict[tuple[int, int], list] = {}
    members = [(w, q) for w, queries in enumerate(of_things) for q in queries]
    for member in sorted(members, key=lambda member: -float(scores[member])):
        sees = agreeing.get(member, ()) if scores[member] > SURE_SCORE else ()
        group = [member]
        for _, other in sorted(((iou, other) for other, iou in sees if other in found), reverse=True):
            theirs = found[other]  # it may be the link of several
            if theirs is not group and not {w for w, _ in theirs} & {w for w, _ in group}:
                group = [*theirs, *group]
                found |= dict.fromkeys(group, group)
        found[member] = found.get(member, group)
    return [*groups, *{id(group): group for group in found.values()}.values()]


def _agreeing(mask_logits, labels, of_things, boxes) -> dict[tuple[int, int], list[tuple[tuple[int, int], float]]]:
    """Of each thing query those of its label in other windows, and the IoU of the two where the windows overlap."""
    side, agreeing = mask_logits.shape[-1], {}
    for a, b in itertools.combinations([w for w, queries in enumerate(of_things) if queries], 2):
        top, left = max(boxes[a][0], boxes[b][0]), max(boxes[a][1], boxes[b][1])
        bottom, right = min(boxes[a][0], boxes[b][0]) + side, min(boxes[a][1], boxes[b][1]) + side
        if top >= bottom or left >= right:
            continue
        parts = []
        for w in (a, b):
            y, x = boxes[w]
            part = mask_logits[w, of_things[w], top - y : bottom - y, left - x : right - x]
            parts.append((part > 0).flatten(1).float())
        shared = parts[0] @ parts[1].T
        iou = shared / (parts[0].sum(1)[:, None] + parts[1].sum(1) - shared).clamp(min=1)
        iou *= labels[a, of_things[a]][:, None] == labels[b, of_things[b]]
        for i, j in (iou > SAME_IOU).nonzero().tolist():
            one, other = (a, of_things[a][i]), (b, of_things[b][j])
            agreeing.setdefault(one, []).append((other, float(iou[i, j])))
            agreeing.setdefault(other, []).append((one, float(iou[i, j])))
    return agreeing
