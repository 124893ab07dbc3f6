"""Trackers, by name: a project for each run folder, a run for each training in it, with losses, pictures and scores.

What they are told stays on this machine unless the user's own variables say otherwise (WANDB_MODE, TRACKIO_SPACE_ID,
TRACKIO_SERVER_URL): TensorBoard and wandb write into the training's folder, trackio below TRACKIO_DIR.
"""

import contextlib
import importlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from huggingface_hub import constants
from PIL import Image

from ..arms import parse_segmenter_name
from ..storage.files import read_json, write_text

_LOG, _RUN_ID = "log", "run_id"  # a training's folder of logs, and the file in it with the id that wandb knows it by
_STEP = "step"


def list_trackers(report_to: str) -> list[str]:
    """The names in `--report_to`, such as `tensorboard,trackio`.

    Raises: `ValueError` if one is unknown or not installed.
    """
    names = [] if report_to == "none" else list(dict.fromkeys(name.strip() for name in report_to.split(",")))
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(
                f"--report_to names {name!r}, which is no tracker; known are none, {', '.join(LOGGER_TYPE_TO_CLASS)}."
            )
        if name not in map(str, get_available_trackers()):
            raise ValueError(f"--report_to {name} needs a package that is not installed: pip install {name}")
    return names


class Trackers:
    """What a training, or the scoring of what it made, tells all its trackers; there may be none."""

    def __init__(self, trackers: list[Any]):
        self._trackers = trackers  # accelerate's

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            _log(tracker, numbers, step)

    def show(self, pictures: Mapping[str, Path], step: int) -> None:
        """Log RGB pictures, given as files, where the tracker takes pictures."""
        for tracker in self._trackers:
            for name, path in pictures.items():
                if tracker.name in ("trackio", "wandb"):
                    picture = importlib.import_module(tracker.name).Image(str(path))
                    _log(tracker, {name: picture}, step)
                elif hasattr(tracker, "log_images"):
                    how = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                    tracker.log_images({name: np.asarray(Image.open(path))[None]}, step=step, **how)


def _log(tracker: Any, values: Mapping[str, Any], step: int) -> None:
    if tracker.name == "wandb":  # drops what has a step of its own that is not beyond the last, as of a resumed run
        tracker.log({**values, _STEP: step})
    else:
        tracker.log(dict(values), step=step)


@contextlib.contextmanager
def open_trackers(report_to: str, folder: str | os.PathLike, step: int) -> Iterator[Trackers]:
    """The trackers of the training in `folder`, which has its run_config.json; for one process of it.

    Args:
        step: of the checkpoint to go on from; after 0 steps it is a new run of the same name.
    """
    folder, names = Path(folder), list_trackers(report_to)
    file = folder / _LOG / _RUN_ID
    was_begun = file.is_file()
    goes_on = was_begun and step > 0
    if names and not goes_on:
        write_text(file, uuid.uuid4().hex[:8])
    with contextlib.ExitStack() as stack:
        started = []
        for name in names:
            tracker = _build(name, folder, step, was_begun)
            with _staying_here(name):
                tracker.start()
            stack.callback(tracker.finish)
            if name == "wandb":
                tracker.tracker.define_metric("*", step_metric=_STEP)
            if not goes_on or name != "tensorboard":  # there, settings are a run beside the training's
                settings = read_json(folder / "run_config.json")
                tracker.store_init_configuration({key: str(value) for key, value in settings.items()})
            started.append(tracker)
        yield Trackers(started)


def _build(name: str, folder: Path, step: int, was_begun: bool) -> Any:
    """One of accelerate's trackers, not yet started."""
    project, run = name_run(folder)
    tracker_class: Any = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        # What an earlier part of the training logged beyond its checkpoint is shown no more.
        return tracker_class(_LOG, folder, purge_step=step + 1 if was_begun else None)
    if name == "trackio":
        return tracker_class(project, name=run, resume="allow" if was_begun and step > 0 else "never", embed=False)
    if name == "wandb":
        run_id, mode = (folder / _LOG / _RUN_ID).read_text(), os.environ.get("WANDB_MODE", "offline")
        return tracker_class(project, name=run, id=run_id, resume="allow", mode=mode, dir=str(folder / _LOG))
    return tracker_class(project, *([str(folder / _LOG)] if tracker_class.requires_logging_directory else []))


@contextlib.contextmanager
def _staying_here(name: str) -> Iterator[None]:
    """Keep trackio from sending the Hub a user's token to learn a name that it needs for its Spaces alone."""
    before = constants.HF_HUB_OFFLINE
    if name == "trackio" and not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & set(os.environ):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def name_run(folder: str | os.PathLike) -> tuple[str, str]:
    """Project and run of a training: the folder of the whole run, and the stage's name in it.

    `runs/camvid/text2mask` is `text2mask` of `camvid`, `runs/camvid/segmenter-real/seed-0` is `segmenter-real/seed-0`
    of it.
    """
    parts = Path(folder).resolve().parts
    depth = 2 if parse_segmenter_name("/".join(parts[-2:])) else 1
    # trackio keeps some endings that begin with _ for itself; wandb takes no / and the like.
    project = re.sub(r"[\W_]+", "-", "".join(parts[-depth - 1 : -depth])).strip("-")
    return project or "seggen-hf", "/".join(parts[-depth:])


def list_pictures(folder: Path, step: int) -> dict[str, Path]:
    """`{name in trackers: file}` of the pictures that a validation left: `step-00000010.png` and others with a name
    of their own, `step-00000010-NAME.png`."""
    found = {}
    for path in sorted(folder.glob(f"step-{step:08d}*.png")):
        found[f"validation/{path.stem.removeprefix(f'step-{step:08d}').strip('-') or 'pictures'}"] = path
    return found


def report_scores(report_to: str, folder: str | os.PathLike, split: str, scores: Mapping[str, Any], step: int) -> None:
    """Log a finished segmenter's scores on a test split beside its losses, as `test/SPLIT/mIoU`.

    Args:
        step: the steps that it was trained for.
    """
    numbers = {f"test/{split}/{name}": value for name, value in scores.items() if isinstance(value, float)}
    with open_trackers(report_to, folder, step) as trackers:
        trackers.log(numbers, step)
