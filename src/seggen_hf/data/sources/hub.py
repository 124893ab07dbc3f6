"""Reads `datasets` folders (save_to_disk), Parquet folders and Hub ids that have an image and a mask column."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import datasets.config
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.features import List
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import httpx

from ...labels import BUILTIN_LABEL_SETS
from ..schema import labels_of, picture_files
from .checks import Source
from .folder import LABEL_FILES
from .map_decoder import LabelFile, label_file_of, read_label_file
from .roots import Roots

IMAGE_COLUMNS = ("image", "pixel_values", "img")
MASK_COLUMNS = ("segmentation_map", "annotation", "label", "mask", "segmentation_mask", "semantic_map")
PANOPTIC_COLUMNS = ("panoptic_map", "panoptic", "panoptic_seg")
CAPTION_COLUMNS = ("caption", "text")
SYNTHETIC_COLUMNS = ("kind", "source_id", "variant", "seed", "scores")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

CONNECTION_ERRORS = (HfHubHTTPError, httpx.HTTPError, ConnectionError, TimeoutError)


def is_saved(root: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (root / "state.json").is_file() or (root / "dataset_dict.json").is_file()


def parquet_files(root: Path) -> dict[str, list[str]]:
    """Parquet shards of a folder by split: SPLIT-*.parquet, SPLIT.parquet or SPLIT/*.parquet; others are "train"."""
    splits = {}
    for path in sorted(root.rglob("*.parquet")):
        parent = path.parent.name if path.parent not in (root, root / "data") else ""
        named = re.match(r"(train|training|val|validation|test|unseen\w*)(?=[-_.]|$)", path.stem)
        splits.setdefault(named[1] if named else parent or "train", []).append(str(path))
    for split, files in splits.items():
        parents = sorted({str(Path(file).parent) for file in files})
        if len(parents) > 1:
            raise ValueError(f"The Parquet files of {split} lie in {' and '.join(parents)}; name one as source.")
    return splits


def is_imagefolder(root: Path) -> bool:
    """Whether the metadata files of `datasets`' imagefolder lie in this folder, or in those of its splits."""
    places = ("metadata.*", "*/metadata.*", "data/*/metadata.*")
    found = [path for place in places for path in root.glob(place)]
    return any(path.suffix in (".csv", ".jsonl", ".parquet") for path in found)


def dataset_splits(source: str, config_name: str | None = None, revision: str | None = None) -> list[str]:
    """The splits of a saved folder, a Parquet folder or a Hub id."""
    root = Path(source)
    if (root / "dataset_dict.json").is_file():
        return json.loads((root / "dataset_dict.json").read_text())["splits"]
    if (root / "state.json").is_file():
        return [json.loads((root / "state.json").read_text()).get("_split") or "train"]
    if is_imagefolder(root):
        return [str(name) for name in load_dataset_builder("imagefolder", data_dir=source).config.data_files or {}]
    if root.is_dir():
        return sorted(parquet_files(root))
    ask_hub(source, revision)
    try:
        return get_dataset_split_names(source, config_name, revision=revision)
    except (OSError, HfHubHTTPError) as error:  # unknown, private, offline
        raise ValueError(f"{source} is no folder here, and as a Hub id it cannot be read: {error}") from error


def ask_hub(source: str, revision: str | None) -> None:
    """Ask once whether the Hub has `source`, unless something of it is in the cache: `datasets` asks again and again,
    for half a minute where there is no network, before it says no.

    Raises: `ValueError`.
    """
    caches = Path(constants.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)
    names = repo_folder_name(repo_id=source, repo_type="dataset"), source.replace("/", "___").lower()
    if constants.is_offline_mode() or any((cache / name).is_dir() for cache, name in zip(caches, names, strict=True)):
        return
    try:
        HfApi().dataset_info(source, revision=revision, timeout=20)
    except (*CONNECTION_ERRORS, OSError, HfHubHTTPError) as error:  # unknown, private, no network
        raise ValueError(f"{source} is no folder here, and as a Hub id it cannot be read: {error}") from error


def read_dataset(
    source: str,
    split: str,
    labels: LabelFile | None,
    image_column: str | None,
    mask_column: str | None,
    config_name: str | None,
    revision: str | None,
    roots: Roots,
) -> Source:
    """Read a `datasets` source; columns are guessed where they are not named, pictures stay undecoded."""
    root = Path(source)
    if is_saved(root):
        dataset = load_from_disk(source)
        dataset = dataset[split] if isinstance(dataset, DatasetDict) else dataset
        for file in dataset.cache_files:
            roots.check_file(file["filename"])
    elif is_imagefolder(root):
        dataset = load_dataset("imagefolder", data_dir=source, split=split)
    elif root.is_dir():
        files = parquet_files(root)[split]
        for file in files:
            roots.check_file(file)
        dataset = load_dataset("parquet", data_files={split: files}, split=split)
    else:
        dataset = load_dataset(source, config_name, split=split, revision=revision)
    return rows_of(dataset, source, split, labels, image_column, mask_column, revision, roots)


def rows_of(
    dataset: Dataset,
    source: str,
    split: str,
    labels: LabelFile | None = None,
    image_column: str | None = None,
    mask_column: str | None = None,
    revision: str | None = None,
    roots: Roots | None = None,
) -> Source:
    """The `Source` of an open dataset; see `read_dataset`. `roots` are of one that was read from a file."""
    where = f"{source} ({split})"
    columns = columns_of(dataset.features, where, image_column, mask_column)
    if labels is None:
        labels = (
            label_file_of(labels_of(dataset))
            if has_labels(dataset)
            else labels_for(dataset.features, source, revision, where, roots)
        )
    decoder = labels.decoder
    if columns["segmentation_map"] in PANOPTIC_COLUMNS:
        decoder = replace(decoder, panoptic=True, things=tuple(labels.labels.things))
    rows = dataset.select_columns(list(columns.values()))
    rows = rows.rename_columns({old: new for new, old in columns.items() if old != new})
    for name in ("image", "segmentation_map", "panoptic_map"):
        if name in columns:
            rows = rows.cast_column(name, Image(decode=False))
    if "caption" not in columns:
        rows = rows.add_column("caption", [None] * len(rows), feature=Value("string"))
    if "image_id" in columns:
        if rows.features["image_id"] != Value("string"):
            rows = rows.cast_column("image_id", Value("string"))
        rows = _keep_ids(rows, where)
    if "image_id" not in rows.column_names:
        rows = rows.add_column("image_id", _image_ids(rows), feature=Value("string"))
    return Source("datasets", rows, labels.labels, decoder, [], labels.collisions, rows._fingerprint)


def columns_of(features: Features, where: str, image_column: str | None, mask_column: str | None) -> dict[str, str]:
    """`{our name: the source's}` of the columns that are read; image and mask are guessed where they are not named."""
    guesses = MASK_COLUMNS + (PANOPTIC_COLUMNS if "segments_info" in features else ())
    columns = {
        "image": find_image_column(features, where, image_column),
        "segmentation_map": _pick(features, where, mask_column, guesses, "mask_column"),
    }
    caption_column = find_caption_column(features)
    columns |= {"caption": caption_column} if caption_column else {}
    own = ("image_id", "panoptic_map", "segments_info")
    if set(SYNTHETIC_COLUMNS[:-1]) <= set(features):  # scores may lack; one `kind` alone is not ours
        own += SYNTHETIC_COLUMNS
    return columns | {name: name for name in own if name in features and name != columns["segmentation_map"]}


def find_image_column(features: Features, where: str, named: str | None) -> str:
    """The image column, guessed where it is not `named`. Raises: `ValueError` if there is none."""
    return _pick(features, where, named, IMAGE_COLUMNS, "image_column")


def find_caption_column(features: Features) -> str | None:
    return next((name for name in CAPTION_COLUMNS if name in features), None)


def _keep_ids(rows: Dataset, where: str) -> Dataset:
    """`rows`, without an image_id that does not tell them apart."""
    ids = rows["image_id"][:]
    if None not in ids and len(set(ids)) == len(ids):
        return rows
    warnings.warn(
        f"{where}: the column image_id is empty in {ids.count(None)} of {len(ids)} rows and has {len(set(ids))} "
        f"different values; file names or row numbers stand in for it.",
        stacklevel=3,
    )
    return rows.remove_columns("image_id")


def _pick(features: Features, where: str, column: str | None, guesses: tuple[str, ...], flag: str) -> str:
    pictures = [name for name, feature in features.items() if isinstance(feature, Image)]
    for name in [column] if column else guesses:
        if name in pictures:
            return name
    wanted = f"no image column {column!r}" if column else f"none of the columns {', '.join(guesses)}"
    raise ValueError(
        f"{where} has {wanted}; its image columns are {pictures}, all columns {list(features)}. "
        f"Name the right one with --{flag}."
    )


def has_labels(dataset: Dataset) -> bool:
    try:
        labels_of(dataset)
    except ValueError:
        return False
    return True


def labels_for(
    features: Features, source: str, revision: str | None, where: str, roots: Roots | None = None
) -> LabelFile:
    """From the folder or repository's label files, else from a column that lists classes by name."""
    for folder in (Path(source), Path(source).parent):
        for name in ("labels.json", "classes.json", "id2label.json"):
            if Path(source).is_dir() and (folder / name).is_file():
                if roots is not None and (folder / name).is_symlink():  # beside the folder of a split is near enough
                    roots.check_file(folder / name)
                return read_label_file(folder / name)
    if not Path(source).exists() and HUB_ID.fullmatch(source):
        for name in LABEL_FILES[1:] + LABEL_FILES[:1]:
            try:
                return read_label_file(hf_hub_download(source, name, repo_type="dataset", revision=revision))
            except (EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError):
                continue
    for feature in features.values():
        if isinstance(feature, List) and isinstance(feature.feature, ClassLabel):
            return read_label_file(dict(enumerate(feature.feature.names)))
    raise ValueError(
        f"{where} does not say what its label ids mean: no labels.json, no id2label.json, no column of class names. "
        f"Give a label file with --labels, or a built-in set ({', '.join(BUILTIN_LABEL_SETS)})."
    )


def _image_ids(rows: Dataset) -> list[str]:
    """File stems where every row has one of its own, else row numbers."""
    stems = [Path(path or "").stem for path, _ in picture_files(rows, "image")]
    return stems if all(stems) and len(set(stems)) == len(stems) else [f"{index:08d}" for index in range(len(rows))]
