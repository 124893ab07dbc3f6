"""What a run made, in the formats of others."""

import re
from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps
from .options import Debug, Json
from .settings import recipe_of


@command
def export(
    segmenter: Annotated[str, typer.Argument(help="A trained segmenter (a folder with config.json), or a Hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder for model.onnx, labels.json and a page on their use.")],
    size: Annotated[
        str, typer.Option("--size", help="HEIGHTxWIDTH of the images in pixels, multiples of 32.")
    ] = "512x512",
    task: Annotated[
        str | None,
        typer.Option("--task", help="semantic, panoptic or instance; that of the segmenter's run, else semantic."),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="onnx.")] = "onnx",
    json: Json = False,
    debug: Debug = False,
):
    """Export a segmenter to ONNX, and run it beside PyTorch on 20 images."""
    from ..tasks import TASKS

    if format != "onnx":
        raise WrongArguments(f"There is no format {format!r}; there is onnx.")
    if task is not None and task not in TASKS:
        raise WrongArguments(f"There is no task {task!r}; there are {', '.join(TASKS)}.")
    sides = re.fullmatch(r"(\d+)x(\d+)", size)
    if sides is None:
        raise WrongArguments(f"--size is {size!r}; write HEIGHTxWIDTH, such as 512x512.")
    quiet_libraries()
    from ..runs.onnx_export import MODEL, export_onnx

    recipe = recipe_of(Path(segmenter))
    chosen = task or (recipe.data.task if recipe else "semantic")
    facts = export_onnx(segmenter, out, (int(sides[1]), int(sides[2])), chosen)
    if json:
        print(dumps({"model": str(out / MODEL)} | facts))
    else:
        told = (
            f"{facts['equal_pixels']:.2%} of the pixels are equal to PyTorch's"
            if "equal_pixels" in facts
            else f"logits differ from PyTorch's by at most {facts['largest_difference']:.1e}"
        )
        print(f"{out / MODEL}: {chosen}, {size}; {told}")
