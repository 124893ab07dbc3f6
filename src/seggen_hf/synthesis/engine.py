"""MaskSyn and ImgSyn (SegGen, arXiv:2311.03355) through one engine.

MaskSyn: caption of a real record -> Text2Mask -> new segmentation map -> Mask2Img -> image.
ImgSyn: segmentation map made by people, and its caption -> Mask2Img -> image.
"""

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset

from ..config import SynthesisConfig, save_config
from ..data.schema import check_columns
from ..labels import LabelSet
from ..provenance import public_value
from ..storage.content_digests import records_digest
from ..storage.files import write_json
from ..storage.folders import SYNTHESIS, check_folder, claim_folder, hold_folder
from .generators import check_labels, decoding, generator_digest, place, quiet
from .manifest import KINDS, Shard, SynthesisPlan, check_manifest, write_manifest
from .preview import preview, preview_early
from .progress import Progress
from .quality import REASONS
from .rarity import repeat_factors
from .shard_maker import DrawnShard, ShardMaker
from .shards import finished_shards, load_synthetic, summarize, write_shard
from .styles import with_styles

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"


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


def _make_shards(folder: Path, plan: SynthesisPlan, maker: ShardMaker, accelerator: Accelerator) -> None:
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

        def write(shard: Shard, drawn: DrawnShard) -> tuple[list[dict], list[dict]]:
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
