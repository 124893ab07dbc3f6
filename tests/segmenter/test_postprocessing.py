"""Mask2Former's three inference rules against plain loops over queries, and against hand-made cases."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

from seggen_hf.labels import LabelSet
from seggen_hf.segmenter.build import build_segmenter
from seggen_hf.segmenter.inference import predict_instances, predict_panoptic, predict_queries
from seggen_hf.segmenter.postprocessing import QueryOutput, instance_masks, panoptic_segments, semantic_scores
from seggen_hf.segments import measure_segments

SIZES = ((64, 96), (60, 90), (90, 131))
THINGS = [1, 3]


def draw_output(seed: int, queries: int = 12, num_labels: int = 4, sizes=SIZES) -> QueryOutput:
    """Queries that are sure of their class more often than not, with masks of some extent."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(queries, num_labels + 1, generator=generator) * 4
    coarse = torch.randn(1, queries, 4, 6, generator=generator) * 5
    return QueryOutput(classes, F.interpolate(coarse, size=(16, 24), mode="bilinear")[0], *sizes)


def full_size_masks(output: QueryOutput) -> torch.Tensor:
    masks = F.interpolate(output.mask_logits[None], size=output.padded_size, mode="bilinear", align_corners=False)
    masks = masks[..., : output.input_size[0], : output.input_size[1]]
    return F.interpolate(masks, size=output.original_size, mode="bilinear", align_corners=False)[0]


def plain_panoptic(output, things, object_threshold, overlap_threshold):
    """The rule as a loop: one query after the other claims the pixels that it wins."""
    masks = full_size_masks(output).sigmoid()
    scores, labels = output.class_logits.softmax(-1).max(-1)
    kept = [q for q in range(len(scores)) if labels[q] != output.class_logits.shape[1] - 1]
    kept = [q for q in kept if scores[q] > object_threshold]
    result, segments, stuff = np.zeros(output.original_size, int), [], {}
    if not kept:
        return result, segments
    winner = torch.stack([scores[q] * masks[q] for q in kept]).argmax(0)
    for place, query in enumerate(kept):
        own, won = (masks[query] >= 0.5), winner == place
        taken = (own & won).numpy()
        if own.sum() == 0 or not taken.any() or won.sum() / own.sum() < overlap_threshold:
            continue
        label = int(labels[query])
        if label in stuff:
            result[taken] = stuff[label]
            continue
        segments.append((len(segments) + 1, label))
        result[taken] = len(segments)
        if label not in things:
            stuff[label] = len(segments)
    return result, segments


@pytest.mark.parametrize("max_bytes", [2**28, 200_000])
@pytest.mark.parametrize("thresholds", [(0.8, 0.8), (0.5, 0.3), (0.0, 0.0)])
def test_panoptic_segments_are_those_of_the_plain_rule(thresholds, max_bytes):
    found = 0
    for seed in range(12):
        output = draw_output(seed)
        panoptic_map, segments = panoptic_segments(output, THINGS, *thresholds, max_bytes=max_bytes)
        expected, listed = plain_panoptic(output, THINGS, *thresholds)
        assert (panoptic_map == expected).mean() > 0.9999  # strips round otherwise at a handful of edge pixels
        assert [(s["id"], s["category_id"]) for s in segments] == listed
        ids = [segment["id"] for segment in segments]
        assert len(set(ids)) == len(ids) and set(np.unique(panoptic_map)) - {0} == set(ids)
        fused = [s["category_id"] for s in segments if not s["isthing"]]
        assert len(set(fused)) == len(fused)
        found += len(segments)
    assert found > (0 if thresholds[1] > 0.5 else 12)


@pytest.mark.slow
def test_pixels_are_counted_beyond_what_float32_counts():
    """A query wins all pixels, one more than its mask has; that is less than the share asked for, which is two more.
    In float32 both numbers of pixels won are the same."""
    size = (4099, 4101)
    mask = torch.ones(1, *size)
    mask[0, -1, -1] = -1.0
    output = QueryOutput(torch.tensor([[9.0, 0.0]]), mask, *[size] * 3)
    share = (mask.numel() + 1) / (mask.numel() - 1)
    panoptic_map, segments = panoptic_segments(output, [0], overlap_threshold=share, max_bytes=2**30)
    assert segments == [] and not panoptic_map.any()


def test_transformers_gives_one_id_to_two_segments_and_ours_does_not():
    """Why its panoptic post-processing is not used: stuff that is fused after a thing hands that thing's id on."""
    labels = [0, 1, 0, 1]  # stuff, thing, the same stuff, another thing
    classes = torch.full((4, 3), -9.0)
    classes[range(4), labels] = 9.0
    masks = torch.full((4, 32, 32), -9.0)
    for query in range(4):
        masks[query, :, 8 * query : 8 * query + 8] = 9.0
    output = Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=classes[None], masks_queries_logits=masks[None]
    )
    (theirs,) = Mask2FormerImageProcessorPil().post_process_panoptic_segmentation(output, label_ids_to_fuse={0})
    ids = [segment["id"] for segment in theirs["segments_info"]]
    assert len(set(ids)) < len(ids)  # if this fails, transformers has mended it
    panoptic_map, segments = panoptic_segments(QueryOutput(classes, masks, *[(32, 32)] * 3), [1])
    assert [(s["id"], s["category_id"], s["area"]) for s in segments] == [(1, 0, 512), (2, 1, 256), (3, 1, 256)]
    assert segments[2]["bbox"] == [24, 0, 8, 32]
    assert np.array_equal(np.unique(panoptic_map[0]), [1, 2, 3]) and panoptic_map[0, 0] == panoptic_map[0, 16] == 1


def test_no_sure_query_is_all_void():
    output = draw_output(0)
    panoptic_map, segments = panoptic_segments(output, THINGS, object_threshold=1.0)
    assert not panoptic_map.any() and panoptic_map.shape == (90, 131) and segments == []


@pytest.mark.parametrize("max_bytes", [2**28, 200_000])
def test_instances_are_those_of_the_plain_rule(max_bytes):
    output = draw_output(3)
    masks = full_size_masks(output)
    probabilities = output.class_logits.softmax(-1)[:, :-1]
    pairs = sorted(((float(probabilities[q, c]), q, c) for q in range(12) for c in range(4)), reverse=True)[:10]
    expected = []
    for score, query, label in pairs:
        inside = masks[query] > 0
        if label in THINGS and inside.any():
            expected.append((label, score * float(masks[query].sigmoid()[inside].mean()), inside.numpy()))
    found = instance_masks(output, THINGS, max_instances=10, max_bytes=max_bytes)
    assert len(found) == len(expected) > 2
    for instance, (label, score, mask) in zip(found, expected, strict=True):
        assert instance["category_id"] == label and instance["score"] == pytest.approx(score, abs=1e-4)
        assert (instance["mask"] == mask).mean() > 0.9999


def test_no_thing_means_no_instance():
    assert instance_masks(draw_output(0), []) == []


@pytest.mark.parametrize("original", [(90, 131), (23, 40), (60, 90)])
def test_strips_of_rows_give_the_scores_of_the_whole_image(original):
    output, max_bytes = draw_output(0, queries=7, sizes=((64, 96), (60, 90), original)), 100_000
    (whole,) = semantic_scores(output)
    strips = list(semantic_scores(output, max_bytes=max_bytes))
    assert len(strips) > 1 and all(4 * (2 * 7 + 4) * strip[0].numel() <= max_bytes for strip in strips)
    joined = torch.cat(strips, dim=1)
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(joined.argmax(0), whole.argmax(0))


def test_segments_are_measured_and_empty_ones_left_out():
    panoptic_map = np.zeros((5, 7), np.int32)
    panoptic_map[1:3, 2:6], panoptic_map[4, 0] = 70_000, 5
    listed = [{"id": 5, "category_id": 1}, {"id": 9, "category_id": 0}, {"id": 70_000, "iscrowd": 1}]
    five, large = measure_segments(panoptic_map, listed)
    assert (five["area"], five["bbox"], five["iscrowd"]) == (1, [0, 4, 1, 1], False)
    assert (large["area"], large["bbox"], large["iscrowd"]) == (8, [2, 1, 4, 2], True)


def test_a_model_predicts_each_image_alone_and_at_its_own_size():
    labels = LabelSet.from_dict([{"id": i, "name": str(i), "isthing": i in THINGS} for i in range(4)])
    model, processor = build_segmenter("unit", labels)
    assert isinstance(model, Mask2FormerForUniversalSegmentation)
    torch.nn.init.normal_(model.class_predictor.weight, std=0.7, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 50), (33, 70), (40, 50))]
    together = predict_panoptic(model, processor, images, THINGS, object_threshold=0.1, overlap_threshold=0.0)
    alone = [
        predict_panoptic(model, processor, [i], THINGS, object_threshold=0.1, overlap_threshold=0.0)[0] for i in images
    ]
    assert any(segments for _, segments in together)
    for (map_a, segments_a), (map_b, segments_b), image in zip(together, alone, images, strict=True):
        assert map_a.shape == image.shape[:2] and (map_a == map_b).mean() > 0.999
        assert [s["category_id"] for s in segments_a] == [s["category_id"] for s in segments_b]
    instances = predict_instances(model, processor, images, THINGS)
    assert all(i["category_id"] in THINGS and i["mask"].shape == (33, 70) for i in instances[1]) and instances[1]
    assert [index for index, _ in predict_queries(model, processor, images)] == [0, 2, 1]  # by padded size
    assert torch.is_grad_enabled()
