"""A run: which stages a call is about, what is refused before it begins, and the stages one after the other."""

import contextlib
import fcntl
import functools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..config import Recipe, save_recipe
from ..files import write_json
from ..folders import RUN, claim_folder
from .cards import write_cards
from .preflight import check_run
from .report import write_report
from .scores import RESULTS, SCORES, evaluate_arms, recipe_hash
from .stage_marker import InputsChanged, SettingsChanged, check_stage, read_begun
from .stages import STAGES, Stage, data_digest, list_stages, load_test_records, load_train_records, segmenter_of
from .workers import begins, make_stage, work_together

REDO = Path("log") / "redo.json"

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


@contextlib.contextmanager
def lock_run(out: Path) -> Iterator[int]:
    """Keep other processes out of a run folder while the block runs; the system frees the lock of one that dies.

    Yields: the lock's file descriptor; a process that inherits it has the lock too.
    Raises: `ValueError` that names the process which has it, or what is in a folder that is no run's.
    """
    claim_folder(out, RUN)
    path = Path(out) / "log" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(
                f"{out} is in use by process {lock.read().strip()}. Wait for it, or use another --out."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def check_stages(stages: list[Stage], kinds: Sequence[str], again: Sequence[Stage], data: str | None) -> None:
    """Refuse what cannot go on, before anything is written.

    Args:
        again: stages that will be made anew.
        data (`str`): digest of the training data now; None leaves it unchecked.

    Raises: `ValueError` if a stage that is done, or begun, has other settings or other data now, or an input is
        neither done nor part of the call.
    """
    again = {id(stage) for stage in again}
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
        if id(stage) not in again and _has_other_data(stage, data):
            raise SettingsChanged(
                f"The data has changed since {stage.folder} was made of it. Use another --out, or --redo caption to "
                "make anew what depends on it."
            )
    chosen = choose_stages(stages, kinds)
    for stage in chosen:
        if stage.is_done and id(stage) not in again:
            continue
        for needed in (*stage.inputs, *stage.after):
            if needed not in chosen and (not needed.is_done or id(needed) in again):
                raise ValueError(
                    f"{stage.name} reads {needed.folder}, which is not finished; run the stage {needed.kind} first."
                )


def choose_stages(stages: list[Stage], kinds: Sequence[str]) -> list[Stage]:
    """Those of `kinds`; the filter brings the segmenter that filters, which otherwise comes after it."""
    judges = [s for stage in stages if stage.kind == "filter" for s in stage.inputs if s.kind == "segmenter"]
    return [stage for stage in stages if stage.kind in kinds or ("filter" in kinds and stage in judges)]


def _has_other_data(stage: Stage, data: str | None) -> bool:
    """Whether a stage that reads the real data itself was made of other data than `data` is the digest of."""
    found = None if stage.inputs or data is None else read_begun(stage.folder)
    return found is not None and found["data"] != data


def list_redone(stages: list[Stage], redo: Sequence[str], data: str | None = None) -> list[Stage]:
    """The stages of the kinds `redo`, all that read them, and what came after them from other data or settings."""
    found: list[Stage] = []
    for stage in stages:
        is_redone = stage.kind in redo or any(stage_input in found for stage_input in stage.inputs)
        if not is_redone and any(earlier in found for earlier in stage.after):
            try:
                check_stage(stage.folder, stage.settings, stage.fingerprint)
                is_redone = _has_other_data(stage, data)
            except SettingsChanged:
                is_redone = True
        if is_redone:
            found.append(stage)
    return found


def begin_redo(out: Path, redo: Sequence[str], again: list[Stage], stages: list[Stage], digest: str) -> Path | None:
    """Move what is to be made anew to `replaced/N`; the new place, if there was anything.

    The folders of `again` move, with results and report, which were gathered from them, and trainings of arms that
    the recipe no longer names. log/redo.json remembers it all: a call that is interrupted goes on with it.
    """
    paths = [stage.folder for stage in again if stage.folder.is_dir()]
    if paths:
        named = {stage.folder for stage in stages}
        paths += sorted(path for path in out.glob("segmenter-*/seed-*") if path.is_dir() and path not in named)
        paths += [out / name for name in (RESULTS, "report.md", "report.html") if (out / name).is_file()]
    if "evaluate" in redo:
        paths += sorted(out.glob(f"segmenter-*/seed-*/{SCORES}"))
    place = out / "replaced" / str(len(list((out / "replaced").glob("*"))) + 1)
    entry = {"redo": sorted(redo), "recipe_hash": digest, "place": str(place.relative_to(out)), "is_moved": False}
    write_json(out / REDO, entry | {"paths": [str(path.relative_to(out)) for path in paths]})
    finish_moves(out)
    return place if paths else None


def finish_moves(out: Path) -> dict | None:
    """What log/redo.json says of a redo that has begun, or None; its moves are finished if they were interrupted."""
    if not (out / REDO).is_file():
        return None
    entry = json.loads((out / REDO).read_text())
    if not entry["is_moved"]:
        for name in (*entry["paths"], entry["place"]):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{out / REDO} names {name!r}, which is not in the run folder; remove that file.")
        for name in entry["paths"]:
            if (out / name).exists():
                target = out / entry["place"] / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(out / name, target)
        entry["is_moved"] = True
        write_json(out / REDO, entry)
    return entry


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
        redo: kinds of stages to make anew, with all that read them; their folders move to `replaced/`. The same
            call again, after an interruption, goes on with it.
        command (`str`): what the user called, for markers, results and cards, which are published: `public_command`.
        say: told in a line what begins, what is kept, and what a stage took.

    Raises: see `lock_run` and `check_stages`, and what a stage raises; the run can then be called again.
    """
    out = Path(out)
    with lock_run(out) as lock:
        _run_stages(recipe, out, kinds, redo, command, say, lock)


def _run_stages(recipe, out, kinds, redo, command, say, lock) -> None:
    stages = list_stages(recipe, out)

    def tell(line: str) -> None:
        (out / "log").mkdir(parents=True, exist_ok=True)
        with open(out / "log" / "run.log", "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        say(line)

    begun, digest = finish_moves(out), recipe_hash(recipe)
    goes_on = begun is not None and (begun["redo"], begun["recipe_hash"]) == (sorted(redo), digest)
    makes = any(stage.kind in kinds for stage in stages)
    data = data_digest(recipe, load_train_records(recipe)) if makes else None
    again = [] if goes_on else list_redone(stages, redo, data)
    check_stages(stages, kinds, again, data)
    if any(stage.kind in kinds and (not stage.is_done or stage in again) for stage in stages):
        counts = check_run(recipe, out)
        tests = ", ".join(f"{number} {split}" for split, number in counts["tests"].items())
        tell(f"Checked: {counts['records']} records with {counts['labels']} labels; test records: {tests}")
        for warning in counts["warnings"]:
            tell(f"warning: {warning}")
    if redo and not goes_on and (place := begin_redo(out, redo, again, stages, digest)):
        tell(f"The earlier results of {', '.join(redo)} and of what reads them are in {place}.")
    save_recipe(recipe, out / "recipe.yaml")
    if command:
        tell(f"$ {command}")
    together = functools.partial(work_together, recipe=recipe, out=out, command=command, lock=lock, tell=tell)
    chosen = choose_stages(stages, kinds)
    for stage in [stage for stage in chosen if stage.is_done]:
        tell(f"{stage.name}: kept, it is finished")
    pending = [stage for stage in chosen if not stage.is_done]
    if recipe.evaluation.jobs > 1:
        together("make", stages=pending)
    else:
        for stage in pending:
            tell(begins(stage))
            tell(make_stage(stage, command, data))
    if "evaluate" in kinds:
        tests = {split: load_test_records(recipe, split) for split in recipe.data.test_splits}
        finished = [stage for stage in stages if stage.kind == "segmenter" and stage.is_done]
        missing = [stage.name for stage in stages if stage.kind == "segmenter" and not stage.is_done]
        if not finished:
            raise ValueError(f"{out} has no finished segmenter to score; run the stage segmenter first.")
        if missing:
            tell(f"evaluate: not trained yet, hence not scored: {', '.join(missing)}")
        digests = {split: data_digest(recipe, records) for split, records in tests.items()}

        def score_all(pending):
            folders = [segmenter.folder for segmenter in pending]
            together("score", stages=[stage for stage in finished if stage.folder in folders])

        segmenters = [segmenter_of(stage) for stage in finished]
        scorer = score_all if recipe.evaluation.jobs > 1 else None
        evaluate_arms(recipe, out, segmenters, tests, digests, command, tell, scorer)
    write_cards(out)
    if "report" in kinds:
        write_report(out)
        tell(f"report: {out / 'report.html'}")
    if redo or all(stage.is_done for stage in stages):
        (out / REDO).unlink(missing_ok=True)
