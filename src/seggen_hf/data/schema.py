"""What a record is: its features, its labels, and how its maps and images are written and read."""

import io
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, Value, load_from_disk
from datasets.fingerprint import Hasher
from PIL import Image as PILImage
from PIL import ImageOps

from ..labels import LabelSet
from ..storage.files import write_folder

# More labels than an 8-bit map holds beside its ignore_index 255.
MAX_LABELS_8BIT = 255
IGNORE_INDEX_8BIT, IGNORE_INDEX_16BIT = 255, 65535
RECORD_SCORES = ("decode_confidence", "ignored_share", "alignment")
SEGMENT = {
    "id": Value("int64"),
    "category_id": Value("int32"),
    "isthing": Value("bool"),
    "iscrowd": Value("bool"),
    "area": Value("int64"),
    "bbox": [Value("int32")],
}


def ignore_index_for(num_labels: int) -> int:
    """The id of void pixels in the maps of a data set with `num_labels` labels: 255, or 65535 above 255 labels."""
    return IGNORE_INDEX_8BIT if num_labels <= MAX_LABELS_8BIT else IGNORE_INDEX_16BIT


def record_features(
    synthetic: bool = False, panoptic: bool = False, scores: Sequence[str] = RECORD_SCORES
) -> Features:
    """The columns of a record, the same for real and synthetic data, on disk and on the Hub.

    Args:
        synthetic (`bool`): add kind, source_id, variant, seed and the struct `scores` (float32, null if not known).
        panoptic (`bool`): add panoptic_map (RGB, id = R + 256 G + 65536 B, 0 = void) and segments_info.
        scores (`list` of `str`): names of the fields of `scores`.
    """
    features: dict[str, Any] = {"image": Image(mode="RGB"), "segmentation_map": Image()}
    if panoptic:
        features |= {"panoptic_map": Image(mode="RGB"), "segments_info": [SEGMENT]}
    features |= {"caption": Value("string"), "image_id": Value("string")}
    if synthetic:
        features |= {name: Value("string") for name in ("kind", "source_id")}
        features |= {"variant": Value("int32"), "seed": Value("int64")}
        features["scores"] = {name: Value("float32") for name in scores}
    return Features(features)


def attach_labels(dataset: Dataset, labels: LabelSet) -> Dataset:
    """A copy of `dataset` (rows shared) whose `info.description` is the JSON `{"labels": labels.to_dict()}`.

    It survives select, map, concatenation with equal labels, save_to_disk and load_from_disk; Hub and Parquet folders
    carry labels.json instead.
    """
    info = with_labels(dataset.info, labels)
    fingerprint = Hasher.hash([dataset._fingerprint, info.description])
    # select_columns is the public way to a shallow copy.
    labelled = dataset.select_columns(dataset.column_names)
    labelled._info = info
    labelled.info.features = dataset.features
    labelled._fingerprint = fingerprint
    return labelled


def with_labels(info: DatasetInfo, labels: LabelSet) -> DatasetInfo:
    """A copy of `info` whose description carries `labels`, where `labels_of` finds them."""
    copy = info.copy()
    copy.description = json.dumps({"labels": labels.to_dict()}, sort_keys=True)
    return copy


class Described(Protocol):
    """Records with a description: a `Dataset`, or the records of a stream."""

    @property
    def info(self) -> DatasetInfo: ...


def labels_of(dataset: Described) -> LabelSet:
    """The label set that `attach_labels` put on `dataset`. Raises `ValueError` if there is none."""
    return LabelSet.from_records(dataset)


def load_saved(folder: str | Path) -> Dataset:
    """What `save_dataset` wrote. Raises: `ValueError` for a folder that holds several splits."""
    saved = load_from_disk(folder)
    if not isinstance(saved, Dataset):
        raise ValueError(f"{folder} holds the splits {', '.join(map(str, saved))}, not the records of one.")
    return saved


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """`save_to_disk` with labels.json and id2label.json beside it, into `folder`; each file is whole or absent."""

    def save(staging: Path) -> None:
        dataset.save_to_disk(staging)
        labels_of(dataset).save(staging)

    write_folder(Path(folder), save, last="state.json")


def encode_map(segmentation_map, num_labels: int | None = None, name: str = "map") -> dict:
    """Write label ids as a PNG that `datasets` stores byte for byte (it would turn 16-bit PIL images into TIFF).

    Args:
        segmentation_map (`np.ndarray` of shape `(height, width)`): label ids, integers in [0, 65535].
        num_labels (`int`): more than 255 makes a 16-bit PNG (mode I;16); by default the largest id decides.
        name (`str`): stem of the file name that the record carries.
    Returns: `{"bytes": png, "path": "NAME.png"}`. Raises: `ValueError` on another shape, dtype or range.
    """
    array = np.asarray(segmentation_map)
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise ValueError(f"A segmentation_map is (height, width) integers; this is {array.shape} {array.dtype}.")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    wide = num_labels > MAX_LABELS_8BIT if num_labels is not None else high > IGNORE_INDEX_8BIT
    limit = IGNORE_INDEX_16BIT if wide else IGNORE_INDEX_8BIT
    if low < 0 or high > limit:
        raise ValueError(f"Label ids run from {low} to {high}; {num_labels} labels fit in [0, {limit}].")
    buffer = io.BytesIO()
    PILImage.fromarray(array.astype(np.uint16 if wide else np.uint8)).save(buffer, "PNG", compress_level=4)
    return {"bytes": buffer.getvalue(), "path": f"{name}.png"}


def encode_image(image, name: str = "image") -> dict:
    """Write a PIL image or RGB array (`(height, width, 3)`, uint8) as `{"bytes": png, "path": "NAME.png"}`."""
    if not isinstance(image, PILImage.Image):
        image = PILImage.fromarray(np.asarray(image))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=4)
    return {"bytes": buffer.getvalue(), "path": f"{name}.png"}


def allow_megapixels(megapixels: float) -> None:
    """Let this process open pictures of up to so many megapixels.

    Pillow's own bound is 179: a small file may unfold to any size, and fill the memory.
    """
    PILImage.MAX_IMAGE_PIXELS = int(megapixels * 1e6 / 2)  # Pillow refuses beyond twice what it warns of
    warnings.filterwarnings("ignore", category=PILImage.DecompressionBombWarning)


def open_image(value) -> PILImage.Image:
    """Open what a record holds (PIL image, path, bytes, `{"bytes", "path"}`) without EXIF rotation, pixels unread.

    Raises: `ValueError` where a row holds none.
    """
    if isinstance(value, PILImage.Image):
        return value
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if value is None:
        raise ValueError("the row holds no picture here")
    if isinstance(value, bytes):
        return PILImage.open(io.BytesIO(value))
    if os.path.exists(value) and not os.path.isfile(value):  # to open a pipe or a device may wait for ever
        raise ValueError(f"{os.fspath(value)} is no file")
    return PILImage.open(os.fspath(value))


def read_image(value, exif: bool = True) -> np.ndarray:
    """RGB pixels of a record's image as uint8 `(height, width, 3)`; EXIF orientation applied, as `datasets` does."""
    image = open_image(value)
    return np.array((ImageOps.exif_transpose(image) if exif else image).convert("RGB"))


def read_map(value) -> np.ndarray:
    """Label ids of a record's map as int32 `(height, width)`.

    Takes PIL images, paths, bytes, `{"bytes", "path"}` and arrays. Palette PNGs give their indices, never luminance;
    RGB is read only where its three channels are equal. Raises `ValueError` for anything else.
    """
    if isinstance(value, np.ndarray):
        if value.ndim != 2 or value.dtype.kind not in "iub":
            raise ValueError(f"A segmentation_map is (height, width) integers; this is {value.shape} {value.dtype}.")
        return value.astype(np.int32)
    image = open_image(value)
    array = np.asarray(image)
    if array.ndim == 3:
        channels = array[..., :1] if image.mode in ("LA", "La", "PA") else array[..., :3]
        if not (channels == channels[..., :1]).all():
            raise ValueError(f"the map is a color image ({image.mode}), not label ids")
        array = channels[..., 0]
    if array.dtype.kind == "f" and not (array == np.rint(array)).all():
        raise ValueError(f"the map holds fractions (mode {image.mode}), not label ids")
    return array.astype(np.int32)


def encode_panoptic(panoptic_map: np.ndarray, name: str = "panoptic") -> dict:
    """Write segment ids (`(height, width)`, in [0, 2^24)) as `{"bytes": png, "path": "NAME.png"}`, COCO's RGB."""
    ids = np.asarray(panoptic_map)
    return encode_image(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8), name)


def read_panoptic(value) -> np.ndarray:
    """Segment ids of a record's panoptic_map as int32 `(height, width)`: R + 256 G + 65536 B, 0 is void."""
    image = open_image(value)
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"a panoptic map is RGB, this is {image.mode}")
    pixels = np.array(image)[..., :3].astype(np.int32)
    return pixels[..., 0] | (pixels[..., 1] << 8) | (pixels[..., 2] << 16)


def picture_files(rows: Dataset, column: str) -> Iterator[tuple[str | None, bool]]:
    """Of each picture of a column its path, and whether the row holds its bytes, which are not read.

    Chunk by chunk: Arrow cannot join chunks of more than 2^31 bytes, and a thousand photos have them.
    """
    for batch in cast(Iterator[pa.Table], rows.select_columns(column).with_format("arrow").iter(1000)):
        for chunk in batch[column].chunks:
            parts = {field.name: part for field, part in zip(chunk.type, chunk.flatten(), strict=True)}
            yield from zip(parts["path"].to_pylist(), parts["bytes"].is_valid().to_pylist(), strict=True)


def check_columns(name: str, records, task: str) -> None:
    """Raise `ValueError` if `records` (None is fine) lack the maps that `task` learns from and is scored on."""
    wanted = ("segmentation_map",) if task == "semantic" else ("panoptic_map", "segments_info")
    missing = [column for column in wanted if column not in getattr(records, "column_names", wanted)]
    if missing:
        raise ValueError(
            f"--task {task} needs {' and '.join(wanted)}, and the {name} have no {missing[0]}; use a source with "
            "segments (COCO panoptic or instances, the scenes), or --task semantic."
        )
