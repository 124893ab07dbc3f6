"""Cityscapes: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY, the kind of a record in the place of the city."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage

from ...data.clean_copy import clean_labels
from ...data.schema import read_image, read_map
from ...labels import LabelSet
from ...storage.files import save_image, write_json
from .rows import SPLIT, has_segments, iterate_rows, list_instances

MOST_ID, MOST_NUMBER = 64, 999  # what 16 bits hold of 1000 x id + number


def write_cityscapes(records: Dataset, labels: LabelSet, root: Path) -> None:
    """Cityscapes' own 19 labels keep its ids, others have theirs plus 1, and 0 is void; classes.json lists them.

    labelTrainIds hold our label ids and 255. instanceIds, of records with segments, are 1000 x id + number of a thing,
    the id alone of stuff. Images become PNGs. The polygons that Cityscapes has beside its masks are not written.
    """
    if labels.num_labels > 254:
        raise ValueError(
            f"Cityscapes' masks hold up to 254 labels, and these are {labels.num_labels}; export as folder."
        )
    cityscapes = LabelSet.builtin("cityscapes")
    ids = np.array(cityscapes.source_ids if labels.fits(cityscapes) else range(1, labels.num_labels + 1))
    if has_segments(records) and ids[labels.things].max(initial=0) > MOST_ID:
        raise ValueError(
            f"Cityscapes' instanceIds hold things up to the id {MOST_ID}, and here are more; export as coco."
        )
    table = np.zeros(256, np.uint8)
    table[: labels.num_labels] = ids
    for row in iterate_rows(records):
        train_ids = read_map(row["segmentation_map"])
        train_ids = np.where(train_ids == labels.ignore_index, 255, train_ids).astype(np.uint8)
        maps = {"labelIds": table[train_ids], "labelTrainIds": train_ids}
        if has_segments(records):
            maps["instanceIds"] = _instance_ids(row, labels, ids, maps["labelIds"])
        place = Path(row["kind"]) / row["image_id"].replace("/", "_")
        image = root / "leftImg8bit" / SPLIT / f"{place}_leftImg8bit.png"
        if image.exists():
            raise ValueError(f"Two records would be {image.name}; give one of them another image_id.")
        save_image(PILImage.fromarray(read_image(row["image"])), image, sync=False)
        for name, content in maps.items():
            save_image(PILImage.fromarray(content), root / "gtFine" / SPLIT / f"{place}_gtFine_{name}.png", sync=False)
    categories = [c | {"id": int(ids[c["id"]])} for c in clean_labels(labels)["categories"]]
    write_json(root / "classes.json", {"ignore_index": 0, "categories": categories}, ensure_ascii=False)


def _instance_ids(row: dict, labels: LabelSet, ids: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
    """uint16 `(height, width)`; crowds are of no number, as Cityscapes' groups."""
    found, numbers = label_ids.astype(np.uint16), dict.fromkeys(labels.things, 0)
    for segment, mask in list_instances(row, labels):
        label = segment["category_id"]
        if segment["iscrowd"]:
            continue
        if numbers[label] > MOST_NUMBER:
            raise ValueError(
                f"{row['image_id']} has more than {MOST_NUMBER + 1} of {labels.id2label[label]!r}, which instanceIds "
                "cannot number; export as coco."
            )
        found[mask] = 1000 * int(ids[label]) + numbers[label]
        numbers[label] += 1
    return found
