"""The whole loop of a recipe, or one training of it."""

from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps, say
from .beginning import recipe_of_folder
from .options import Debug, Json, Out, Preset, Recipe, Redo, Settings
from .planning import show_plan
from .settings import is_folder_of_data, read_recipe, shown_recipe, with_preset


@command
def quickstart(
    settings: Settings = None, out: Out = None, redo: Redo = None, json: Json = False, debug: Debug = False
):
    """The whole loop on the built-in scenes, on a CPU, in minutes: ends with a table and a report."""
    start_run("quickstart", settings, out, redo=redo, as_json=json, called=["quickstart"])


@command
def run(
    recipe: Recipe,
    settings: Settings = None,
    preset: Preset = None,
    out: Out = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Run just this stage. Repeat it for more.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="First stage to run.")] = None,
    last: Annotated[str | None, typer.Option("--until", help="Last stage to run.")] = None,
    redo: Redo = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what `seggen plan` prints, and stop.")] = False,
    json: Json = False,
    debug: Debug = False,
):
    """The whole loop of a recipe; each finished stage is kept and skipped on the next call.

    Stages: caption, adapt (with data.unlabelled), text2mask, mask2img, synthesize, filter (for arm filtered), pseudo
    (for arm self-training), segmenter (every arm and seed), evaluate, report.

    A folder of data stands for a recipe that fits it: runs/NAME.yaml, which `seggen init` writes if it is not there.
    """
    if is_folder_of_data(recipe):
        recipe = str(recipe_of_folder(recipe, preset, settings))
    settings = with_preset(settings, preset)
    if dry_run:
        show_plan(recipe, settings, as_json=json)
    else:
        start_run(recipe, settings, out, only, first, last, redo, json)


@command
def train(
    what: Annotated[str, typer.Argument(help="adapt, text2mask, mask2img or segmenter (every arm and seed).")],
    recipe: Recipe,
    settings: Settings = None,
    preset: Preset = None,
    out: Out = None,
    redo: Redo = None,
    debug: Debug = False,
):
    """One training of a recipe, and what it reads if that is not made yet. `training/*.py` train on several GPUs."""
    if what not in ("adapt", "text2mask", "mask2img", "segmenter"):
        raise WrongArguments(f"There is no training {what!r}; there are adapt, text2mask, mask2img and segmenter.")
    settings = with_preset(settings, preset)
    start_run(recipe, settings, out, only=[what], redo=redo, called=["train", what, shown_recipe(recipe)])


def start_run(recipe, settings, out, only=None, first=None, last=None, redo=None, as_json=False, called=None) -> None:
    """Run stages. `called`: the command's words, with which results and cards say what was called; `seggen run RECIPE`
    with the options that are given if absent."""
    loaded, folder = read_recipe(recipe, settings, out)
    quiet_libraries()
    from ..config import list_overridden
    from ..provenance import public_command
    from ..runs.folder import RunFolder
    from ..runs.results import read_results, results_table
    from ..runs.runner import run_stages, select_kinds

    try:
        kinds = select_kinds(only or (), first, last)
        select_kinds(redo or ())
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    options = [("--out", out), *(() if called else (("--only", name) for name in only or ()))]
    options += [("--from", first), ("--until", last), *(("--redo", name) for name in redo or ())]
    words = ["seggen", *(called or ["run", shown_recipe(recipe)])]
    command = public_command(*words, settings=list_overridden(loaded, settings or ()), options=options)
    run_stages(loaded, folder, kinds, redo or (), command=command, say=say)
    results = read_results(folder)
    if as_json:
        print(dumps({"run": str(folder), "results": results}))
    elif results and {"evaluate", "report"} & set(kinds):
        print(results_table(results))
        print(f"\n{results['verdict']}")
        if (page := RunFolder(folder).report).is_file():
            print(f"Report: {page}")
