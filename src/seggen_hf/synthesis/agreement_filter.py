"""Synthetic records without what a segmenter of real records takes to be painted wrongly."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm

from ..config import FilterConfig
from ..data.schema import check_columns, encode_map, encode_panoptic, labels_of
from ..labels import LabelSet, differing_labels
from ..segmenter.inference import without_windows
from ..storage.content_digests import records_digest, weights_digest
from ..storage.files import write_json
from ..storage.folders import FILTERED, claim_folder, hold_folder
from .alignment import align_rows, class_losses
from .manifest import MANIFEST, Shard, check_manifest
from .quality import REASONS
from .shards import (
    DECISION,
    FILTERED_SCORES,
    REJECT,
    data_path,
    finished_shards,
    load_synthetic,
    read_log,
    write_shard,
)

SUMMARY = "summary.json"


def filter_records(
    source: str | Path,
    output_dir: str | Path,
    model: nn.Module,
    processor,
    real_records: Dataset,
    config: FilterConfig | None = None,
    task: str = "semantic",
) -> Dataset:
    """Copy the synthetic records of `source` to `output_dir`, with void pixels where `model` does not see what their
    maps say; continues what an earlier call left unfinished.

    The rule `absolute` is FreeMask's (arXiv:2310.15160): a pixel is made void if its loss exceeds `config.tolerance`
    times the mean loss of its label on `real_records`. The rule `relative` compares images of one map with each other
    (`align_rows`), where one shard has several; what has too few is left to the other rule. Things of which more than
    half is void are made void. A record of which less than `config.min_alignment` is left is dropped.

    Args:
        source: folder of a finished synthesis.
        output_dir: gets the layout of a synthesis: data/*.parquet, dropped/*.json, manifest.json, summary.json.
        model, processor: a segmenter that learned from real records only (`build_segmenter`).
        real_records: those, of the size that the synthetic ones have (tiles where they are tiles).
        task: semantic, panoptic or instance.
    Returns: `load_synthetic(output_dir)`; `scores.alignment` is the share of labelled pixels that was kept.
    Raises: `ValueError` for an unfinished source, other labels, a folder begun otherwise, and if nothing is left.
    """
    source, folder, config = Path(source), Path(output_dir), config or FilterConfig()
    names = _source_shards(source)
    labels, processor = LabelSet.from_file(source), without_windows(processor)
    if differences := differing_labels(model.config, labels):
        raise ValueError(f"The segmenter and {source} have other labels: {differences}.")
    if differences := differing_labels(labels_of(real_records), labels):
        raise ValueError(f"The real records have other labels than {source}: {differences}.")
    check_columns("real records", real_records, task)
    check_columns("synthetic records", load_synthetic(source), task)
    claim_folder(folder, FILTERED)
    with hold_folder(folder, FILTERED):
        return _fill(source, folder, names, model, processor, real_records, labels, config, task)


def _fill(
    source: Path,
    folder: Path,
    names: list[str],
    model,
    processor,
    real_records: Dataset,
    labels: LabelSet,
    config: FilterConfig,
    task: str,
) -> Dataset:
    maps = ["segmentation_map" if task == "semantic" else "panoptic_map"]
    fingerprint = {
        "source": hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest()[:16],
        "segmenter": weights_digest({"segmenter": model}),
        "real_records": records_digest(real_records, ["image", *maps]),
        "tolerance": config.tolerance,
        "min_alignment": config.min_alignment,
        "task": task,
    }
    if config.rule != "absolute":  # folders may be older than the choice
        fingerprint["rule"] = config.rule
    if not check_manifest(folder, fingerprint):
        losses = class_losses(model, processor, real_records, labels, task, config.batch_size)
        by_label = {labels.id2label[i]: None if np.isnan(loss) else float(loss) for i, loss in enumerate(losses)}
        begun = {"shards": names, "fingerprint": fingerprint, "class_losses": by_label}
        write_json(folder / MANIFEST, begun)
    labels.save(folder)
    by_label = json.loads((folder / MANIFEST).read_text())["class_losses"]
    limits = [by_label[labels.id2label[i]] for i in range(labels.num_labels)]
    limits = config.tolerance * np.array([np.nan if limit is None else limit for limit in limits])
    done = finished_shards(folder)
    for name in tqdm([name for name in names if name not in done], "Filtering", unit="shard"):
        _filter_shard(source, folder, name, model, processor, limits, labels, config, task)
    summary = _summarize(folder, names)
    write_json(folder / SUMMARY, summary | {"reasons": REASONS})
    if summary["num_kept"] == 0:
        raise ValueError(
            f"The segmenter agrees with none of {summary['num_samples']} samples; {folder}/dropped has their scores."
        )
    return load_synthetic(folder)


def read_summary(folder: str | Path) -> dict:
    """Counts, reasons of what was dropped, and the mean alignment of what was kept."""
    return json.loads((Path(folder) / SUMMARY).read_text())


def _source_shards(source: Path) -> list[str]:
    if not (source / MANIFEST).is_file():
        raise ValueError(f"{source} is no folder of a synthesis: it has no {MANIFEST}.")
    names, finished = json.loads((source / MANIFEST).read_text())["shards"], finished_shards(source)
    if missing := [name for name in names if name not in finished]:
        raise ValueError(f"{source} is not finished: {len(missing)} shards are missing, first {missing[0]}.")
    return names


def _filter_shard(source, folder, name, model, processor, limits, labels, config, task) -> None:
    started, kept, dropped = time.monotonic(), [], read_log(source, name)["dropped"]
    panoptic = "panoptic_map" in pq.read_schema(data_path(source, name)).names
    kind, number = name.rsplit("-", 1)
    siblings = config.rule == "relative" and kind == "imgsyn"  # of MaskSyn each image has a map of its own
    for rows in _batches(source, name, config.batch_size, siblings):
        made = align_rows(model, processor, rows, limits, labels, task, config.batch_size, siblings)
        for row, found in zip(rows, made, strict=True):
            segmentation_map, segments, alignment = found
            row["scores"] |= {"alignment": alignment}
            reason = _drop(segmentation_map, alignment, config, labels.ignore_index)
            if reason is not None:
                logged = ("image_id", "source_id", "variant", "seed", "caption", "scores")
                dropped.append({key: row[key] for key in logged} | {"reason": reason})
                continue
            row["segmentation_map"] = encode_map(segmentation_map, labels.num_labels, row["image_id"])
            if segments is not None:
                row |= {"panoptic_map": encode_panoptic(segments[0], row["image_id"]), "segments_info": segments[1]}
            kept.append(row)
    shard = Shard(kind, int(number), 0, 0, read_log(source, name)["num_samples"])
    write_shard(folder, shard, kept, dropped, time.monotonic() - started, panoptic, FILTERED_SCORES)


def _batches(source: Path, name: str, size: int, siblings: bool) -> Iterator[list[dict]]:
    """Rows of a shard that nobody rejected, `size` at a time, or with all of the last one's source."""
    rows: list[dict] = []
    for batch in pq.ParquetFile(data_path(source, name)).iter_batches(size):
        for row in batch.to_pylist():
            if row.get(DECISION) == REJECT:
                continue
            if len(rows) >= size and not (siblings and row["source_id"] == rows[-1]["source_id"]):
                yield rows
                rows = []
            rows.append(row)
    if rows:
        yield rows


def _drop(segmentation_map: np.ndarray, alignment: float, config: FilterConfig, ignore_index: int) -> str | None:
    if (segmentation_map == ignore_index).all():
        return "no_label"
    return "misaligned" if alignment < config.min_alignment else None


def _summarize(folder: Path, names: list[str]) -> dict:
    logs = [read_log(folder, name) for name in names]
    reasons: dict[str, int] = {}
    for log in logs:
        for sample in log["dropped"]:
            reasons[sample["reason"]] = reasons.get(sample["reason"], 0) + 1
    alignments = [
        score["alignment"]
        for name in names
        for score in pq.read_table(data_path(folder, name), columns=["scores"])["scores"].to_pylist()
    ]
    return {
        "num_samples": sum(log["num_samples"] for log in logs),
        "num_kept": sum(log["num_kept"] for log in logs),
        "dropped": reasons,
        "mean_alignment": float(np.mean(alignments)) if alignments else None,
        "seconds": round(sum(log["seconds"] for log in logs), 3),
    }
