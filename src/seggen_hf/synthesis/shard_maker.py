"""The samples of a shard: drawn, held against what real maps say, and turned into rows."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset

from ..data.schema import encode_image, encode_map, encode_panoptic, read_map, read_panoptic
from ..data.transforms import cover_crop_map, place_of
from ..labels import LabelSet
from ..segments import label_map, measure_segments
from .generators import PromptCache
from .manifest import PlannedSample, Shard, SynthesisPlan
from .plausibility import RealMaps, drop_implausible, is_wanted
from .quality import decode_scores, drop_generated_map, drop_human_map, drop_image, map_scores
from .shards import SAMPLE_SCORES

ENCODERS = 4  # threads that write PNGs while the generators go on


@dataclass
class Draft:
    """A sample on its way: its noise source, its map and scores, and the reason if it is dropped."""

    sample: PlannedSample
    generator: torch.Generator
    segmentation_map: np.ndarray | None = None
    segments: tuple[np.ndarray, list[dict]] | None = None  # panoptic_map and segments_info, where it has them
    scores: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


@dataclass
class DrawnShard:
    """A shard whose samples are drawn, in `seconds`; those with a future have their row in it once it is encoded."""

    finished: list[tuple[Draft, Future | None]]
    seconds: float

    def rows(self) -> list[dict]:
        rows = [row.result() for _, row in self.finished if row is not None]
        return [row for row in rows if row is not None]

    def dropped(self) -> list[dict]:
        """Entries of the log, once `rows` is known."""
        dropped = [draft for draft, _ in self.finished if draft.reason]
        return [_log_entry(draft) for draft in sorted(dropped, key=lambda d: (d.sample.record, d.sample.variant))]


class ShardMaker:
    """Turns the samples of a shard into rows, in batches. In its `with` block, threads read the maps of the next batch
    and encode the images of those before while the generators draw."""

    def __init__(
        self, records: Dataset, plan: SynthesisPlan, labels: LabelSet, generators: dict, height: int, width: int
    ):
        self.panoptic = generators["mask2img"].panoptic_codec is not None
        columns = ["panoptic_map", "segments_info"] if self.panoptic else ["segmentation_map"]
        self.records, self.maps = records, records.select_columns(columns)
        self.plan, self.config, self.labels = plan, plan.config, labels
        self.generators, self.size = generators, {"height": height, "width": width}
        self.prompts = {name: PromptCache(pipeline) for name, pipeline in generators.items()}
        held_against = "masksyn" in plan.kinds and is_wanted(self.config)
        self.real_maps = RealMaps(records, labels, self.panoptic) if held_against else None

    def __enter__(self):
        self._reader, self._encoder = ThreadPoolExecutor(1), ThreadPoolExecutor(ENCODERS)
        return self

    def __exit__(self, *_):
        for pool in (self._reader, self._encoder):
            pool.shutdown(cancel_futures=True)

    def draw(self, shard: Shard, advance: Callable[[int], None]) -> DrawnShard:
        """Draw a shard's samples; `advance` is told of them as they are done."""
        started = time.monotonic()
        samples, size = self.plan.samples(shard), self.config.batch_size
        finished: list[tuple[Draft, Future | None]] = []
        pending: list[Draft] = []  # have a map and wait until they fill a batch

        def paint(drafts: list[Draft]) -> None:
            for draft, pixels in zip(drafts, self._draw_images(drafts), strict=True):
                finished.append((draft, self._encoder.submit(self._row, draft, pixels)))
            advance(len(drafts))

        ahead = self._reader.submit(self._begin, samples[:size])
        for start in range(0, len(samples), size):
            drafts = ahead.result()
            ahead = self._reader.submit(self._begin, samples[start + size : start + 2 * size])
            if shard.kind == "masksyn":
                self._draw_maps(drafts)
            dropped = [draft for draft in drafts if draft.reason]
            finished += [(draft, None) for draft in dropped]
            advance(len(dropped))
            pending += [draft for draft in drafts if not draft.reason]
            while len(pending) >= size:
                paint(pending[:size])
                del pending[:size]
        if pending:
            paint(pending)
        return DrawnShard(finished, time.monotonic() - started)

    def _begin(self, samples: list[PlannedSample]) -> list[Draft]:
        """The samples with their noise, and their maps if people made those.

        Noise is drawn on the CPU, so that a sample is the same on every device and in every batch. One generator
        serves both pipelines, one after the other. (PyTorch's CPU generator uses the seed's low 32 bits.)
        """
        drafts = [Draft(sample, torch.Generator().manual_seed(sample.seed)) for sample in samples]
        self._read_maps([draft for draft in drafts if draft.sample.kind == "imgsyn"])
        return drafts

    def _source_map(self, sample: PlannedSample) -> tuple[np.ndarray, list[dict] | None]:
        """Ids of the record's map, and what its segments are if they are ids of segments."""
        record = self.maps[sample.record]
        if self.panoptic:
            return read_panoptic(record["panoptic_map"]), record["segments_info"]
        return read_map(record["segmentation_map"]), None

    def _read_maps(self, drafts: list[Draft]) -> None:
        """ImgSyn: the records' maps as the generator's training saw them: scaled to cover its size, and cropped.

        The place of the window comes from the sample's seed, in draws of their own: the noise stays the same.
        """
        for draft in drafts:
            source, segments = self._source_map(draft.sample)
            size = (self.size["height"], self.size["width"])
            drawn = cover_crop_map(source, size, place_of(draft.sample.seed))
            if segments is not None:
                draft.segments = drawn, measure_segments(drawn, segments)
                drawn = label_map(*draft.segments, self.labels.ignore_index)
            draft.segmentation_map = drawn
            draft.scores = map_scores(draft.segmentation_map, self.labels.ignore_index)
            draft.reason = drop_human_map(draft.scores)

    def _draw_maps(self, drafts: list[Draft]) -> None:
        """MaskSyn: new maps for the captions."""
        config = self.config
        output = self.generators["text2mask"](
            **self.prompts["text2mask"]([draft.sample.map_caption for draft in drafts]),
            **self.size,
            num_inference_steps=config.text2mask_steps,
            guidance_scale=config.text2mask_guidance,
            generator=[draft.generator for draft in drafts],
            max_color_distance=config.max_color_distance,
            min_region_area=config.min_region_area,
            fill_distance=config.fill_distance,
            output_type="np",
        )
        for row, draft in enumerate(drafts):
            draft.segmentation_map = labels = output.segmentation_maps[row]
            distance = output.distances[row]
            if self.panoptic:
                draft.segments = output.panoptic_maps[row], output.segments_infos[row]
            draft.scores = map_scores(labels, self.labels.ignore_index)
            if not np.isfinite(distance).all():
                draft.reason = "not_finite"
                continue
            draft.scores |= decode_scores(labels, distance, config.max_color_distance, self.labels.ignore_index)
            draft.reason = drop_generated_map(
                draft.scores, config.max_ignored_share, lambda draft=draft: self._source_scores(draft.sample)
            )
            if self.real_maps and not draft.reason:
                draft.scores |= self.real_maps.scores(labels, draft.sample.map_caption, draft.segments)
                draft.reason = drop_implausible(draft.scores, config)

    def _source_scores(self, sample: PlannedSample) -> dict[str, float]:
        source, segments = self._source_map(sample)
        labels = source if segments is None else label_map(source, segments, self.labels.ignore_index)
        return map_scores(labels, self.labels.ignore_index)

    def _draw_images(self, drafts: list[Draft]) -> list[np.ndarray]:
        """An image `(H, W, 3)`, floats in [0, 1], for each map."""
        config = self.config
        maps: dict[str, list] = {"segmentation_map": [draft.segmentation_map for draft in drafts]}
        if self.panoptic:
            drawn = [draft.segments for draft in drafts if draft.segments is not None]
            maps = {
                "segmentation_map": [panoptic_map for panoptic_map, _ in drawn],
                "segments_info": [segments_info for _, segments_info in drawn],
            }
        return self.generators["mask2img"](
            **self.prompts["mask2img"]([draft.sample.caption for draft in drafts]),
            **maps,
            **self.size,
            num_inference_steps=config.mask2img_steps,
            guidance_scale=config.mask2img_guidance,
            controlnet_conditioning_scale=float(config.conditioning_scale),
            generator=[draft.generator for draft in drafts],
            output_type="np",
        ).images

    def _row(self, draft: Draft, pixels: np.ndarray) -> dict | None:
        """The sample as a shard holds it; None, and the reason in `draft`, if its image is dropped."""
        draft.reason = drop_image(pixels)
        if draft.reason:
            return None
        sample, segments = draft.sample, {}
        if draft.segments is not None:
            panoptic_map, segments_info = draft.segments
            segments = {"panoptic_map": encode_panoptic(panoptic_map, sample.image_id), "segments_info": segments_info}
        return segments | {
            "image": encode_image((pixels * 255).round().astype(np.uint8), sample.image_id),
            "segmentation_map": encode_map(draft.segmentation_map, self.labels.num_labels, sample.image_id),
            "caption": sample.caption,
            "image_id": sample.image_id,
            "kind": sample.kind,
            "source_id": sample.source_id,
            "variant": sample.variant,
            "seed": sample.seed,
            "scores": {name: draft.scores.get(name) for name in SAMPLE_SCORES},
        }


def _log_entry(draft: Draft) -> dict:
    sample = draft.sample
    return {
        "image_id": sample.image_id,
        "source_id": sample.source_id,
        "variant": sample.variant,
        "seed": sample.seed,
        "caption": sample.caption,
        "reason": draft.reason,
        "scores": draft.scores,
    }
