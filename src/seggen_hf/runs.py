"""A run: which stages a call is about, what is refused before it begins, and the stages one after the other."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .cards import write_cards
from .markers import DONE, STARTED, InputsChanged, SettingsChanged, check_stage, mark_stage
from .preflight import check_run
from .recipe import Recipe, save_recipe
from .report import write_report
from .results import RESULTS, SCORES, evaluate_arms
from .stages import STAGES, Stage, list_stages, load_test_records, segmenter_of

logger = logging.getLogger(__name__)


def select_kinds(only: Sequence[str] = (), first: str | None = None, last: str | None = None) -> list[str]:
    """The kinds of stages that a call is about. Raises `ValueError` for an unknown name or an empty choice."""
    for name in (*only, first, last):
        if name is not None and name not in STAGES:
            raise ValueError(f"There is no stage {name!r}; the stages are {', '.join(STAGES)}.")
    start = STAGES.index(first) if first else 0
    stop = STAGES.index(last) + 1 if last else len(STAGES)
    chosen = [name for name in STAGES[start:stop] if not only or name in only]
    if not chosen:
        raise ValueError("No stage is left to run; --only, --from and --until exclude each other.")
    return chosen


def check_stages(stages: list[Stage], kinds: Sequence[str], redo: Sequence[str] = ()) -> None:
    """Refuse what cannot go on, before anything is written.

    Raises: `ValueError` if a stage that is done, or begun, has other settings now, or an input is neither done nor
        part of the call.
    """
    again = {id(stage) for stage in list_redone(stages, redo)}
    changes = []
    for stage in stages:
        if id(stage) in again:
            continue
        try:
            check_stage(stage.folder, stage.settings, stage.fingerprint)
        except SettingsChanged as error:
            changes.append((stage, error))
    if changes:
        # What only reads a changed stage is not worth a word of its own.
        changes = [c for c in changes if not isinstance(c[1], InputsChanged)] or changes
        told = " ".join(str(error) for _, error in changes)
        names = sorted({stage.kind for stage, _ in changes}, key=STAGES.index)
        flags = " ".join(f"--redo {name}" for name in names)
        raise SettingsChanged(f"{told} Use another --out, or {flags} to make anew what depends on it.")
    for stage in stages:
        if stage.kind not in kinds or (stage.is_done and id(stage) not in again):
            continue
        for needed in stage.inputs:
            if needed.kind not in kinds and (not needed.is_done or id(needed) in again):
                raise ValueError(
                    f"{stage.name} reads {needed.folder}, which is not finished; run the stage {needed.kind} first."
                )


def list_redone(stages: list[Stage], redo: Sequence[str]) -> list[Stage]:
    """The stages of the kinds `redo`, and all that read them."""
    found: list[Stage] = []
    for stage in stages:
        if stage.kind in redo or any(stage_input in found for stage_input in stage.inputs):
            found.append(stage)
    return found


def set_aside(stages: list[Stage], out: Path) -> Path | None:
    """Move the folders of `stages` to `replaced/N`, so that they can be made anew; the new place, if there was any.

    Results and report, which were gathered from them, move too.
    """
    present = [stage.folder for stage in stages if stage.folder.is_dir()]
    if not present:
        return None
    present += [out / name for name in (RESULTS, "report.md", "report.html") if (out / name).is_file()]
    number = len(list((out / "replaced").glob("*"))) + 1
    place = out / "replaced" / str(number)
    for path in present:
        target = place / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    return place


def run_stages(
    recipe: Recipe,
    out: str | Path,
    kinds: Sequence[str] = STAGES,
    redo: Sequence[str] = (),
    command: str | None = None,
    say: Callable[[str], None] = logger.info,
) -> None:
    """Run the chosen kinds of stages of `recipe` in `out`; what is finished is kept.

    Args:
        redo: kinds of stages to make anew, with all that read them; their folders move to `replaced/`.
        command (`str`): what the user typed, for results and report.
        say: told in a line what begins, what is kept, and what a stage took.

    Raises: see `check_stages`, and what a stage raises; the run can then be called again.
    """
    out = Path(out)
    stages = list_stages(recipe, out)

    def tell(line: str) -> None:
        (out / "log").mkdir(parents=True, exist_ok=True)
        with open(out / "log" / "run.log", "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        say(line)

    check_stages(stages, kinds, redo)
    again = list_redone(stages, redo)
    if any(stage.kind in kinds and (not stage.is_done or stage in again) for stage in stages):
        counts = check_run(recipe, out)
        tests = ", ".join(f"{number} {split}" for split, number in counts["tests"].items())
        tell(f"Checked: {counts['records']} records with {counts['labels']} labels; test records: {tests}")
    if place := set_aside(again, out):
        tell(f"The earlier results of {', '.join(redo)} and of what reads them are in {place}.")
    save_recipe(recipe, out / "recipe.yaml")
    if command:
        tell(f"$ {command}")
    for stage in stages:
        if stage.kind not in kinds:
            continue
        if stage.is_done:
            tell(f"{stage.name}: kept, it is finished")
            continue
        tell(f"{stage.name}: {'goes on' if (stage.folder / STARTED).is_file() else 'begins'}")
        with mark_stage(stage.folder, stage.name, stage.settings, stage.fingerprint) as facts:
            facts |= stage.make(stage.folder)
        marker = json.loads((stage.folder / DONE).read_text())
        tell(f"{stage.name}: done in {marker['seconds']:.0f} s, peak memory {marker['peak_memory_gb']:.1f} GB")
    if "evaluate" in kinds:
        tests = {split: load_test_records(recipe, split) for split in recipe.data.test_splits}
        finished = [stage for stage in stages if stage.kind == "segmenter" and stage.is_done]
        missing = [stage.name for stage in stages if stage.kind == "segmenter" and not stage.is_done]
        if not finished:
            raise ValueError(f"{out} has no finished segmenter to score; run the stage segmenter first.")
        if missing:
            tell(f"evaluate: not trained yet, hence not scored: {', '.join(missing)}")
        if "evaluate" in redo:
            for stage in finished:
                (stage.folder / SCORES).unlink(missing_ok=True)
        evaluate_arms(recipe, out, [segmenter_of(stage) for stage in finished], tests, command, tell)
    write_cards(out)
    if "report" in kinds:
        write_report(out)
        tell(f"report: {out / 'report.html'}")
