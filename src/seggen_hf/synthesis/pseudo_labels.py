"""Maps of unlabelled images as a segmenter of real records sees them: what self-training learns from."""

from pathlib import Path
from typing import cast

import numpy as np
from datasets import Dataset, Features, Image
from datasets.fingerprint import Hasher
from torch import nn
from tqdm.auto import tqdm

from ..config import FilterConfig
from ..data.captions import with_classes
from ..data.schema import attach_labels, encode_map, encode_panoptic, read_image, record_features, save_dataset
from ..data.tiles import tile_records
from ..labels import LabelSet
from ..segmenter.inference import predict_panoptic, predict_queries, semantic_map
from ..segments import label_map, measure_segments

IMAGES_AT_ONCE = 32  # decoded together


def pseudo_label(
    images: Dataset,
    folder: Path,
    model: nn.Module,
    processor,
    labels: LabelSet,
    config: FilterConfig | None = None,
    task: str = "semantic",
    tiles: int = 1,
) -> Dataset:
    """Write records of `images` with the maps that `model` predicts into `folder`; of what it is unsure is void.

    Sure is a pixel whose best label has at least `config.pseudo_confidence` of the scores of all labels. In segments a
    pixel is void where no query is sure of it (`predict_panoptic`). An image without a sure pixel is left out.

    Args:
        images: `image`, `caption`, `image_id` (`load_unlabelled`); without a caption the map's labels are named.
        model, processor: a segmenter of real records, on its device.
        tiles: images are cut as those that it has learnt from (`tile_records`).
    Raises: `ValueError` if nothing is left.
    """
    config = config or FilterConfig()
    features = record_features(panoptic=task != "semantic")
    rows: dict[str, list] = {name: [] for name in features}
    undecoded = images.cast_column("image", Image(decode=False))
    for start in tqdm(range(0, len(images), IMAGES_AT_ONCE), "Pseudo-labels", delay=2):
        batch = [undecoded[i] for i in range(start, min(start + IMAGES_AT_ONCE, len(images)))]
        pictures = [read_image(row["image"]) for row in batch]
        for row, found in zip(batch, _predict(model, processor, pictures, labels, config, task), strict=True):
            segmentation_map = cast(np.ndarray, found["segmentation_map"])
            if (segmentation_map == labels.ignore_index).all():
                continue
            name = row["image_id"]
            made = {"image": row["image"], "image_id": name}
            made["caption"] = with_classes(row["caption"], segmentation_map, labels)
            made["segmentation_map"] = encode_map(segmentation_map, labels.num_labels, name)
            if task != "semantic":
                made["panoptic_map"] = encode_panoptic(cast(np.ndarray, found["panoptic_map"]), name)
                made["segments_info"] = found["segments_info"]
            for column in features:
                rows[column].append(made[column])
    if not rows["image_id"]:
        raise ValueError(
            f"The segmenter is sure of no pixel of {len(images)} images; lower filter.pseudo_confidence "
            f"({config.pseudo_confidence:g}), or train it longer."
        )
    records = attach_labels(_dataset(rows, features), labels)
    save_dataset(tile_records(records, tiles), folder)
    return records


def _dataset(rows: dict[str, list], features: Features) -> Dataset:
    made = Dataset.from_dict(rows, features=features)
    made._fingerprint = Hasher.hash([rows["image_id"], rows["segmentation_map"]])  # tiles are cached by it
    return made


def _predict(model, processor, pictures: list, labels: LabelSet, config: FilterConfig, task: str) -> list[dict]:
    if task != "semantic":
        found = predict_panoptic(model, processor, pictures, labels.things, config.batch_size)
        return [_segments_record(ids, segments, labels) for ids, segments in found]
    maps: list = [None] * len(pictures)
    for index, output in predict_queries(model, processor, pictures, config.batch_size):
        scores = semantic_map(output, return_scores=True)
        best = scores.argmax(0)
        share = scores.max(0) / np.maximum(scores.sum(0), 1e-6)
        maps[index] = np.where(share >= config.pseudo_confidence, best, labels.ignore_index).astype(np.int32)
    return [{"segmentation_map": segmentation_map} for segmentation_map in maps]


def _segments_record(ids: np.ndarray, segments: list[dict], labels: LabelSet) -> dict:
    named = [{"id": s["id"], "category_id": s["category_id"]} for s in segments]
    told = measure_segments(ids, [s | {"isthing": s["category_id"] in labels.things} for s in named])
    return {
        "panoptic_map": ids,
        "segments_info": told,
        "segmentation_map": label_map(ids, told, labels.ignore_index),
    }
