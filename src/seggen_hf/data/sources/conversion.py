"""What of a source has to change to be records: found once, converted once, and kept in the cache."""

import json
import os
import warnings
from pathlib import Path

from datasets import Dataset, Features, Image

from ...storage.files import write_json
from ..schema import encode_image, encode_map, open_image, picture_files, record_features
from .checks import (
    UNREADABLE,
    Source,
    drop_exif,
    explain,
    explain_missing_label,
    explain_no_label,
    fingerprint_of,
    inspect_rows,
    name_of,
    raise_problems,
    turn_upright,
)

FORMAT = 3  # raised when conversion changes, so that older caches are left alone


def fingerprint_source(found: Source) -> str:
    """Of the rows, the files behind them (size and time of change) and the way they are decoded."""
    stamps = []
    for name in ("image", "segmentation_map"):
        for path, has_bytes in picture_files(found.rows, name):
            if not has_bytes and path and os.path.exists(path):
                status = os.stat(path)
                stamps.append((path, status.st_size, status.st_mtime_ns))
    decoder = found.decoder
    colors = sorted((list(color), label) for color, label in decoder.colors.items())
    way = (FORMAT, decoder.num_labels, sorted(decoder.ids.items()), colors, decoder.panoptic)
    return fingerprint_of([found.origin, found.rows["image_id"][:], found.rows["caption"][:], stamps, way])


def plan_conversion(found: Source, where: str, check: bool, stamp: Path) -> dict:
    """What has to be converted: all masks, and images that EXIF rotates and their masks not.

    Args:
        where: the source, for messages.
        check: look at every pixel, and refuse what is broken.
        stamp: the file that keeps the answer once all was checked.
    Returns: `{"maps": bool, "exif": [row, ...], "uncertain": [image_id, ...]}`; the last are read as EXIF says
        although their masks fit either way.
    Raises: `ValueError` for broken records, named.
    """
    if stamp.is_file() and not (check and found.problems):
        plan = json.loads(stamp.read_text())
        _warn_of_exif(where, plan["uncertain"])
        return plan
    inspections = inspect_rows(found, pixels=check)
    if check:
        broken = found.problems + [entry.problem for entry in inspections if entry.problem]
        raise_problems(where, broken, len(inspections) + len(found.problems))
        missing = explain_missing_label(found, inspections) or explain_no_label(inspections)
        if missing:
            raise ValueError(f"{where}: {missing}.")
    plan = {
        "maps": any(entry.converts_map for entry in inspections),
        "exif": [index for index, entry in enumerate(inspections) if entry.drops_exif],
        "uncertain": [entry.image_id for entry in inspections if entry.uncertain_exif],
    }
    _warn_of_exif(where, plan["uncertain"])
    if check:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_json(stamp, plan)
    return plan


def _warn_of_exif(where: str, uncertain: list[str]) -> None:
    if uncertain:
        warnings.warn(
            f"{where}: {len(uncertain)} images are rotated by EXIF and fit their masks either way, first "
            f"{uncertain[0]}; they are read rotated, as viewers show them.",
            stacklevel=3,
        )


def convert_source(found: Source, plan: dict, folder: Path, fingerprint: str) -> Dataset:
    """The records of a source, as `plan_conversion` says; what has changed is kept in `folder`, by `fingerprint`.

    Raises: `ValueError` for a picture that cannot be read after all.
    """
    rows, features = found.rows, _features(found)
    if not plan["maps"] and not plan["exif"]:
        rows = rows.select_columns(list(features))
        for name, feature in features.items():
            if rows.features[name] != feature:
                rows = rows.cast_column(name, feature)  # pictures only change how they are decoded
        rows._fingerprint = fingerprint
        return rows
    folder.mkdir(parents=True, exist_ok=True)
    exif = set(plan["exif"])

    def convert(row: dict, index: int) -> dict:
        current = row["segmentation_map"]
        try:
            record = {name: row[name] for name in features if name in row}
            if plan["maps"]:
                with open_image(current) as mask:
                    upright = turn_upright(mask)
                    labels = found.decoder.decode(upright, row.get("segments_info"))
                    if found.decoder.panoptic:
                        record["segments_info"] = found.decoder.read_segments(upright, row["segments_info"])
                        whole = upright is mask
                        record["panoptic_map"] = row["segmentation_map"] if whole else encode_image(upright)
                record["segmentation_map"] = encode_map(labels, found.labels.num_labels, row["image_id"])
            if index in exif:
                current = row["image"]
                record["image"] = drop_exif(current)
        except UNREADABLE as error:
            raise ValueError(f"{name_of(current, row)}: {explain(error, current)}") from error
        return record

    return rows.map(
        convert,
        with_indices=True,
        features=features,
        remove_columns=[name for name in rows.column_names if name not in features],
        cache_file_name=str(folder / f"{fingerprint}.arrow"),
        load_from_cache_file=True,
        writer_batch_size=100,
        new_fingerprint=fingerprint,
        desc="Converting records",
    )


def _features(found: Source) -> Features:
    rows = found.rows
    panoptic = found.decoder.panoptic or "panoptic_map" in rows.column_names
    features = record_features(synthetic="kind" in rows.column_names, panoptic=panoptic)
    if "scores" in features and "scores" in rows.column_names:
        features["scores"] = rows.features["scores"]
    return Features(
        {
            name: feature
            for name, feature in features.items()
            if name in rows.column_names or isinstance(feature, Image)
        }
    )
