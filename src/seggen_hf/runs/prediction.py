"""A segmenter on a folder of images: maps, pictures to look at, COCO JSON; interrupted, it goes on where it was."""

import glob
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm.auto import tqdm

from seggen_hf.pipelines import ColormapCodec

from ..data.schema import allow_megapixels, encode_map, encode_panoptic, read_image
from ..data.sources.checks import UNREADABLE, explain
from ..data.sources.folder import list_images
from ..labels import LABEL_FILES, LabelSet
from ..metrics.instance_matching import plain_rle, to_rle
from ..networks.modules import move
from ..pictures.cards import draw_legend
from ..pictures.segments import paint_segments
from ..segmenter.build import find_config, load_segmenter
from ..segmenter.inference import predict_instances, predict_panoptic, predict_semantic
from ..storage.content_digests import weights_digest
from ..storage.digests import json_digest
from ..storage.files import save_image, write_bytes, write_json
from ..storage.folders import PREDICTIONS, claim_folder, hold_folder

RESULT, PROGRESS, LEGEND = "predictions.json", "progress.jsonl", "legend.png"
SEEN = 0.55  # share of the painted map in an overlay


@dataclass
class Prediction:
    """What was predicted: images that have a result, of them those of an earlier call, and a line for each that could
    not be read."""

    folder: Path
    images: int = 0
    kept: int = 0
    unreadable: list[str] = field(default_factory=list)


def predict_folder(
    segmenter: str | Path,
    images: str,
    out: str | os.PathLike,
    task: str = "semantic",
    batch_size: int = 8,
    min_score: float = 0.5,
    overlays: bool = True,
    max_megapixels: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Prediction:
    """Predict every image, at its own size, into `out`.

    - semantic: `maps/NAME.png` with label ids; - panoptic: `panoptic/NAME.png`, COCO's RGB ids; - each:
      `overlays/NAME.jpg` with `legend.png`, and `predictions.json`: COCO's `images` and `categories`, with
      `annotations` of segments (panoptic), or of instances with run-length masks and scores.

    Args:
        segmenter: folder or Hub id of a trained one.
        images: a folder, of which every image below is read, an image, or a pattern (`frames/*.png`).
        min_score: instances with a smaller score are left out.
        overlays: write the pictures too.
    Raises: `ValueError` for a segmenter or images that are not there, no readable image, and a folder that was begun
        with another segmenter or other settings.
    """
    if max_megapixels:
        allow_megapixels(max_megapixels)
    files, labels = find_images(images), find_labels(segmenter)
    model, processor = load_segmenter(segmenter, labels)
    digest = weights_digest({"segmenter": model})
    made_of = json_digest([digest, task, min_score, overlays, labels.to_dict()])
    move(model, "cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(out)
    claim_folder(folder, PREDICTIONS)
    with hold_folder(folder, PREDICTIONS):
        done = _read_progress(folder, made_of)
        found = Prediction(folder, kept=len(done.keys() & files.keys()))
        if found.kept:
            say(f"{found.kept} of {len(files)} images are done")
        painter = _Painter(labels, folder, task, min_score, overlays)
        if overlays:
            draw_legend(painter.codec, folder / LEGEND)
        missing = [name for name in files if name not in done]
        with (
            open(folder / PROGRESS, "a", encoding="utf-8") as log,
            tqdm(total=len(files), initial=found.kept, desc="Predicting", delay=1) as bar,
        ):
            for names, pictures in _batches(files, missing, batch_size, found.unreadable):
                for name, picture, entry in zip(
                    names, pictures, painter.predict(model, processor, pictures, batch_size), strict=True
                ):
                    facts = painter.write(name, picture, entry)
                    facts |= {"file_name": _shown(files[name], images)}
                    done[name] = facts
                    log.write(json.dumps({"name": name, "made_of": made_of, "facts": facts}) + "\n")
                log.flush()
                os.fsync(log.fileno())
                bar.update(len(names))
        found.images = len([name for name in files if name in done])
        if not found.images:
            raise ValueError(f"None of {len(files)} images could be read: {found.unreadable[0]}.")
        write_json(folder / RESULT, _gather(done, list(files), labels, task))
    for line in found.unreadable:
        say(f"not read: {line}")
    return found


def find_images(images: str) -> dict[str, Path]:
    """Files by their names: the path below the folder, without suffix. Raises: `ValueError` if there are none."""
    place = Path(images).expanduser()
    if place.is_dir():
        found, problems = list_images(place)
        if problems:
            raise ValueError(f"{problems[0]}; results would be of one name. Predict them one folder after the other.")
    elif place.is_file():
        found = {place.stem: place}
    else:
        matched = sorted(glob.glob(str(place), recursive=True))
        found = {Path(path).stem: Path(path) for path in matched if Path(path).is_file()}
        if len(found) < len([path for path in matched if Path(path).is_file()]):
            raise ValueError(f"{images} matches files of one name; results would be of one name. Name a folder.")
    if not found:
        raise ValueError(f"There are no images in {images}; give a folder, an image, or a pattern in quotes.")
    return found


def find_labels(segmenter: str | Path) -> LabelSet:
    """The labels of a segmenter: those of the label file beside it, with colors and things, else those of its
    configuration. Raises: `ValueError` if there is no segmenter."""
    config, _ = find_config(segmenter, None)
    folder = Path(segmenter)
    if folder.is_dir() and any((folder / name).is_file() for name in LABEL_FILES):
        return LabelSet.from_file(folder)
    if not folder.is_dir():
        try:
            return LabelSet.from_file(hf_hub_download(str(segmenter), "labels.json"))
        except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError):
            pass
    return LabelSet.from_id2label(dict(config.id2label or {}))


def _batches(
    files: dict[str, Path], names: list[str], size: int, unreadable: list[str]
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Names and their pictures, `size` at a time; a file that cannot be read becomes a line of `unreadable`."""
    kept: list[str] = []
    pictures: list[np.ndarray] = []
    for name in names:
        try:
            pictures.append(read_image(str(files[name])))
            kept.append(name)
        except UNREADABLE as error:
            unreadable.append(f"{files[name]}: {explain(error, {'bytes': None, 'path': str(files[name])})}")
        if len(kept) == size:
            yield kept, pictures
            kept, pictures = [], []
    if kept:
        yield kept, pictures


class _Painter:
    """What is written of each image."""

    def __init__(self, labels: LabelSet, folder: Path, task: str, min_score: float, overlays: bool):
        self.labels, self.folder, self.task, self.min_score = labels, folder, task, min_score
        self.overlays, self.codec = overlays, ColormapCodec(labels)

    def predict(self, model, processor, pictures: list[np.ndarray], batch_size: int) -> list:
        if self.task == "semantic":
            return predict_semantic(model, processor, pictures, batch_size)
        things = self.labels.things
        if self.task == "panoptic":
            return predict_panoptic(model, processor, pictures, things, batch_size)
        return [
            [found for found in instances if found["score"] >= self.min_score]
            for instances in predict_instances(model, processor, pictures, things, batch_size)
        ]

    def write(self, name: str, picture: np.ndarray, entry) -> dict:
        """Write the files of one image; what the JSON says of it."""
        facts: dict = {"height": picture.shape[0], "width": picture.shape[1]}
        if self.task == "semantic":
            write_bytes(
                self._place("maps", name, "png"), encode_map(entry, self.labels.num_labels)["bytes"], sync=False
            )
            painted = self.codec.encode(entry)
        elif self.task == "panoptic":
            ids, segments = entry
            write_bytes(self._place("panoptic", name, "png"), encode_panoptic(ids)["bytes"], sync=False)
            facts["segments"] = [_plain(segment) for segment in segments]
            painted = paint_segments(ids, segments, self.codec)
        else:
            facts["instances"] = [_instance(found) for found in entry]
            ids, segments = _layers(entry, picture.shape[:2])
            painted = np.where((ids > 0)[..., None], paint_segments(ids, segments, self.codec), picture)
        if self.overlays:
            blended = np.rint(SEEN * painted + (1 - SEEN) * picture).astype(np.uint8)
            save_image(Image.fromarray(blended), self._place("overlays", name, "jpg"), "JPEG", sync=False, quality=92)
        return facts

    def _place(self, kind: str, name: str, suffix: str) -> Path:
        return self.folder / kind / f"{name}.{suffix}"


def _plain(segment: dict) -> dict:
    kept = {name: segment[name] for name in ("id", "category_id", "area", "bbox") if name in segment}
    return {name: [int(v) for v in value] if name == "bbox" else int(value) for name, value in kept.items()}


def _instance(found: dict) -> dict:
    return {
        "category_id": int(found["category_id"]),
        "score": round(float(found["score"]), 4),
        "segmentation": plain_rle(found["mask"]),
        "area": int(found["mask"].sum()),
        "bbox": [float(value) for value in coco_mask.toBbox(to_rle(found["mask"]))],
    }


def _layers(instances: list[dict], size: tuple[int, int]) -> tuple[np.ndarray, list[dict]]:
    """Segments of instances, the surest on top."""
    ids, segments = np.zeros(size, np.int32), []
    for number, found in enumerate(reversed(instances), start=1):
        ids[found["mask"]] = number
        segments.append({"id": number, "category_id": found["category_id"]})
    return ids, segments


def _shown(path: Path, images: str) -> str:
    """A file's name in the JSON: below the folder that was given, never a home folder's."""
    place = Path(images).expanduser()
    return path.relative_to(place).as_posix() if place.is_dir() else path.name


def _read_progress(folder: Path, made_of: str) -> dict[str, dict]:
    """What is done. Raises: `ValueError` if it was done by another segmenter or with other settings."""
    done = {}
    path = folder / PROGRESS
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if entry["made_of"] != made_of:
            raise ValueError(f"{folder} was begun by another segmenter or with other settings; name another OUT.")
        done[entry["name"]] = entry["facts"]
    return done


def _gather(done: dict[str, dict], names: list[str], labels: LabelSet, task: str) -> dict:
    """COCO's JSON of all images, in the order of their names."""
    categories = [
        {"id": category.id, "name": category.name, "isthing": int(category.isthing)} for category in labels.categories
    ]
    content: dict = {"images": [], "categories": categories}
    if task != "semantic":
        content["annotations"] = []
    for number, name in enumerate((name for name in names if name in done), start=1):
        facts = done[name]
        content["images"].append(
            {"id": number, "file_name": facts["file_name"], "height": facts["height"], "width": facts["width"]}
        )
        if task == "panoptic":
            content["annotations"].append(
                {"image_id": number, "file_name": f"{name}.png", "segments_info": facts["segments"]}
            )
        elif task == "instance":
            for found in facts["instances"]:
                content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": number} | found)
    return content
