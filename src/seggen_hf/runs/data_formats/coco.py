"""COCO instances: things with run-length masks, which tell every pixel, as polygons cannot."""

from pathlib import Path

from datasets import Dataset

from ...data.clean_copy import clean_labels
from ...data.schema import read_panoptic
from ...labels import LabelSet
from ...metrics.instance_matching import plain_rle
from ...storage.files import write_json
from .rows import SPLIT, copy_image, iterate_rows, list_instances


def write_coco(records: Dataset, labels: LabelSet, root: Path) -> None:
    content: dict = {"categories": [], "images": [], "annotations": []}
    content["categories"] = [c for c in clean_labels(labels)["categories"] if c["id"] in labels.things]
    for number, row in enumerate(iterate_rows(records), start=1):
        name = copy_image(row, root / "images" / SPLIT)
        height, width = read_panoptic(row["panoptic_map"]).shape
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        for segment, mask in list_instances(row, labels):
            content["annotations"].append({
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": segment["category_id"],
                "segmentation": plain_rle(mask),
                "area": segment["area"],
                "bbox": segment["bbox"],
                "iscrowd": int(segment["iscrowd"]),
            })  # fmt: skip
    (root / "annotations").mkdir()
    write_json(root / "annotations" / f"instances_{SPLIT}.json", content)
