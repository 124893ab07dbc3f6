"""`load_records`: any source -> a `datasets.Dataset` of records, every broken file named before anything starts."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets.config
from datasets import Dataset

from ...config import SCENES
from ...labels import LabelSet
from ..scenes.records import SCENE_SPLITS, scene_records
from ..schema import attach_labels
from .checks import raise_problems
from .conversion import convert_source, fingerprint_source, plan_conversion
from .layout import check_split, open_source


def load_records(
    source: str | Path,
    split: str = "train",
    *,
    image_column: str | None = None,
    mask_column: str | None = None,
    labels: LabelSet | dict | str | Path | None = None,
    max_records: int | None = None,
    check: bool = True,
    zero_is_void: bool = False,
    void_ids: Sequence[int] | None = None,
    mask_suffix: str | None = None,
    size: tuple[int, int] | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    media_roots: Sequence[str | Path] | None = None,
    max_megapixels: float | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Read one split of a source as records (`data.schema.record_features`), with its labels attached.

    Pictures stay where they are and are decoded on access. Where masks must change (colors, ids with gaps, panoptic
    PNGs) or EXIF rotation would part image and mask, a converted copy is kept in the cache and used again while the
    source's files stay the same.

    Args:
        source (`str`): a folder (SPLIT/images + SPLIT/masks + classes.json; COCO panoptic or instances; ADE20K; Pascal
            VOC or CVAT; Cityscapes; `save_to_disk`; Parquet), a Hub id, or `scenes`.
        image_column, mask_column (`str`): of a `datasets` source; guessed if not given.
        labels: a label file, the name of a built-in set (`ade20k`, `coco`, `cityscapes`, `voc`) or a `LabelSet`; read
            from the source if not given.
        max_records (`int`): only the first records, in the order of their names.
        check (`bool`): look at every pixel of every record first; the result is remembered while the files stay equal.
        zero_is_void (`bool`): the masks hold ids 1..C with 0 as void (ADE20K's annotations on the Hub).
        void_ids: more ids of void in the masks.
        mask_suffix (`str`): what the names of masks have after those of their images, in folders of both.
        size (`tuple` of `int`): height and width of the built-in scenes.
        config_name, revision (`str`): of a Hub id.
        media_roots: folders that the source's files may lie in beside its own; links and names that lead elsewhere are
            refused.
        max_megapixels: of the largest picture that this process opens from now on; Pillow's 179 if not given.
        cache_dir (`str`): for converted copies; the `datasets` cache if not given.
    Raises: `ValueError` for a source that is no known layout, a split that it lacks, missing labels, and broken
        records: file and reason of the first 20, and their number; and a record whose files lie elsewhere.
    """
    if str(source) == SCENES and labels is None:
        check_split(SCENES, split, list(SCENE_SPLITS))
        drawn: dict[str, Any] = {"size": tuple(size)} if size else {}
        return scene_records(split, num_records=max_records, **drawn)
    where = f"{source} ({split})"
    found = open_source(
        source, split, image_column, mask_column, labels, zero_is_void, config_name, revision, media_roots,
        void_ids, mask_suffix, max_megapixels,
    )  # fmt: skip
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    if max_records is not None:
        found.rows = found.rows.select(range(min(max_records, len(found.rows))))
    if len(found.rows) == 0:
        raise_problems(where, found.problems, len(found.problems))
        raise ValueError(f"{where} has no records.")
    fingerprint = fingerprint_source(found)
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "seggen_hf")
    plan = plan_conversion(found, where, check, folder / f"{fingerprint}.json")
    return attach_labels(convert_source(found, plan, folder, fingerprint), found.labels)
