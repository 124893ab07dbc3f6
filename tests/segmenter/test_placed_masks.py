"""Queries that lie in parts of an image say block by block what they would say of the whole."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seggen_hf.segmenter.placed_masks import ABSENT, BLOCK, PlacedMasks
from seggen_hf.segmenter.postprocessing import QueryOutput, instance_masks, panoptic_segments

CASES = {  # padded, input and original size; side of the parts, and how many
    "as large as it was": ((160, 192), (160, 192), (160, 192), 16, 30),
    "cut": ((160, 192), (149, 181), (149, 181), 16, 30),
    "enlarged": ((160, 192), (149, 181), (307, 411), 16, 30),
    "reduced": ((160, 192), (150, 180), (75, 90), 16, 30),
    "few": ((320, 320), (320, 320), (500, 500), 12, 3),
}


def placed(name: str, seed: int) -> tuple[PlacedMasks, torch.Tensor, list[tuple[int, int]]]:
    """The masks in both forms, and the three sizes."""
    *sizes, side, count = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    height, width = sizes[0][0] // 4, sizes[0][1] // 4
    parts, places, whole = [], [], torch.full((count, height, width), ABSENT)
    for query in range(count):
        part = F.interpolate(torch.randn(1, 1, 4, 4, generator=generator) * 6, size=(side, side), mode="bilinear")[
            0, 0
        ]
        top, left = (int(torch.randint(0, span - side + 1, (1,), generator=generator)) for span in (height, width))
        whole[query, top : top + side, left : left + side] = part
        parts.append(part)
        places.append((top, left))
    return PlacedMasks(parts, places, (height, width)), whole, sizes


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_those_of_masks_resized_as_a_whole(name):
    masks, whole, sizes = placed(name, 0)
    (_, _, _, expected), *_ = QueryOutput(torch.zeros(len(whole), 3), whole, *sizes).pieces()
    seen = torch.zeros(sizes[2], dtype=torch.int64)
    for rows, columns, found, logits in masks.blocks(*sizes):
        assert logits.shape == (len(found), rows.stop - rows.start, columns.stop - columns.start)
        assert max(logits.shape[1:]) <= BLOCK
        assert torch.allclose(logits, expected[found, rows, columns], atol=1e-4)
        absent = [query for query in range(len(whole)) if query not in found]
        assert torch.allclose(expected[absent, rows, columns], torch.tensor(ABSENT), atol=1e-4)
        seen[rows, columns] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_segments_and_instances_are_those_of_the_whole(name, seed):
    masks, whole, sizes = placed(name, seed)
    classes = torch.randn(len(whole), 4, generator=torch.Generator().manual_seed(seed)) * 3
    parted, dense = QueryOutput(classes, masks, *sizes), QueryOutput(classes, whole, *sizes)
    found, segments = panoptic_segments(parted, [1, 2], 0.4, 0.3)
    expected, listed = panoptic_segments(dense, [1, 2], 0.4, 0.3)
    assert (found == expected).mean() > 0.9999
    assert [(s["id"], s["category_id"]) for s in segments] == [(s["id"], s["category_id"]) for s in listed]
    ours, theirs = instance_masks(parted, [1, 2], 40), instance_masks(dense, [1, 2], 40)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert (one["mask"] == other["mask"]).mean() > 0.9999


def test_a_block_that_nothing_reaches_is_nobody_s():
    masks, _, sizes = placed("few", 0)
    assert any(not found for _, _, found, _ in masks.blocks(*sizes))
    classes = torch.full((3, 3), -9.0)
    classes[:, 0] = 9.0
    found, _ = panoptic_segments(QueryOutput(classes, masks, *sizes), [0], 0.5, 0.0)
    for rows, columns, queries, _ in masks.blocks(*sizes):
        assert queries or not np.any(found[rows, columns])
