"""Finished pieces of a synthesis: `data/train-KIND-NUMBER.parquet`, and `dropped/KIND-NUMBER.json` with the reasons.

The names say "train" so that a plain `load_dataset(folder)` finds the data among the JSON files. A README.md with
`configs` would do that too, but `datasets` 5.2 caches a folder that has one by its last name and not by its files:
another folder called `synthetic`, or the same one as it was before it was finished, would be returned.
"""

import itertools
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, Value, concatenate_datasets, load_dataset
from huggingface_hub import hf_hub_download

from ..data.schema import attach_labels, record_features
from ..data.sources.roots import Roots
from ..data.sources.streamed import StreamedRecords, join_streams, stream_records
from ..labels import LabelSet, differing_labels
from ..storage.files import replacing, write_json
from .manifest import KINDS, MANIFEST, Shard, SynthesisPlan

PREFIX = "train-"
ROWS_PER_GROUP = 100  # read into memory at once; what `datasets` writes for images
SAMPLE_SCORES = ("decode_confidence", "mean_distance", "ignored_share", "num_labels")
FILTERED_SCORES = (*SAMPLE_SCORES, "alignment")
DECISION, KEEP, REJECT = "decision", "keep", "reject"  # a column of samples that a person looked at


def shard_features(panoptic: bool = False, scores: Sequence[str] = SAMPLE_SCORES) -> Features:
    """Columns of a shard: those of a record, synthetic ones included. Scores that were not measured are null."""
    return record_features(synthetic=True, panoptic=panoptic, scores=scores)


def reviewed_features(panoptic: bool = False) -> Features:
    """Columns of a sample that a person decided on: `decision`, and whether they repainted its map."""
    return Features({**shard_features(panoptic), DECISION: Value("string"), "repainted": Value("bool")})


def data_path(folder: Path, name: str) -> Path:
    return folder / "data" / f"{PREFIX}{name}.parquet"


def log_path(folder: Path, name: str) -> Path:
    return folder / "dropped" / f"{name}.json"


def write_shard(
    folder: Path,
    shard: Shard,
    rows: list[dict],
    dropped: list[dict],
    seconds: float,
    panoptic: bool = False,
    scores: Sequence[str] = SAMPLE_SCORES,
) -> None:
    """Write the log, then the rows: a shard whose Parquet file has its name is whole, and so is its log."""
    for path in (data_path(folder, shard.name), log_path(folder, shard.name)):
        path.parent.mkdir(parents=True, exist_ok=True)
    log = {"num_samples": len(shard), "num_kept": len(rows), "seconds": round(seconds, 3), "dropped": dropped}
    write_json(log_path(folder, shard.name), log)
    path = data_path(folder, shard.name)
    schema = shard_features(panoptic, scores).arrow_schema
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        if rows:  # an empty row group could not be read by `datasets`; a file without any can
            writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=ROWS_PER_GROUP)


def finished_shards(folder: Path) -> set[str]:
    """Names of the shards that are whole."""
    data = folder / "data"
    if not data.is_dir():
        return set()
    names = [name for name in os.listdir(data) if name.startswith(PREFIX) and name.endswith(".parquet")]
    return {name.removeprefix(PREFIX).removesuffix(".parquet") for name in names}


def read_log(folder: Path, name: str) -> dict:
    return json.loads(log_path(folder, name).read_text())


def load_synthetic(
    path_or_paths: str | Path | Sequence[str | Path],
    kinds: Sequence[str] | None = None,
    split: str = "train",
    revision: str | None = None,
    config_name: str | None = None,
) -> Dataset:
    """Read what `synthesize` made: records in the order of the plan, memory-mapped, with their labels attached.

    Of samples that people decided on (`seggen demo`), those that they rejected are left out.

    Args:
        path_or_paths: folder of a synthesis (whole or not: what is finished is read), Hub id of a published one, or
            several of these, in a sequence or separated by commas.
        kinds: only samples of these kinds, out of `imgsyn` and `masksyn`.
        split, revision, config_name: of a Hub id; its newest round if no config is named.
    Raises: `ValueError` for a path without shards, an unknown kind, folders whose labels differ, and pictures that are
        files elsewhere.
    """
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown:
        raise ValueError(f"There is no kind {unknown[0]!r} of synthetic samples; there are {', '.join(KINDS)}.")
    if isinstance(path_or_paths, str) and not os.path.isdir(path_or_paths):
        path_or_paths = [part.strip() for part in path_or_paths.split(",") if part.strip()]
    paths = [path_or_paths] if isinstance(path_or_paths, (str, Path)) else list(path_or_paths)
    if not paths:
        raise ValueError("No synthetic data is named; give the folder of a synthesis or a Hub id.")
    parts = [
        _load_folder(Path(path), kinds)
        if os.path.isdir(path)
        else _load_published(path, kinds, split, revision, config_name)
        for path in paths
    ]
    labels = [LabelSet.from_records(part) for part in parts]
    for path, other in zip(paths, labels, strict=True):
        if differences := differing_labels(labels[0], other):
            raise ValueError(
                f"{paths[0]} and {path} have different labels; they cannot be used together: {differences}."
            )
    return parts[0] if len(parts) == 1 else attach_labels(concatenate_datasets(parts), labels[0])


def stream_synthetic(
    path_or_paths: str | Sequence[str], revision: str | None = None, config_name: str | None = None
) -> StreamedRecords:
    """Published synthetic records as a stream, of one Hub id or several; `config_name` chooses a round or a kind.

    Raises: `ValueError` as `stream_records` and `join_streams` do, and for samples that people decided on, which are
        chosen from before a training.
    """
    given = path_or_paths.split(",") if isinstance(path_or_paths, str) else path_or_paths
    paths = [path.strip() for path in given if path.strip()]
    parts = []
    for path in paths:
        part = stream_records(path, revision=revision, config_name=config_name)
        if part.has_column(DECISION):
            raise ValueError(f"{path} has a column {DECISION!r}, which a stream does not read; drop --streaming.")
        parts.append(part)
    return join_streams(parts, paths)


def _load_folder(folder: Path, kinds: Sequence[str] | None) -> Dataset:
    finished = finished_shards(folder)
    if not finished:
        raise ValueError(f"{folder} holds no finished shards (data/*.parquet); `seggen synthesize` makes them.")
    if (folder / MANIFEST).is_file():
        planned = json.loads((folder / MANIFEST).read_text())["shards"]
        missing = [name for name in planned if name not in finished]
        if missing:
            warnings.warn(
                f"{folder} is not finished: {len(missing)} of {len(planned)} shards are missing, first {missing[0]}; "
                f"the others are read.",
                stacklevel=3,
            )
        names = [name for name in planned if name in finished]
    else:
        names = sorted(finished)
    files = [str(data_path(folder, name)) for name in names]
    counts = [pq.read_metadata(file).num_rows for file in files]
    if not any(counts):
        raise ValueError(f"{folder} has no samples: all were dropped, for the reasons in {folder}/dropped.")
    # All of them, whatever the kinds: `datasets` converts each choice of files anew, and keeps every copy.
    roots = Roots(folder)
    for file in (*files, folder / "labels.json"):
        roots.check_file(file)
    rows = load_dataset("parquet", data_files={"train": files}, split="train")
    _check_pictures(rows, folder, roots)
    if kinds is not None:
        stops = itertools.accumulate(counts)
        parts = zip(names, counts, stops, strict=True)
        chosen = [range(stop - count, stop) for name, count, stop in parts if name.rsplit("-", 1)[0] in kinds]
        if not any(chosen):
            raise ValueError(f"{folder} has no samples of the kinds {', '.join(kinds)}.")
        rows = rows.select(list(itertools.chain(*chosen)))
    return attach_labels(_leave_out_rejected(rows, folder), LabelSet.from_file(folder))


def _check_pictures(rows: Dataset, source: str | Path, roots: Roots) -> None:
    """Refuse pictures that are text, which would be read as paths, and those that are files elsewhere."""
    for name in ("image", "segmentation_map", "panoptic_map"):
        if name in rows.column_names and not isinstance(rows.features[name], Image):
            raise ValueError(f"{source}: the column {name} holds {rows.features[name]}, not pictures.")
    roots.check_rows(rows, str(source))


def _leave_out_rejected(rows: Dataset, source: str | Path) -> Dataset:
    if DECISION in rows.column_names:
        kept = [index for index, decision in enumerate(rows[DECISION][:]) if decision != REJECT]
        if not kept:
            raise ValueError(f"{source} has no samples: all {len(rows)} were rejected.")
        rows = rows.select(kept)
    return rows.select_columns(
        [name for name in rows.column_names if name in shard_features(panoptic=True)]
    )  # no color_map


def _load_published(
    path: str | Path, kinds: Sequence[str] | None, split: str, revision: str | None, config_name: str | None
) -> Dataset:
    owner, slash, name = str(path).partition("/")
    # A Hub id is OWNER/NAME; where a folder OWNER lies here, a folder in it was meant.
    if isinstance(path, Path) or not slash or "/" in name or owner in ("", ".", "..", "~") or os.path.isdir(owner):
        raise ValueError(f"{path} does not exist; give the folder of a synthesis, or a Hub id (owner/name).")
    repo_id = str(path)
    rows = load_dataset(repo_id, config_name, split=split, revision=revision)
    _check_pictures(rows, repo_id, Roots(repo_id))
    rows = _leave_out_rejected(rows, repo_id)
    labels = LabelSet.from_file(hf_hub_download(repo_id, "labels.json", repo_type="dataset", revision=revision))
    if kinds is not None:
        rows = rows.select([index for index, kind in enumerate(rows["kind"][:]) if kind in kinds])
    return attach_labels(rows, labels)


def dataset_configs(round_name: str, kinds: Sequence[str]) -> list[dict]:
    """The `configs` of a published round, whose shards lie in the folder of its name: all samples, then each kind.

    Not for local folders: see above.
    """

    def config(name: str, pattern: str) -> dict:
        return {"config_name": name, "data_files": [{"split": "train", "path": f"{round_name}/{PREFIX}{pattern}"}]}

    whole = config(round_name, "*.parquet") | {"default": True}
    return [whole] + [config(f"{round_name}-{kind}", f"{kind}-*.parquet") for kind in kinds]


def summarize(folder: Path, plan: SynthesisPlan) -> dict:
    """Counts over all shards, whoever made them: samples planned, kept, and dropped by reason; seconds of all
    processes together, and the rate of one process."""
    kinds = {kind: {"num_samples": 0, "num_kept": 0, "dropped": {}, "seconds": 0.0} for kind in plan.kinds}
    for shard in plan.shards:
        entry, log = kinds[shard.kind], read_log(folder, shard.name)
        for name in ("num_samples", "num_kept", "seconds"):
            entry[name] = round(entry[name] + log[name], 3)
        for sample in log["dropped"]:
            entry["dropped"][sample["reason"]] = entry["dropped"].get(sample["reason"], 0) + 1
    for entry in kinds.values():
        entry["samples_per_second"] = round(entry["num_samples"] / max(entry["seconds"], 1e-3), 4)
    kept = sum(entry["num_kept"] for entry in kinds.values())
    return {"num_samples": len(plan), "num_kept": kept, "kinds": kinds}
