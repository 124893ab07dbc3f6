"""The real records of a run: what it may learn from, what it is tested on, and a digest of either."""

import dataclasses
import json
from pathlib import Path

import datasets
import datasets.config

from ..arms import reads_unlabelled
from ..config import SCENES, Recipe
from ..data.schema import labels_of
from ..data.sources.split import load_split
from ..data.sources.unlabelled import load_unlabelled
from ..labels import LabelSet
from ..storage.content_digests import FileDigests, content_digest, kept_digests, records_digest
from ..storage.digests import digest_of
from ..storage.files import write_json


def load_train_records(recipe: Recipe) -> datasets.Dataset:
    """The labelled records that the run may learn from."""
    return load_split(recipe.data, recipe.data.train_split, recipe.data.max_train_records)


def load_test_records(recipe: Recipe, split: str) -> datasets.Dataset:
    """The records of one test split: images are whole, also where segmenters learn from tiles."""
    return load_split(dataclasses.replace(recipe.data, tiles=1), split, recipe.data.max_test_records)


def load_unlabelled_images(recipe: Recipe) -> tuple[datasets.Dataset, list[str]]:
    """The images without masks that the run may learn from, and the ids of those that it may not: they are in one of
    its test splits too, byte for byte.

    Raises: `ValueError` if those are all.
    """
    images = load_unlabelled(recipe.data, check=False)
    tested = {
        digest for split in recipe.data.test_splits for digest in image_digests(load_test_records(recipe, split))
    }
    digests, ids = image_digests(images), images["image_id"][:]
    shared = [name for name, digest in zip(ids, digests, strict=True) if digest and digest in tested]
    if not shared:
        return images, []
    kept = [place for place, digest in enumerate(digests) if not (digest and digest in tested)]
    if not kept:
        raise ValueError(f"All {len(images)} images of data.unlabelled are in a test split too; name others.")
    return images.select(kept), shared


def image_digests(records: datasets.Dataset) -> list[str]:
    """Of each image's file; "" where there is none, or nothing in it. A file is read once as long as it stays."""
    images = records.select_columns("image").cast_column("image", datasets.Image(decode=False))
    with kept_digests() as files:
        return [_image_digest(images[i]["image"], files) for i in range(len(images))]


def _image_digest(value: dict | None, files: FileDigests) -> str:
    if not value:
        return ""
    if value["bytes"] is not None:
        return content_digest(value["bytes"]).hex() if value["bytes"] else ""
    try:
        return files.digest(value["path"]).hex() if value["path"] and Path(value["path"]).stat().st_size else ""
    except OSError:
        return ""


def source_digests(recipe: Recipe) -> dict[str, str]:
    """Digests of what the run learns from, as it is now: `labelled`, and `unlabelled` if it reads such images."""
    digests = {"labelled": data_digest(recipe, load_train_records(recipe))}
    if reads_unlabelled(recipe):
        images, _ = load_unlabelled_images(recipe)
        digests["unlabelled"] = records_digest(images, images.column_names)
    return digests


def data_digest(recipe: Recipe, records: datasets.Dataset) -> str:
    """Of what `records` hold: ids, labels, captions, and parts of every picture's bytes. Scenes follow from the code.

    Copies of a data set have the same digest whatever their times of change. Those (`_fingerprint`) only tell whether
    the digest of an earlier call still holds: a data set is not read anew each time.
    """
    if recipe.data.dataset_name == SCENES:
        return SCENES
    known = Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf" / f"{records._fingerprint}.digest.json"
    if not known.is_file():
        columns = ("image_id", "image", "segmentation_map", "panoptic_map", "segments_info", "caption")
        contents = records_digest(records, [name for name in columns if name in records.column_names])
        known.parent.mkdir(parents=True, exist_ok=True)
        # In which colors maps are painted is no part of the data.
        labels = dataclasses.replace(labels_of(records), palette=LabelSet.palette).to_dict()
        write_json(known, digest_of({"labels": labels, "records": contents}))
    return json.loads(known.read_text())
