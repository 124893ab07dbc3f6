"""FiftyOne: samples.json with captions, maps and instances, as its type `FiftyOneDataset` reads them."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage

from ...data.schema import encode_map
from ...labels import LabelSet
from ...storage.files import save_image, write_bytes, write_json
from .rows import copy_image, iterate_rows, list_instances, map_from_one

SEGMENTATION, INSTANCES = "segmentation", "instances"
# FiftyOne looks for files of a field in the folder of its name; paths in samples.json start at the export's folder.
MAPS, MASKS = f"fields/{SEGMENTATION}", f"fields/{INSTANCES}.detections"


def write_fiftyone(records: Dataset, labels: LabelSet, root: Path) -> None:
    """`fiftyone.Dataset.from_dir(OUT, dataset_type=fiftyone.types.FiftyOneDataset)` reads it.

    A sample has its caption, its image_id, the tag `imgsyn`, `masksyn` or `real`, the map `segmentation` (label ids
    plus 1, since FiftyOne shows no 0, which is void here) and, of records with segments, the things `instances`.
    Crowds are left out.
    """
    samples = []
    for row in iterate_rows(records):
        sample = {
            "filepath": f"data/{copy_image(row, root / 'data')}",
            "tags": [row["kind"]],
            "image_id": row["image_id"],
            "caption": row.get("caption"),
            SEGMENTATION: {"_cls": "Segmentation", "mask_path": f"{MAPS}/{row['image_id']}.png"},
        }
        png = encode_map(map_from_one(row, labels), labels.num_labels)["bytes"]
        write_bytes(root / MAPS / f"{row['image_id']}.png", png, sync=False)
        if "panoptic_map" in row:
            things = enumerate((s, mask) for s, mask in list_instances(row, labels) if not s["iscrowd"] and mask.any())
            found = [_detection(s, mask, labels, f"{row['image_id']}-{i}", root) for i, (s, mask) in things]
            sample[INSTANCES] = {"_cls": "Detections", "detections": found}
        samples.append(sample)
    targets = {str(label + 1): name for label, name in labels.id2label.items()}
    info = {"default_mask_targets": targets, "default_classes": [labels.id2label[thing] for thing in labels.things]}
    write_json(root / "metadata.json", {"media_type": "image", "info": info}, ensure_ascii=False)
    write_json(root / "samples.json", {"samples": samples}, ensure_ascii=False)


def _detection(segment: dict, mask: np.ndarray, labels: LabelSet, name: str, root: Path) -> dict:
    """A thing in FiftyOne's words: its box in shares of the image, its mask a PNG of that box."""
    x, y, width, height = segment["bbox"]
    crop = PILImage.fromarray(np.uint8(255) * mask[y : y + height, x : x + width])
    save_image(crop, root / MASKS / f"{name}.png", sync=False)
    box = [x / mask.shape[1], y / mask.shape[0], width / mask.shape[1], height / mask.shape[0]]
    label = labels.id2label[segment["category_id"]]
    return {"_cls": "Detection", "label": label, "bounding_box": box, "mask_path": f"{MASKS}/{name}.png"}
