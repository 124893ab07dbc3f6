"""The way in: a recipe for a folder of data."""

from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps, say
from .options import Debug, Json, Preset, reads_source
from .settings import check_task


@command
@reads_source
def init(
    source: Annotated[str, typer.Argument(help="Folder of images and masks (any layout that is read), or a Hub id.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; NAME.yaml here if absent.")] = None,
    preset: Preset = None,
    base: Annotated[
        str | None, typer.Option("--base", help="sdxl or flux2 (FLUX.2-klein), on a card; sdxl if absent.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="semantic, panoptic or instance; by the data if absent.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Write a recipe that fits a data set: splits, sizes, steps and arms, each with its reason. Asks nothing."""
    from ..config.presets import PRESETS
    from ..runs.first_recipe import BASES

    check_task(task)
    if preset is not None and preset not in PRESETS:
        raise WrongArguments(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")
    if base is not None and base not in BASES:
        raise WrongArguments(f"There is no base {base!r}; there are {', '.join(BASES)}.")
    file, told = begin(source, out, preset, task, reading, base)
    if json:
        print(dumps({"recipe": str(file), "told": told}))
        return
    print("\n".join(told))
    print(f"Written to {file}. Next:")
    print(f"  seggen doctor {source}    # what is wrong with the data, before anything is trained")
    print(f"  seggen plan {file}    # memory, disk and hours, here or on a card")
    print(f"  seggen run {file}")


def begin(
    source: str,
    out: Path | None,
    preset: str | None,
    task: str | None = None,
    reading: dict | None = None,
    base: str | None = None,
) -> tuple[Path, list[str]]:
    """Write a recipe for `source`, and load it; its file, and what was chosen."""
    quiet_libraries()
    from ..config import load_recipe
    from ..runs.first_recipe import name_for, survey, write_first_recipe
    from ..storage.files import write_text

    name = name_for(source)
    file = out or Path(f"{name}.yaml")
    if file.exists():
        raise ValueError(f"{file} exists, and may hold what somebody wrote; name another with --out.")
    text, told = write_first_recipe(survey(source, task, reading), name, preset, base)
    write_text(file, text)
    load_recipe(file)
    return file, told


def recipe_of_folder(folder: str, preset: str | None, settings: list[str] | None = None) -> Path:
    """The recipe of a folder of data that is run without one: `runs/NAME.yaml`, written if it is not there.

    `settings` of section `data` say what the data is read for, and how.
    """
    from ..config import DataConfig, load_recipe
    from ..data.sources.split import reading_of
    from ..runs.first_recipe import name_for

    file = Path("runs") / f"{name_for(folder)}.yaml"
    if not file.is_file():
        given = [setting for setting in settings or () if setting.startswith("data.")]
        data = load_recipe("quickstart", given).data  # for its rules: its own data is not read
        usual = reading_of(DataConfig())
        reading = {name: value for name, value in reading_of(data).items() if value != usual[name]}
        is_told = any(setting.partition("=")[0] == "data.task" for setting in given)
        _, told = begin(folder, file, preset, data.task if is_told else None, reading)
        for line in told:
            say(line)
        say(
            f"the recipe is {file}: change it as you like, or write one for a card: seggen init {folder} --preset 24gb"
        )
    return file
