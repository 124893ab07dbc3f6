"""MaskSyn and ImgSyn (SegGen, arXiv:2311.03355) through one engine.

MaskSyn: caption of a real record -> Text2Mask -> new segmentation map -> Mask2Img -> image.
ImgSyn: segmentation map made by people, and its caption -> Mask2Img -> image.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset

from ..config import SynthesisConfig, save_config
from ..data.schema import check_columns, encode_image, encode_map, encode_panoptic, read_map, read_panoptic
from ..data.transforms import cover_crop_map, place_of
from ..labels import LabelSet
from ..provenance import public_value
from ..segments import label_map, measure_segments
from ..storage.content_digests import records_digest
from ..storage.files import write_json
from ..storage.folders import SYNTHESIS, check_folder, claim_folder, hold_folder
from .generators import PromptCache, check_labels, decoding, generator_digest, place, quiet
from .manifest import KINDS, PlannedSample, Shard, SynthesisPlan, check_manifest, write_manifest
from .plausibility import RealMaps, drop_implausible, is_wanted
from .preview import preview, preview_early
from .progress import Progress
from .quality import REASONS, decode_scores, drop_generated_map, drop_human_map, drop_image, map_scores
from .rarity import repeat_factors
from .shards import SAMPLE_SCORES, finished_shards, load_synthetic, summarize, write_shard
from .styles import with_styles

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
ENCODERS = 4  # threads that write PNGs while the generators go on


def synthesize(
    records: Dataset,
    output_dir: str | Path,
    config: SynthesisConfig,
    mask2img,
    text2mask=None,
    kinds: Sequence[str] = KINDS,
    labels: LabelSet | None = None,
    accelerator: Accelerator | None = None,
    height: int | None = None,
    width: int | None = None,
    provenance: dict | None = None,
) -> Dataset:
    """Make synthetic records from real ones; continues what an earlier call left unfinished.

    Called by every process of a launch; they share `output_dir`. A sample depends on the settings and its source
    record alone: its noise comes from its own seed, whatever batch, process or call it is made in.

    Args:
        records: real records with caption, image_id and segmentation_map (`load_records`, `add_captions`); for
            generators of segments with panoptic_map and segments_info, which the synthetic records then have too.
        output_dir: gets data/*.parquet, dropped/*.json, manifest.json, summary.json, labels.json, id2label.json and
            preview.png.
        mask2img (`Mask2ImgPipeline`), text2mask (`Text2MaskPipeline`, needed for MaskSyn): moved to the process's
            device, or offloaded as `config` says, unless they are offloaded already.
        kinds: out of `imgsyn` and `masksyn`; one with no variants in `config` is left out.
        labels: of the records; what `load_records` attached if not given.
        height, width: of the samples, in pixels; what Mask2Img was trained at if not given.
        provenance: facts for the manifest and the card, such as the generators' ids and commits; of local paths only
            the last part is written.
    Returns: `load_synthetic(output_dir)`.
    Raises: `ValueError` for records without captions, generators with other labels than the records, a size that they
        cannot make, a folder begun with other settings or with other things in it, and if every sample was dropped.
    """
    accelerator = accelerator or Accelerator()
    folder = Path(output_dir)
    provenance = {name: public_value(value) for name, value in (provenance or {}).items()}
    labels = labels or LabelSet.from_records(records)
    config = with_styles(config, labels, folder, accelerator)
    weights = repeat_factors(records, labels, config.rare_labels) if config.rare_labels else None
    plan = SynthesisPlan(records["image_id"][:], records["caption"][:], config, kinds, weights)
    generators = {"mask2img": mask2img}
    if "masksyn" in plan.kinds:
        if text2mask is None:
            raise ValueError("MaskSyn needs text2mask. Pass a Text2MaskPipeline, or set --masksyn_variants 0.")
        generators["text2mask"] = text2mask
    for name, pipeline in generators.items():
        check_labels(name, pipeline.codec, labels)
    panoptic = mask2img.panoptic_codec is not None
    if any((pipeline.panoptic_codec is not None) != panoptic for pipeline in generators.values()):
        raise ValueError("One of text2mask and mask2img draws segments and the other labels; train both for one task.")
    check_columns("records", records, "panoptic" if panoptic else "semantic")
    height, width = height or mask2img.trained_size[0], width or mask2img.trained_size[1]
    for pipeline in generators.values():
        pipeline.check_size(height, width)
    check_folder(folder, SYNTHESIS)
    digests = {f"{name}_weights": generator_digest(pipeline) for name, pipeline in generators.items()}
    digests["segmentation_maps"] = records_digest(records, ["panoptic_map" if panoptic else "segmentation_map"])
    fingerprint = plan.fingerprint(height, width, labels.to_dict(), digests)
    begun = check_manifest(folder, fingerprint)
    accelerator.wait_for_everyone()  # nobody writes before all have looked
    if accelerator.is_main_process:
        claim_folder(folder, SYNTHESIS)
        if not begun:
            write_manifest(folder, plan, fingerprint, provenance)
        labels.save(folder)
        save_config(config, folder)
    accelerator.wait_for_everyone()
    if not check_manifest(folder, fingerprint):
        raise ValueError(f"{folder} is not shared by all processes; name an --output_dir on a shared file system.")

    alone = hold_folder(folder, SYNTHESIS) if accelerator.is_main_process else contextlib.nullcontext()
    with alone:
        return _fill(folder, records, plan, labels, generators, (height, width), accelerator, provenance)


def _fill(
    folder: Path,
    records: Dataset,
    plan: SynthesisPlan,
    labels: LabelSet,
    generators: dict,
    size: tuple[int, int],
    accelerator: Accelerator,
    provenance,
) -> Dataset:
    """Make what is missing in a folder that has its manifest: shards, summary and preview."""
    config, (height, width) = plan.config, size
    started = time.monotonic()
    has_gpu = accelerator.device.type != "cpu"
    if config.offload != "none" and not has_gpu:
        logger.warning("There is no GPU for --offload %s: all weights stay in memory.", config.offload)
    for pipeline in generators.values():
        place(pipeline, config.offload if has_gpu else "none", accelerator.device)
    maker = ShardMaker(records, plan, labels, generators, height, width)
    _make_shards(folder, plan, maker, accelerator)
    if accelerator.is_main_process:
        facts = {"height": height, "width": width, "num_processes": accelerator.num_processes}
        facts |= {"seconds_of_last_call": round(time.monotonic() - started, 3), "provenance": provenance}
        write_json(folder / SUMMARY, summarize(folder, plan) | {"reasons": REASONS} | facts)
    accelerator.wait_for_everyone()
    _check_summary(folder, accelerator.is_main_process)
    dataset = load_synthetic(folder)
    if accelerator.is_main_process:
        preview(folder, plan.kinds, dataset, generators["mask2img"].codec, maker.records)
    return dataset


def _make_shards(folder: Path, plan: SynthesisPlan, maker: "ShardMaker", accelerator: Accelerator) -> None:
    """Make the shards of this process that are not there yet, then wait until the others have made theirs.

    A shard is written while the next one is drawn; no more than one waits.
    """
    is_main = accelerator.is_main_process
    mine = plan.shards_of(accelerator.process_index, accelerator.num_processes)
    done = finished_shards(folder)
    pipelines, codec = maker.generators.values(), maker.generators["mask2img"].codec
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(folder, plan, mine, disable=not is_main))
        stack.enter_context(quiet(pipelines))
        stack.enter_context(decoding(pipelines, plan.config))
        stack.enter_context(maker)
        writer = stack.enter_context(ThreadPoolExecutor(1))  # is waited for first: it needs the encoded rows

        def finish(shard: Shard, written: Future) -> None:
            rows, dropped = written.result()
            progress.finish(shard, len(dropped))
            if is_main and rows:
                preview_early(folder, shard.kind, rows, codec, maker.records)

        def write(shard: Shard, drawn: "DrawnShard") -> tuple[list[dict], list[dict]]:
            rows, dropped = drawn.rows(), drawn.dropped()
            write_shard(folder, shard, rows, dropped, drawn.seconds, maker.panoptic)
            return rows, dropped

        last = None
        for shard in mine:
            if shard.name in done:
                continue
            drawn = maker.draw(shard, progress.advance)
            if last is not None:
                finish(*last)
            last = shard, writer.submit(write, shard, drawn)
        if last is not None:
            finish(*last)
        # By looking at the files: in a collective, the first to finish would run into its timeout.
        progress.wait_for_others()


def _check_summary(folder: Path, is_main: bool) -> None:
    """Tell what was dropped; `ValueError` if nothing is left."""
    summary = json.loads((folder / SUMMARY).read_text())
    parts = [
        f"{number} {kind} because {REASONS[reason]}"
        for kind, entry in summary["kinds"].items()
        for reason, number in entry["dropped"].items()
    ]
    if summary["num_kept"] == 0:
        raise ValueError(
            f"All {summary['num_samples']} samples were dropped: {'; '.join(parts)}. Train the generators longer, or "
            f"raise --max_color_distance or --max_ignored_share; {folder}/dropped has the scores of each."
        )
    if parts and is_main:
        logger.warning("Dropped of %d samples: %s.", summary["num_samples"], "; ".join(parts))


# Making a shard


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
