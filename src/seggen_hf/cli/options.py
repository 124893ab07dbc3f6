"""Arguments and options that several commands share."""

import functools
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

Recipe = Annotated[str, typer.Argument(help="A recipe file, the name of a built-in recipe, or a run folder.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, over the recipe. Repeat it for more.")
]
Preset = Annotated[
    str | None, typer.Option("--preset", help="Settings that fit a card: 12gb, 16gb, 24gb, 48gb or 80gb.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME if not given.")]
Redo = Annotated[
    list[str] | None, typer.Option("--redo", help="Make a stage anew, with all that reads it. Repeat it for more.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split to read. Repeat it for more.")]


# The options of every command that reads a SOURCE, under the names that load_records has for them.
READING = {
    "labels": (str | None, typer.Option(help="Label file, or ade20k, coco, cityscapes, voc; else the source has it.")),
    "image_column": (str | None, typer.Option("--image-column", "--image_column", help="Guessed if absent.")),
    "mask_column": (str | None, typer.Option("--mask-column", "--mask_column", help="Guessed if absent.")),
    "zero_is_void": (
        bool,
        typer.Option("--zero-is-void", "--zero_is_void", help="The masks hold ids 1..C, and 0 is void."),
    ),
    "void_ids": (
        list[int] | None,
        typer.Option("--void-ids", "--void_ids", help="Id in the masks that is void too. Repeat it for more."),
    ),
    "mask_suffix": (
        str | None,
        typer.Option("--mask-suffix", "--mask_suffix", help="After the image's name in its mask's, such as _mask."),
    ),
    "config_name": (str | None, typer.Option("--config-name", help="Config of a Hub data set with several.")),
    "revision": (str | None, typer.Option("--revision", help="Commit, tag or branch of a Hub data set.")),
    "media_roots": (
        list[str] | None,
        typer.Option(
            "--media-roots",
            "--media_roots",
            help="Folder beside the source that its files may lie in (links, COCO's file_name). Repeat it for more.",
        ),
    ),
    "max_megapixels": (
        float | None,
        typer.Option("--max-megapixels", "--max_megapixels", help="Of the largest picture to open; 179 if absent."),
    ),
}


def reads_source(function):
    """Add the options of `READING` to a command, which gets them as the dict `reading`."""

    @functools.wraps(function)
    def run(**arguments):
        reading = {name: arguments.pop(name) for name in READING}
        return function(**arguments, reading=reading)

    signature = inspect.signature(function)
    own = [parameter for name, parameter in signature.parameters.items() if name != "reading"]
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[kind, option],
        )
        for name, (kind, option) in READING.items()
    ]
    described: Any = run  # functions take any attribute, which types do not tell
    described.__signature__ = signature.replace(parameters=[*own, *added])
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    return run
