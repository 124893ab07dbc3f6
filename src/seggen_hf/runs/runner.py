"""A run: which stages a call is about, what is refused before it begins, and the stages one after the other."""

import functools
import logging
import os
from collections.abc import Callable, Sequence

from ..arms import check_arms
from ..config import Recipe, save_recipe
from .cards import write_cards
from .folder import RunFolder
from .lock import lock_run
from .log import RunLog
from .makers import begins, make_stage
from .preflight import check_run, plan_work
from .records import data_digest, load_test_records, source_digests
from .redo import begin_redo, finish_moves, has_other_data, list_redone
from .report import write_report
from .scores import evaluate_arms, recipe_hash
from .stage_marker import InputsChanged, SettingsChanged, check_stage
from .stages import STAGES, Segmenter, Stage, list_stages, segmenter_of
from .workers import work_together

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


def check_stages(stages: list[Stage], again: Sequence[Stage], data: dict[str, str] | None) -> None:
    """Refuse what cannot go on, before anything is written.

    Args:
        again: stages that will be made anew.
        data (`dict`): `source_digests` now; None leaves them unchecked.

    Raises: `ValueError` if a stage that is done, or begun, has other settings or other data now.
    """
    anew = {id(stage) for stage in again}
    changes = []
    for stage in stages:
        if id(stage) in anew:
            continue
        try:
            check_stage(stage.folder, stage.settings, stage.fingerprint)
        except SettingsChanged as error:
            changes.append((stage, error))
    if changes:
        # What only reads a changed stage is not worth a word of its own.
        changes = [c for c in changes if not isinstance(c[1], InputsChanged)] or changes
        reasons = " ".join(str(error) for _, error in changes)
        names = sorted({stage.kind for stage, _ in changes}, key=STAGES.index)
        flags = " ".join(f"--redo {name}" for name in names)
        raise SettingsChanged(f"{reasons} Use another --out, or {flags} to make anew what depends on it.")
    for stage in stages:
        if id(stage) not in anew and has_other_data(stage, data):
            raise SettingsChanged(
                f"The data has changed since {stage.folder} was made of it. Use another --out, or --redo caption to "
                "make anew what depends on it."
            )


def choose_stages(stages: list[Stage], kinds: Sequence[str]) -> list[Stage]:
    """Those of `kinds`, and before them what they read and nobody has made yet, in the order of the run."""
    chosen: list[Stage] = []
    wanted = [stage for stage in stages if stage.kind in kinds]
    while wanted:
        stage = wanted.pop()
        if stage in chosen:
            continue
        chosen.append(stage)
        if not stage.is_done:
            wanted += [needed for needed in (*stage.inputs, *stage.after) if not needed.is_done]
    return [stage for stage in stages if stage in chosen]


def run_stages(
    recipe: Recipe,
    out: str | os.PathLike,
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
    run = RunFolder(out)
    with lock_run(run) as lock:
        stages, log = list_stages(recipe, run), RunLog(run, say)
        data = _prepare(recipe, run, stages, kinds, redo, log.tell)
        with log.call():
            _make(recipe, run, stages, kinds, command, data, lock, log.tell)
        if redo or all(stage.is_done for stage in stages):
            run.redo.unlink(missing_ok=True)


def _make(
    recipe: Recipe,
    run: RunFolder,
    stages: list[Stage],
    kinds: Sequence[str],
    command: str | None,
    data: dict[str, str] | None,
    lock: int,
    tell: Callable[[str], None],
) -> None:
    """Make, score and report what is to be made; nothing refuses it any more."""
    save_recipe(recipe, run.recipe_file)
    if command:
        tell(f"$ {command}")
    together = functools.partial(work_together, recipe=recipe, run=run, command=command, lock=lock, tell=tell)
    chosen = choose_stages(stages, kinds)
    if brought := [stage.name for stage in chosen if stage.kind not in kinds]:
        tell(f"not made yet, and read by what was asked for: {', '.join(brought)}")
    for stage in [stage for stage in chosen if stage.is_done]:
        tell(f"{stage.name}: kept, it is finished")
    pending = [stage for stage in chosen if not stage.is_done]
    plan_work(recipe, run, pending)
    if recipe.evaluation.jobs > 1:
        together("make", stages=pending)
    else:
        for stage in pending:
            tell(begins(stage, run))
            tell(make_stage(stage, recipe, run, command, data))
    if "evaluate" in kinds:
        trainings = [stage for stage in stages if stage.kind == "segmenter"]
        _evaluate(recipe, run, trainings, command, tell, together if recipe.evaluation.jobs > 1 else None)
    write_cards(run)
    if "report" in kinds:
        write_report(run)
        tell(f"report: {run.report}")


def _prepare(
    recipe: Recipe,
    run: RunFolder,
    stages: list[Stage],
    kinds: Sequence[str],
    redo: Sequence[str],
    tell: Callable[[str], None],
) -> dict[str, str] | None:
    """Refuse what cannot be made, and set aside what is made anew; `source_digests`, if any source is read."""
    check_arms(recipe)
    begun, digest = finish_moves(run), recipe_hash(recipe)
    goes_on = begun is not None and (begun["redo"], begun["recipe_hash"]) == (sorted(redo), digest)
    chosen = choose_stages(stages, kinds)
    data = source_digests(recipe) if chosen else None
    again = [] if goes_on else list_redone(stages, redo, data)
    check_stages(stages, again, data)
    if any(not stage.is_done or stage in again for stage in chosen):
        counts = check_run(recipe, run)
        tests = ", ".join(f"{number} {split}" for split, number in counts["tests"].items())
        tell(f"Checked: {counts['records']} records with {counts['labels']} labels; test records: {tests}")
        for warning in counts["warnings"]:
            tell(f"warning: {warning}")
    if redo and not goes_on and (place := begin_redo(run, redo, again, stages, digest)):
        tell(f"The earlier results of {', '.join(redo)} and of what reads them are in {place}.")
    return data


def _evaluate(
    recipe: Recipe,
    run: RunFolder,
    trainings: list[Stage],
    command: str | None,
    tell: Callable[[str], None],
    together: Callable | None,
) -> None:
    """Score what is trained; `together`: `work_together` of this run, if several segmenters are scored at once."""
    tests = {split: load_test_records(recipe, split) for split in recipe.data.test_splits}
    finished = [stage for stage in trainings if stage.is_done]
    missing = [stage.name for stage in trainings if not stage.is_done]
    if not finished:
        raise ValueError(f"{run} has no finished segmenter to score; run the stage segmenter first.")
    if missing:
        tell(f"evaluate: not trained yet, hence not scored: {', '.join(missing)}")
    digests = {split: data_digest(recipe, records) for split, records in tests.items()}

    def score_all(pending: list[Segmenter]) -> None:
        assert together is not None
        folders = [segmenter.folder for segmenter in pending]
        together("score", stages=[stage for stage in finished if stage.folder in folders])

    segmenters = [segmenter_of(stage) for stage in finished]
    evaluate_arms(recipe, run, segmenters, tests, digests, command, tell, score_all if together else None)
