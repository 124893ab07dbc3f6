"""The settings that a command runs with: a recipe, and what is laid over it."""

from pathlib import Path

from .app import WrongArguments


def recipe_file(recipe: str) -> str | Path:
    """What `load_recipe` takes: of a run folder its own recipe."""
    from ..runs.folder import RunFolder

    run = RunFolder(recipe)
    return run.recipe_file if run.is_run else recipe


def is_folder_of_data(recipe: str) -> bool:
    """Whether what stands for a recipe is a folder that is neither a run nor named like a built-in recipe."""
    from ..config.values import builtin_recipes

    return Path(recipe).is_dir() and recipe_file(recipe) == recipe and recipe not in builtin_recipes()


def read_recipe(recipe: str, settings: list[str] | None, out: Path | None):
    """The recipe and its run folder; a run folder stands for its own recipe."""
    from ..config import load_recipe

    folder, file = Path(recipe), recipe_file(recipe)
    try:
        loaded = load_recipe(file, settings or ())
        if file != recipe:
            return loaded, out or folder
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    return loaded, out or Path("runs") / loaded.name


def with_preset(settings: list[str] | None, preset: str | None) -> list[str]:
    return [*(settings or ()), *([f"preset={preset}"] if preset else ())]


def shown_recipe(recipe: str) -> str:
    """A recipe as cards name it: a file by its last part."""
    return Path(recipe).name if Path(recipe).is_file() else recipe


def check_task(task: str | None) -> None:
    """Raise `WrongArguments` for a task that there is not; None stands for one that is found."""
    from ..tasks import TASKS

    if task is not None and task not in TASKS:
        raise WrongArguments(f"There is no task {task!r}; there are {', '.join(TASKS)}.")


def task_for(segmenter: str | Path, task: str | None) -> str:
    """`task`, else that of the segmenter's run, else semantic."""
    recipe = recipe_of(Path(segmenter))
    return task or (recipe.data.task if recipe else "semantic")


def recipe_of(folder: Path):
    """The recipe of a run, also for a segmenter in the run; None for a segmenter that lies elsewhere."""
    from ..runs.folder import RunFolder

    runs = (RunFolder(folder), RunFolder(folder.resolve().parent.parent))
    return next((run.recipe() for run in runs if run.is_run), None)


def synthesis_settings(settings: list[str] | None) -> dict:
    """`synthesis.name=value` or `name=value`, the value in YAML."""
    from ..config.values import parse_value

    values = {}
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals:
            raise WrongArguments(f"--set {setting}: write name=value, such as imgsyn_variants=4.")
        values[name.strip().removeprefix("synthesis.")] = parse_value(text, f"--set {setting}")
    return values
