"""How far a run is, read from its folder alone: from another terminal, and after it has died."""

import os
import time
from dataclasses import asdict, dataclass
from statistics import fmean

from filelock import lock_descriptor

from ..arms import parse_segmenter_name
from ..config import Recipe
from .folder import RunFolder, read_history
from .stage_marker import DONE, STARTED, read_marker
from .stages import Stage, list_stages
from .work import read_work, work_of

QUIET = 600.0  # seconds without a new line of history after which a training is told to be silent


@dataclass(frozen=True)
class StageStatus:
    """One stage: `done`, `begun` or `waiting`.

    Attributes:
        seconds: what it took, or has taken so far as it last said; step, steps: of a training.
        left: seconds that a training's remaining steps take at the rate of its last ones; None where it is not known.
        work: how long it takes beside the others; None where it is not planned.
        silent: seconds since it last wrote a line, of a training that is begun.
    """

    name: str
    state: str
    seconds: float | None = None
    step: int | None = None
    steps: int | None = None
    left: float | None = None
    work: float | None = None
    silent: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """The stages in their order, and whether a process works on them.

    Attributes:
        jobs: stages that are made at a time.
    """

    run: str
    process: str | None
    stages: list[StageStatus]
    last_line: str | None
    jobs: int = 1

    @property
    def left(self) -> tuple[float, int]:
        """Seconds that the stages take whose time can be told, with `jobs` at a time, and how many cannot be told.

        A training that goes on tells its own; a segmenter that waits takes as long as those that are done, or as one
        that goes on will have taken; of any other stage what it computes tells, at the rate of all stages so far.
        """
        segmenters = [stage for stage in self.stages if parse_segmenter_name(stage.name)]
        took = [stage.seconds for stage in segmenters if stage.state == "done" and stage.seconds]
        took = took or [seconds for stage in segmenters if (seconds := _whole(stage))]
        usual = fmean(took) if took else None
        pending = [stage for stage in self.stages if stage.state != "done"]
        told = [
            stage.left if stage.left is not None else (usual if stage in segmenters else None) or self._at_rate(stage)
            for stage in pending
        ]
        known = [seconds for seconds in told if seconds is not None]
        return max([0.0, *known, sum(known) / self.jobs]), len(told) - len(known)

    def _at_rate(self, stage: StageStatus) -> float | None:
        """Seconds that are left of a stage at the rate at which the others have computed what they had to."""
        timed = [(other.work, other.seconds if other.state == "done" else _whole(other)) for other in self.stages]
        known = [(work, seconds) for work, seconds in timed if work and seconds]
        if not known or not stage.work:
            return None
        whole = stage.work * sum(seconds for _, seconds in known) / sum(work for work, _ in known)
        return max(whole - (stage.seconds or 0), 0.0)

    def tell_left(self) -> str:
        """What is left of the whole run, in words; empty where nothing is known of it, or nothing is left."""
        seconds, unknown = self.left
        if not seconds:
            return ""
        more = f", and {unknown} stage{'s' * (unknown > 1)} whose time is not known yet" if unknown else ""
        return f"about {_told(seconds)} left{more}"

    def to_dict(self) -> dict:
        """JSON values."""
        seconds, unknown = self.left
        counts = {"done": sum(stage.state == "done" for stage in self.stages)}
        return asdict(self) | counts | {"left": seconds, "left_unknown": unknown}

    def to_text(self) -> str:
        width = max(len(stage.name) for stage in self.stages)
        lines = [f"{stage.name:<{width}}  {_tell(stage)}" for stage in self.stages]
        done = sum(stage.state == "done" for stage in self.stages)
        left = self.tell_left()
        lines.append(f"{done} of {len(self.stages)} stages are done{'; ' * bool(left)}{left}.")
        if self.process:
            lines.append(f"Process {self.process} works on it.")
        elif done < len(self.stages):
            lines.append(f"No process works on it: `seggen run {self.run}` goes on where it is.")
        if self.last_line and done < len(self.stages):
            lines.append(f"Last line of its log: {self.last_line}")
        return "\n".join(lines)


def read_status(out: str | os.PathLike) -> RunStatus:
    """Raises: `ValueError` for a folder that is no run's."""
    run = RunFolder(out)
    recipe = run.recipe()
    log = run.log.read_text(encoding="utf-8").rstrip().splitlines() if run.log.is_file() else []
    work = read_work(run)
    stages = [_status_of(stage, recipe, work_of(stage, work)) for stage in list_stages(recipe, run)]
    return RunStatus(str(run), _holder(run), stages, log[-1] if log else None, recipe.evaluation.jobs)


def _status_of(stage: Stage, recipe: Recipe, work: float | None) -> StageStatus:
    if done := read_marker(stage.folder, DONE):
        return StageStatus(stage.name, "done", done["seconds"], work=work)
    begun, steps = read_marker(stage.folder, STARTED), _steps(stage, recipe)
    if begun is None:
        return StageStatus(stage.name, "waiting", steps=steps, work=work)
    lines = read_history(stage.folder)
    if not lines:
        return StageStatus(stage.name, "begun", begun["seconds"], 0 if steps else None, steps, work=work)
    step = lines[-1]["step"]
    rates = [line["samples_per_second"] for line in lines[-5:] if line.get("samples_per_second")]
    batch = _samples_per_step(stage, recipe)
    left = (steps - step) * batch / (sum(rates) / len(rates)) if rates and steps and batch else None
    silent = time.time() - (stage.folder / "history.jsonl").stat().st_mtime
    return StageStatus(stage.name, "begun", begun["seconds"], step, steps, left, work, silent)


def _whole(stage: StageStatus) -> float | None:
    """Seconds that all steps of a training take at its present rate; None where that is not known."""
    if not stage.left or not stage.steps or stage.step is None or stage.step >= stage.steps:
        return None
    return stage.left * stage.steps / (stage.steps - stage.step)


def _section(stage: Stage, recipe: Recipe):
    """The settings of a stage that trains; None for any other."""
    name = "segmenter" if parse_segmenter_name(stage.name) else {"adapted": "adapt"}.get(stage.name, stage.name)
    return getattr(recipe, name) if name in ("adapt", "text2mask", "mask2img", "segmenter") else None


def _steps(stage: Stage, recipe: Recipe) -> int | None:
    section = _section(stage, recipe)
    return section.max_train_steps if section else None


def _samples_per_step(stage: Stage, recipe: Recipe) -> int | None:
    section = _section(stage, recipe)
    return section.train_batch_size * section.gradient_accumulation_steps if section else None


def _holder(run: RunFolder) -> str | None:
    """The process that has the run's lock, if there is one. If not, it is taken and given back at once."""
    if not run.lock.is_file():
        return None
    with open(run.lock, "r+", encoding="utf-8") as lock:
        return None if lock_descriptor(lock.fileno(), blocking=False) else lock.read().strip() or "another"


def _tell(stage: StageStatus) -> str:
    if stage.state == "done":
        return f"done in {_told(stage.seconds or 0)}"
    steps = f", {stage.steps:,} steps" if stage.steps else ""
    if stage.state == "waiting":
        return f"waiting{steps}"
    if stage.step is None:
        return "begun"
    left = f", about {_told(stage.left)} left" if stage.left is not None else ""
    silent = f"; nothing new for {_told(stage.silent)}" if stage.silent and stage.silent > QUIET else ""
    return f"step {stage.step:,} of {stage.steps:,}{left}{silent}"


def _told(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
