"""What a run folder holds, and where: the one place that puts the paths of a run together and takes them apart."""

import contextlib
import json
import os
from pathlib import Path

from ..arms import parse_segmenter_name, segmenter_name
from ..config import Recipe, load_recipe
from .stage_marker import finished_marker, read_marker

# Of a trained segmenter, beside its weights; the pictures lie in a folder for each test split, as in the run's own.
SCORES, PREDICTIONS = "evaluation.json", "predictions"


class RunFolder:
    """The places in the folder of a run; none has to exist.

    A stage's name is its place: `captions`, `segmenter-real/seed-0`. As a path it is the folder itself.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.captions = self.path / "captions"
        self.unlabelled = self.path / "unlabelled"
        self.adapted = self.path / "adapted"
        self.text2mask = self.path / "text2mask"
        self.mask2img = self.path / "mask2img"
        self.synthetic = self.path / "synthetic"
        self.renderer = self.path / "renderer"
        self.filtered = self.path / "filtered"
        self.pseudo = self.path / "pseudo"
        self.repainted = self.path / "repainted"
        self.value = self.path / "value"  # of the labels, measured before the run
        self.predictions = self.path / PREDICTIONS
        self.results = self.path / "results.json"
        self.report, self.report_text = self.path / "report.html", self.path / "report.md"
        self.pictures = self.path / "pictures"  # of both reports
        self.staged = self.path / "hub"  # what is pushed, one folder a repository
        self.decisions = self.path / "demo"  # what is kept and rejected there
        self.replaced = self.path / "replaced"  # what was made anew since, numbered
        self.log = self.path / "log" / "run.log"
        self.lock = self.path / "log" / ".lock"
        self.redo = self.path / "log" / "redo.json"  # of a redo that has begun
        self.checked = self.path / "log" / "checked.json"  # the data that was looked through
        self.work = self.path / "log" / "work.json"  # what its stages compute

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def stage(self, name: str) -> Path:
        """The folder of the stage `name`."""
        return self.path / name

    def segmenter(self, arm: str | None, seed: int) -> Path:
        """The folder of the training of one arm and seed."""
        return self.path / segmenter_name(arm, seed)

    def list_segmenters(self) -> list[Path]:
        """The folders of all trainings that were begun here, also of arms that the recipe does not name."""
        return sorted(path for path in self.path.glob(segmenter_name("*", "*")) if path.is_dir())

    def marker(self, name: str) -> dict | None:
        """The marker of the stage `name`, or None while it is not finished."""
        return read_marker(self.stage(name))

    def finished(self, name: str) -> dict:
        """The marker of the stage `name`. Raises: `ValueError` while it is not finished."""
        return finished_marker(self.stage(name))

    @property
    def is_run(self) -> bool:
        return self.recipe_file.is_file()

    def recipe(self) -> Recipe:
        """The recipe that the run was last called with. Raises: `ValueError` for a folder that is no run's."""
        if not self.is_run:
            raise ValueError(
                f"{self.path} is no run folder: it has no recipe.yaml. Give the folder that `seggen run` filled."
            )
        return load_recipe(self.recipe_file)


def read_history(folder: Path) -> list[dict]:
    """The log lines of a training that have a loss; one that is being written is passed over."""
    file, lines = folder / "history.jsonl", []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if "loss" in line]


def find_stage(folder: str | os.PathLike) -> tuple[RunFolder, str] | None:
    """The run and the name of the stage whose folder it is; None for a run's own folder and any other."""
    folder = Path(folder)
    name = "/".join(folder.parts[-2:])
    run, name = (folder.parent.parent, name) if parse_segmenter_name(name) else (folder.parent, folder.name)
    return None if RunFolder(folder).is_run or not RunFolder(run).is_run else (RunFolder(run), name)
