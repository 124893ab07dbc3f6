"""What a run will take, before it is begun."""

from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps, say
from .options import Debug, Json, Out, Preset, Recipe, Settings
from .settings import read_recipe, recipe_file, with_preset


@command
def plan(
    recipe: Recipe,
    settings: Settings = None,
    preset: Preset = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu", help="Card to plan for, such as rtx4090 or h100. Repeat it for more; several if absent."
        ),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Cards that work together.")] = 1,
    records: Annotated[
        int | None, typer.Option("--records", min=1, help="Real training records, where the data is not here.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a few steps of every stage here, with random weights.")
    ] = False,
    value: Annotated[
        bool, typer.Option("--value", help="Train on parts of the labels: is there anything to gain?")
    ] = False,
    samples: Annotated[
        bool, typer.Option("--samples", help="With --value: what the samples in the run folder bring, and how many.")
    ] = False,
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
):
    """What a run needs and takes: memory, disk, hours, and whether it fits a card; nothing is loaded or written.

    With --measure every stage is also run for a few steps on this machine: exit status 1 if one of them fails.

    With --value the segmenter is trained on a quarter, half and all of the labels, and for twice the steps, and scored
    on a fifth that is held out: what limits it, and the most that synthetic data can bring. With --samples it is
    trained with those in the run folder instead, a quarter and all of them, and in three shares. Only this writes,
    into the run folder, and what is done is kept.
    """
    if samples and not value:
        raise WrongArguments("--samples is asked together with --value.")
    if value:
        show_value(recipe, with_preset(settings, preset), out, samples, json)
        return
    show_plan(recipe, with_preset(settings, preset), gpu, processes, records, measure, json)


def show_value(recipe, settings, out, of_samples: bool, as_json: bool) -> None:
    loaded, folder = read_recipe(recipe, settings, out)
    quiet_libraries()
    if of_samples:
        from ..runs.value_of_samples import measure_samples as measure
    else:
        from ..runs.value import measure_value as measure

    found = measure(loaded, folder, say)
    print(dumps(found.to_dict()) if as_json else found.to_text())


def show_plan(recipe, settings, gpus=None, processes=1, num_records=None, measure=False, as_json=False) -> None:
    """Print the plan; exit status 1 if a stage that is measured fails."""
    try:
        from ..plan.gpus import choose_gpus

        cards = choose_gpus(gpus)
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    loaded, _ = read_recipe(recipe, settings, None)
    quiet_libraries()
    from ..config import preset_of
    from ..config.presets import MEMORY, preset_lines
    from ..runs.preflight import plan_run, preset_that_fits

    planned, labels = plan_run(loaded, processes, num_records)
    if preset := preset_of(recipe_file(recipe), settings or ()):
        planned.notes += [
            f"preset {preset}, which leaves a tenth of {MEMORY[preset]} GiB free with SDXL at 768 pixels:"
        ]
        planned.notes += [f"  {line}" for line in preset_lines(preset)]
    fitting = {
        name: preset_that_fits(recipe_file(recipe), settings or (), planned, labels, card) if gpus else None
        for name, card in cards.items()
    }
    if not as_json:
        print(planned.to_text(cards, fitting))
    measured = []
    if measure:
        from ..plan.measure import describe_machine, measure_run  # all trainings: seconds to import

        measured = measure_run(loaded, labels, planned, say)
    if as_json:
        found = planned.to_dict(cards, fitting)
        if measure:
            found |= {"machine": describe_machine(), "measured": [entry.to_dict() for entry in measured]}
        print(dumps(found))
    elif measured:
        print("\n".join(["", *(entry.to_text() for entry in measured)]))
    if any(entry.failure is not None or not entry.is_finite for entry in measured):
        raise typer.Exit(1)
