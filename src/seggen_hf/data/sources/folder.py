"""Reads images and masks that lie in folders, beside a classes.json."""

import itertools
import json
import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from ..schema import SEGMENT
from .checks import Source
from .folder_pairs import IMAGE_SUFFIXES, PairFolders, find_pairs
from .instance_masks import paint_instances
from .label_draft import draft_label_file
from .map_decoder import LabelFile, MapDecoder, read_label_file
from .roots import Roots

LABEL_FILES = ("classes.json", "labels.json", "id2label.json", "_classes.csv", "classes.txt", "labels.txt")
CAPTIONS_FILE = "captions.json"  # optional, in the split's folder: {image_id: caption}


def read_folder(
    root: Path, split: str, labels: LabelFile | None, roots: Roots, mask_suffix: str | None = None
) -> Source:
    """List the pairs of a split; a pair shares its name below the folders of images and masks, but for the file's
    suffix and, behind the mask's name, `mask_suffix`, or what all masks have there.

    Raises: `ValueError` for a file that lies outside of `roots`.
    """
    pair = find_pairs(root)[split]
    images, masks, problems, notes = _list_pairs(pair, mask_suffix)
    problems += [f"{images[stem]}: no mask {pair.masks / stem}.png" for stem in sorted(set(images) - set(masks))]
    problems += [f"{masks[stem]}: no image of this name in {pair.images}" for stem in sorted(set(masks) - set(images))]
    stems = sorted(set(images) & set(masks))
    captions = {}
    if (pair.home / CAPTIONS_FILE).is_file():
        roots.check_file(pair.home / CAPTIONS_FILE)
        captions = read_captions(pair.home / CAPTIONS_FILE, images)
    rows = pair_rows(stems, images, masks, captions)
    roots.check_rows(rows, f"{root} ({split})")  # before any of the files is opened
    if labels is None:
        labels = read_label_file(find_label_file((root, pair.home), roots, [masks[stem] for stem in stems]))
    decoder = labels.decoder
    if labels.of_instances:
        columns, unread = paint_instances(rows, labels.labels)
        rows, decoder = file_rows(**columns), MapDecoder.of_panoptic(labels.labels)
        problems += unread
    return Source("folder", rows, labels.labels, decoder, problems, labels.collisions, notes=notes)


def _list_pairs(
    pair: PairFolders, mask_suffix: str | None
) -> tuple[dict[str, Path], dict[str, Path], list[str], list[str]]:
    """Images and masks by stem, problems and notes."""
    if pair.ending is not None:
        pictures, problems = list_images(pair.images, deep=False)
        named = {stem: path for stem, path in pictures.items() if stem.endswith(pair.ending)}
        images = {stem: path for stem, path in pictures.items() if stem not in named}
        masks, _, more = match_masks(images, named, pair.masks, pair.ending)
        told = f"{pair.images}: masks lie beside their images, with {pair.ending} behind"
        return images, masks, problems + more, [told]
    (images, problems), (named, more) = list_images(pair.images), list_images(pair.masks)
    masks, notes, unmatched = match_masks(images, named, pair.masks, mask_suffix)
    return images, masks, problems + more + unmatched, notes


def match_masks(
    images: dict[str, Path], masks: dict[str, Path], folder: Path, suffix: str | None
) -> tuple[dict[str, Path], list[str], list[str]]:
    """Masks by the stem of their image, notes, and problems.

    Where names differ, masks are those of `suffix`. Without one they are matched if all have the same behind the name
    of their image (`a_mask`), or all of that and its own suffix (`a.jpg.png`).

    Args:
        images, masks: by stem, as `list_images` finds them in `folder`.
    """
    if suffix:
        chosen = {stem.removesuffix(suffix): path for stem, path in masks.items() if stem.endswith(suffix)}
        named = sorted({stem[-len(suffix) :] for stem in masks})[:3]
        problems = [] if chosen else [f"{folder}: no mask's name ends in {suffix!r}, but in {', '.join(named)}"]
        return chosen, [], problems
    own, others = set(images) - set(masks), set(masks) - set(images)
    if not own or not others:
        return masks, [], []
    found: dict[str, dict[str, str]] = defaultdict(dict)  # what follows the name -> {stem of the image: of the mask}
    for stem in others:
        behind = [place for place in range(1, len(stem)) if stem[:place] in own and not stem[place].isalnum()]
        if behind:
            found[stem[behind[-1] :]][stem[: behind[-1]]] = stem
    if all(ending.startswith(".") for ending in found):  # a.jpg.png, b.png.png
        found = {"the image's own suffix": {key: name for pairs in found.values() for key, name in pairs.items()}}
    whole = sorted(ending for ending, pairs in found.items() if set(pairs) == own)
    if len(whole) > 1:
        problem = (
            f"{folder}: each image has {len(whole)} masks, which end in {', '.join(whole)}; name those to read with "
            f"data.mask_suffix (--mask_suffix {whole[0]})"
        )
        return masks, [], [problem]
    if not whole:
        return masks, [], []
    (ending,) = whole
    renamed = {name: key for key, name in found[ending].items()}
    matched = {renamed.get(stem, stem): path for stem, path in masks.items()}
    return matched, [f"{folder}: masks are named like their images and {ending}, and so matched"], []


def find_label_file(folders: Sequence[Path], roots: Roots, masks: Sequence[Path]) -> Path:
    """The first of `LABEL_FILES` in the first of `folders`. Raises: `ValueError` if there is none, with one that fits
    the `masks`."""
    for folder, name in itertools.product(folders, LABEL_FILES):
        if (folder / name).is_file():
            roots.check_file(folder / name)
            return folder / name
    draft = draft_label_file(masks)
    example = (
        '{"ignore_index": 255, "categories": [{"id": 0, "name": "sky", "isthing": 0, "color": [0, 0, 255]}, ...]}'
    )
    told = f" with a name for each value of its masks: {draft}" if draft else f": {example}"
    raise ValueError(
        f"{folders[0]} has none of {', '.join(LABEL_FILES)}. Name a label file with --labels, or write "
        f"{folders[0]}/classes.json{told}"
    )


def list_images(folder: Path, deep: bool = True) -> tuple[dict[str, Path], list[str]]:
    """Image files below `folder` by their path without suffix, and a line for each name that occurs twice.

    Links to folders are followed; what is hidden (.ipynb_checkpoints) is passed over. Not `deep`: in itself alone.
    """
    found = defaultdict(list)
    for path in sorted(_files_below(folder, deep=deep), key=str):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            # Some file systems and archives write letters and their marks apart (NFD): one name all the same.
            found[unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())].append(path)
    problems = [f"{paths[1]}: has the name of {paths[0]}" for paths in found.values() if len(paths) > 1]
    return {stem: paths[0] for stem, paths in found.items()}, problems


def _files_below(folder: str | Path, above: tuple[str, ...] = (), deep: bool = True) -> Iterator[Path]:
    """Files that are not hidden; a link back to a folder `above` is not followed."""
    real = os.path.realpath(folder)
    if real in above or not os.path.isdir(real):
        return
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if deep:
                yield from _files_below(entry.path, (*above, real))
        elif entry.is_file():  # no pipe, no device: to open one may wait for ever
            yield Path(entry.path)


def read_captions(file: Path, images: dict[str, Path]) -> dict[str, str]:
    """Captions by stem; the file may name images with their suffix. Keys of no image are warned of."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, str | None) for value in content.values()):
        raise ValueError(f'{file} must map image ids to captions, as in {{"0001": "a street with two cars"}}.')
    stems = {stem + path.suffix: stem for stem, path in images.items()} | {stem: stem for stem in images}
    unused = [key for key in content if key not in stems]
    if unused:
        warnings.warn(f"{file}: {len(unused)} captions are of no image, first {unused[0]!r}.", stacklevel=3)
    return {stems[key]: caption for key, caption in content.items() if key in stems}


def pair_rows(stems: list[str], images: dict[str, Path], masks: dict[str, Path], captions: dict[str, str]) -> Dataset:
    """Rows of images and their masks, by stem, which is the image_id."""
    return file_rows(
        image=[str(images[stem]) for stem in stems],
        segmentation_map=[str(masks[stem]) for stem in stems],
        caption=[captions.get(stem) for stem in stems],
        image_id=stems,
    )


def file_rows(**columns: list) -> Dataset:
    """Undecoded rows over files: only paths are in memory. Columns of images hold paths."""
    features = Features(
        {name: Image(decode=False) if name in ("image", "segmentation_map") else Value("string") for name in columns}
    )
    if "segments_info" in columns:
        features["segments_info"] = [SEGMENT]
    return Dataset.from_dict(columns, features=features)
