"""Pascal VOC and CVAT's masks: PNGs of label ids with the labels' colors as palette."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage

from seggen_hf.pipelines import ColormapCodec

from ...data.schema import MAX_LABELS_8BIT, read_map
from ...labels import LabelSet
from ...storage.files import save_image, write_text
from .rows import SPLIT, copy_image, iterate_rows


def write_voc(records: Dataset, labels: LabelSet, root: Path) -> None:
    codec = ColormapCodec(labels)
    palette = np.zeros((256, 3), np.uint8)
    if labels.num_labels > MAX_LABELS_8BIT:
        raise ValueError(f"VOC's masks hold up to 255 labels, and these are {labels.num_labels}; export as folder.")
    palette[: labels.num_labels] = codec.palette
    palette[255] = codec.void_color
    names = []
    for row in iterate_rows(records):
        copy_image(row, root / "JPEGImages")
        ids = read_map(row["segmentation_map"])
        mask = PILImage.fromarray(np.where(ids == labels.ignore_index, 255, ids).astype(np.uint8), "P")
        mask.putpalette(palette.ravel().tolist())
        save_image(mask, root / "SegmentationClass" / f"{row['image_id']}.png", sync=False)
        names.append(row["image_id"])
    write_text(root / "ImageSets" / "Segmentation" / f"{SPLIT}.txt", "".join(f"{name}\n" for name in names))
    colors = (",".join(map(str, codec.palette[i].tolist())) for i in range(labels.num_labels))
    lines = [f"{labels.id2label[i]}:{color}::" for i, color in enumerate(colors)]
    write_text(root / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(f"{line}\n" for line in lines))
