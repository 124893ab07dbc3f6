"""Scores of segmenters, and the report of a run."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps
from .loop import start_run
from .options import Debug, Json, Splits, reads_source
from .settings import check_task, recipe_of


@command
@reads_source
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, or one segmenter (a folder with config.json).")],
    source: Annotated[str | None, typer.Argument(help="Data to score on; a run's own test splits if absent.")] = None,
    split: Splits = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per forward pass.")] = 8,
    task: Annotated[
        str | None, typer.Option("--task", help="semantic, panoptic or instance; that of the run's recipe if absent.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Score a segmenter, or every segmenter of a run."""
    from ..runs.folder import RunFolder

    check_task(task)
    is_run = RunFolder(run).is_run
    if not is_run and not (run / "config.json").is_file():
        raise ValueError(f"{run} is neither a run folder (recipe.yaml) nor a segmenter (config.json).")
    if is_run and source is None:
        if split or task:
            name = "--split" if split else "--task"
            raise WrongArguments(f"{name} needs a SOURCE; a run is scored on its own test splits, by its own task.")
        start_run(str(run), [], None, only=["evaluate"], as_json=json)
        return
    if source is None:
        raise WrongArguments("A single segmenter needs a SOURCE to be scored on.")
    trained = [folder for folder in RunFolder(run).list_segmenters() if (folder / "config.json").is_file()]
    if is_run and not trained:
        raise ValueError(f"{run} has no finished segmenter.")
    _score_on(source, split or ["test"], trained if is_run else [run], recipe_of(run), batch_size, task, json, reading)


def _score_on(source, splits, folders, recipe, batch_size, task, as_json, reading) -> None:
    """Print the scores of the segmenters in `folders`; the run's recipe, if it is known, says how they are scored."""
    quiet_libraries()
    from ..config import EvaluationConfig
    from ..data.sources.load import load_records
    from ..runs.results import percent
    from ..runs.scores import score_folder
    from ..tasks import TASKS

    task = task or (recipe.data.task if recipe else "semantic")
    settings = dataclasses.replace(recipe.evaluation if recipe else EvaluationConfig(), eval_batch_size=batch_size)
    metric, metric_name = TASKS[task].metric, TASKS[task].metric_name
    rows = []
    for name in splits:
        records = load_records(source, name, **reading)
        for folder in folders:
            scores = score_folder(folder, records, settings, task)
            rows.append({"segmenter": str(folder), "dataset": source, "split": name} | scores)
            if not as_json:
                score = f"{metric_name} {percent(scores[metric])} %"
                print(f"{folder}  {source} ({name}, {scores['num_images']} images): {score}")
    if as_json:
        print(dumps(rows))
    else:
        print(rows[0]["protocol"])


@command
def status(run: Annotated[Path, typer.Argument(help="A run folder.")], json: Json = False, debug: Debug = False):
    """How far a run is: stages, steps, what is left, and whether a process works on it. Asked from any terminal."""
    from ..runs.status import read_status

    found = read_status(run)
    print(dumps(found.to_dict()) if json else found.to_text())


@command
def report(run: Annotated[Path, typer.Argument(help="A run folder.")], json: Json = False, debug: Debug = False):
    """Write report.md and report.html of a run folder, from what is finished there."""
    quiet_libraries()
    from ..runs.report import write_report

    written = write_report(run)
    if json:
        from ..runs.results import read_results

        print(dumps({"report": str(written)} | (read_results(run) or {})))
    else:
        print(written)
