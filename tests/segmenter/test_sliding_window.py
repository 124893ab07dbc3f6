"""Windows of a large image: what they say together is what one look at the whole image would have said."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seggen_hf.data.schema import labels_of
from seggen_hf.labels import LabelSet
from seggen_hf.segmenter.build import build_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.segmenter.inference import describe_inference, predict_panoptic, predict_semantic, without_windows
from seggen_hf.segmenter.postprocessing import (
    QueryOutput,
    instance_masks,
    panoptic_segments,
    semantic_scores,
)
from seggen_hf.segmenter.sliding_window import Windows, merge_windows

THINGS, STRIDE = [1, 2], 4
CLASS_LOGITS = {0: [4.0, 0, 0, 0], 1: [0, 6.0, 0, 0], 2: [0, 0, 6.0, 0]}  # stuff, two things, no object


def merge(windows: Windows, found: list[list[tuple[int, torch.Tensor]]], size: tuple[int, int]) -> QueryOutput:
    """Merged queries of windows that found (label, mask logits of the window)."""
    side, most = windows.size // STRIDE, max(len(queries) for queries in found)
    class_logits = torch.tensor([0.0, 0, 0, 9]).repeat(len(found), most, 1)
    mask_logits = torch.full((len(found), most, side, side), -9.0)
    for w, queries in enumerate(found):
        for q, (label, logits) in enumerate(queries):
            class_logits[w, q], mask_logits[w, q] = torch.tensor(CLASS_LOGITS[label]), logits
    return merge_windows(windows, class_logits, mask_logits, THINGS, size, size)


def cut(windows: Windows, masks: torch.Tensor, labels: list[int]) -> list[list[tuple[int, torch.Tensor]]]:
    """What perfect windows find of the whole image's masks."""
    side, found = windows.size // STRIDE, []
    for top, left in windows.starts:
        parts = masks[:, top // STRIDE :, left // STRIDE :][:, :side, :side]
        found.append([(label, part) for label, part in zip(labels, parts, strict=True) if (part > 0).any()])
    return found


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_windows_cover_an_image_and_their_middles_share_it_out(rows, columns, size):
    windows = Windows(32 * max(rows, size), 32 * max(columns, size), 32 * size)
    covered, owned = (np.zeros((windows.height, windows.width), int) for _ in range(2))
    for top, left in windows.starts:
        assert 0 <= top <= windows.height - windows.size and 0 <= left <= windows.width - windows.size
        assert top % STRIDE == left % STRIDE == 0
        covered[top : top + windows.size, left : left + windows.size] += 1
        owned[windows.core((top, left))] += 1
        for core, start in zip(windows.core((top, left)), (top, left), strict=True):
            assert start <= core.start < core.stop <= start + windows.size
    assert covered.min() >= 1 and (owned == 1).all()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_perfect_windows_say_what_a_perfect_look_at_the_whole_would(seed):
    rng = np.random.default_rng(seed)
    windows = Windows(160, 128, 64)
    free = torch.ones(160 // STRIDE, 128 // STRIDE, dtype=torch.bool)
    masks, labels = [], []
    for _ in range(10):  # boxes that do not touch, some wider than a window
        top, left = int(rng.integers(0, 36)), int(rng.integers(0, 28))
        bottom, right = top + int(rng.integers(2, 30)), left + int(rng.integers(2, 12))
        if not free[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1].all():
            continue
        free[top:bottom, left:right] = False
        masks.append(torch.zeros(free.shape, dtype=torch.bool))
        masks[-1][top:bottom, left:right] = True
        labels.append(int(rng.choice(THINGS)))
    masks, labels = torch.stack([free, *masks]).float() * 18 - 9, [0, *labels]
    size = (160 - int(rng.integers(0, 20)), 128 - int(rng.integers(0, 20)))
    whole = QueryOutput(torch.tensor([CLASS_LOGITS[i] for i in labels]), masks, (160, 128), size, size)
    merged = merge(windows, cut(windows, masks, labels), size)

    expected, truth = panoptic_segments(whole, THINGS, 0.5, 0.5)
    found, segments = panoptic_segments(merged, THINGS, 0.5, 0.5)
    assert len(segments) == len(truth)
    pairs = set(zip(expected.ravel().tolist(), found.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # the same but for the ids
    categories = [{0: None} | {s["id"]: s["category_id"] for s in listed} for listed in (truth, segments)]
    assert all(categories[0][a] == categories[1][b] for a, b in pairs)
    assert len(instance_masks(merged, THINGS, 1000)) == len(instance_masks(whole, THINGS, 1000))
    maps = [torch.cat(list(semantic_scores(output)), 1).argmax(0) for output in (whole, merged)]
    assert (maps[0] == maps[1]).float().mean() > 0.98  # but for rims: shares are enlarged, not masks


def test_things_that_disagree_where_windows_overlap_stay_two():
    windows = Windows(64, 112, 64)  # the second window begins at 48
    assert windows.starts == [(0, 0), (0, 48)]
    left, right = torch.full((16, 16), -9.0), torch.full((16, 16), -9.0)
    left[2:6, 8:16], right[9:14, 0:6] = 9.0, 9.0  # both reach into the overlap, at other rows
    _, apart = panoptic_segments(merge(windows, [[(1, left)], [(1, right)]], (64, 112)), THINGS, 0.5, 0.5)
    assert len(apart) == 2
    right[:], right[2:6, 0:6] = -9.0, 9.0  # the same rows: one thing, unless the labels differ
    _, (joined,) = panoptic_segments(merge(windows, [[(1, left)], [(1, right)]], (64, 112)), THINGS, 0.5, 0.5)
    assert joined["bbox"][0] <= 8 * STRIDE and joined["bbox"][0] + joined["bbox"][2] >= 17 * STRIDE
    assert len(panoptic_segments(merge(windows, [[(1, left)], [(2, right)]], (64, 112)), THINGS, 0.5, 0.0)[1]) == 2


@pytest.mark.slow
def test_a_large_image_takes_no_memory_for_where_queries_are_not():
    """A hundred windows: whole masks of all their queries would take a hundred times as much."""
    windows = Windows(608, 608, 64)
    found = [[(1, torch.full((16, 16), -9.0))] * 5 for _ in windows.starts]
    for w, queries in enumerate(found):
        queries[0] = 1, torch.full((16, 16), -9.0)
        queries[0][1][6:10, 6:10] = 9.0
        found[w] = queries[:1] if w % 2 else queries
    merged = merge(windows, found, (windows.height, windows.width))
    held = sum(part.numel() for part in merged.mask_logits.parts)
    assert len(found) == 169 and held < 0.05 * np.prod(merged.mask_logits.shape)
    size = (windows.height, windows.width)
    reached = [len(found) for _, _, found, _ in merged.mask_logits.blocks(size, size, size)]
    assert max(reached) < 0.2 * len(merged.mask_logits)
    _, segments = panoptic_segments(merged, THINGS, 0.5, 0.5)
    assert len(segments) == 169 and min(s["area"] for s in segments) > 0.9 * 16 * STRIDE**2


@pytest.mark.parametrize("sureness", [(6, 6, 6), (6, 5, 6), (5, 6, 5), (5, 5.5, 6)])
def test_a_thing_over_three_windows_is_one_whichever_is_surest(sureness):
    windows = Windows(64, 160, 64)
    assert len(windows.starts) == 3
    bar = torch.full((1, 1, 16, 16), -9.0)
    bar[..., 6:10, :] = 9.0
    class_logits = torch.tensor([[[0.0, sure, 0, 0]] for sure in sureness])
    merged = merge_windows(windows, class_logits, bar.repeat(3, 1, 1, 1), THINGS, (64, 160), (64, 160))
    (found,) = panoptic_segments(merged, THINGS, 0.5, 0.5)[1]
    assert found["bbox"][2] == 160 and len(merged.mask_logits) == 1


def test_a_doubtful_second_look_does_not_come_between_two_sure_ones():
    """Each window sees a thing twice, surely and with doubt; the doubtful mask of one agrees best with the sure one
    of the other."""
    windows = Windows(64, 112, 64)
    left, right = torch.full((16, 16), -9.0), torch.full((16, 16), -9.0)
    left[2:6, 8:16], right[2:6, 0:6] = 9.0, 9.0
    doubtful = left.clone()
    left[6:7, 12:16] = 9.0  # the sure one is a row too high
    class_logits = torch.tensor([[CLASS_LOGITS[1], [0, 1.0, 0, 1.3]], [CLASS_LOGITS[1], [0, 0, 0, 9.0]]])
    masks = torch.stack([torch.stack([left, doubtful]), torch.stack([right, torch.full((16, 16), -9.0)])])
    merged = merge_windows(windows, class_logits, masks, THINGS, (64, 112), (64, 112))
    (found,) = panoptic_segments(merged, THINGS, 0.5, 0.5)[1]
    assert found["bbox"][0] <= 8 * STRIDE and found["bbox"][0] + found["bbox"][2] >= 17 * STRIDE


def test_nothing_in_any_window_is_nothing():
    merged = merge(Windows(64, 112, 64), [[], [(1, torch.full((16, 16), -9.0))]], (64, 112))
    panoptic_map, segments = panoptic_segments(merged, THINGS)
    assert panoptic_map.shape == (64, 112) and not panoptic_map.any() and not segments
    assert instance_masks(merged, THINGS) == []


@pytest.fixture(scope="module")
def segmenter():
    labels = LabelSet.from_dict([{"id": i, "name": str(i), "isthing": i in THINGS} for i in range(3)])
    model, processor = build_segmenter("unit", labels, short_side=32, tiles=3)
    torch.nn.init.normal_(model.class_predictor.weight, std=0.7, generator=torch.Generator().manual_seed(0))
    return model, processor


def test_a_segmenter_remembers_that_it_learned_from_tiles(segmenter, tmp_path):
    model, processor = segmenter
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    labels = LabelSet.from_id2label(model.config.id2label)
    again = build_segmenter(tmp_path, labels)
    image = np.random.default_rng(0).integers(0, 256, (70, 120, 3), dtype=np.uint8)
    a, b = (predict_panoptic(*s, [image], THINGS, 4, 0.1, 0.0)[0][0] for s in (segmenter, again))
    assert a.shape == (70, 120) and a.any() and np.array_equal(a, b)
    assert "3 along the short side" in describe_inference(again[1])
    assert "short side of 32" in describe_inference(without_windows(again[1])) and again[1].tiles == 3


def test_windows_are_seen_at_the_scale_of_tiles(segmenter):
    """An image that is one tile repeated: every window that lies on the tile's grid says what the tile alone does."""
    model, processor = segmenter
    tile = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    alone = predict_semantic(model, without_windows(processor), [tile], return_scores=True)[0]
    scores = predict_semantic(model, processor, [np.tile(tile, (3, 3, 1))], return_scores=True)[0]
    assert scores.shape == (3, 96, 96)
    # The first window's own part, without the rows that a window further in owns or that enlarging mixes in.
    alone /= alone.sum(0)  # of an image in windows, scores are shares
    assert np.abs(scores[:, :26, :26] - alone[:, :26, :26]).max() < 0.05 and alone.std() > 0.1


def test_whole_images_are_scored_through_windows(scene_records):
    model, processor = build_segmenter("unit", labels_of(scene_records), short_side=32, tiles=2)
    scores = evaluate_segmenter(model, processor, scene_records, "panoptic", max_detections=7)
    assert scores["num_images"] == len(scene_records) and "overlapping windows" in scores["protocol"]
    assert "up to 7 instances" in scores["protocol"]
