"""Mask logits of queries that each lie in a part of a large image, read block by block at the image's size."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

ABSENT = -20.0  # mask logit where a query has no part
BLOCK = 128  # pixels a side: of the windows of an image few reach into it


class PlacedMasks:
    """Mask logits `(queries, h, w)` of which each query has a part, and `ABSENT` elsewhere.

    Thousands of queries of a large image, most of them a few pixels wide, would not fit in memory whole, and most of
    what is computed of them would say that they are not there.

    Args:
        parts: a tensor `(rows, columns)` for each query; places: top and left of each.
        size (height, width): of the whole.
    """

    def __init__(self, parts: list[torch.Tensor], places: list[tuple[int, int]], size: tuple[int, int]):
        self.parts, self.places, self.shape = parts, places, (len(parts), *size)

    def __len__(self) -> int:
        return len(self.parts)

    def select(self, queries: Sequence[int]) -> "PlacedMasks":
        """Those queries."""
        return PlacedMasks([self.parts[i] for i in queries], [self.places[i] for i in queries], self.shape[1:])

    def blocks(
        self, padded_size: tuple[int, int], input_size: tuple[int, int], original_size: tuple[int, int]
    ) -> Iterator[tuple[slice, slice, list[int], torch.Tensor]]:
        """The masks enlarged to `padded_size`, cut to `input_size` and resized to `original_size`, bilinear each.

        Yields: rows and columns of a block of the image, the queries that have a part there, and their logits
            `(queries, rows, columns)`.
        """
        device = self.parts[0].device
        sizes = zip(self.shape[1:], padded_size, input_size, original_size, strict=True)
        down, across = (_resize_matrix(*axis).to(device) for axis in sizes)
        tops, lefts = np.array(self.places).T
        bottoms, rights = (np.array([part.shape for part in self.parts]) + np.array(self.places)).T
        for rows, (first, last) in _spans(down):
            for columns, (start, stop) in _spans(across):
                reaches = (tops < last) & (bottoms > first) & (lefts < stop) & (rights > start)
                found = reaches.nonzero()[0].tolist()
                near = torch.full((len(found), last - first, stop - start), ABSENT, device=device)
                for place, query in zip(near, found, strict=True):
                    (top, left), part = self.places[query], self.parts[query]
                    upper, lower = max(top, first), min(top + part.shape[0], last)
                    begin, end = max(left, start), min(left + part.shape[1], stop)
                    place[upper - first : lower - first, begin - start : end - start] = part[
                        upper - top : lower - top, begin - left : end - left
                    ]
                logits = down[rows, first:last] @ near @ across[columns, start:stop].T
                yield rows, columns, found, logits


def _resize_matrix(count: int, padded: int, given: int, original: int) -> torch.Tensor:
    """`(original, count)`: what each of `count` values of an axis is in each of those that it is resized to."""
    matrix = _bilinear(count, padded)[:given]
    return (matrix if original == given else _bilinear(given, original) @ matrix).float()


def _bilinear(count: int, size: int) -> torch.Tensor:
    """The weights of `F.interpolate` along one axis, `(size, count)`, float64."""
    places = ((torch.arange(size, dtype=torch.float64) + 0.5) * (count / size) - 0.5).clamp(0, count - 1)
    below = places.floor().long()
    share = (places - below)[:, None]
    matrix = torch.zeros(size, count, dtype=torch.float64)
    matrix.scatter_add_(1, below[:, None], 1 - share)
    return matrix.scatter_add_(1, (below + 1).clamp(max=count - 1)[:, None], share)


def _spans(matrix: torch.Tensor) -> list[tuple[slice, tuple[int, int]]]:
    """Blocks of the rows of a matrix, each with the first and behind the last of the columns that it reads."""
    found = []
    for start in range(0, len(matrix), BLOCK):
        rows = slice(start, min(start + BLOCK, len(matrix)))
        read = matrix[rows].any(0).nonzero()[:, 0]
        found.append((rows, (int(read[0]), int(read[-1]) + 1)))
    return found
