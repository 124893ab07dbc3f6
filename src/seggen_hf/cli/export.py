"""What a run made, in the formats of others."""

import re
from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps
from .options import Debug, Json
from .settings import check_task, task_for

DATA_FORMATS = ("folder", "coco", "coco-panoptic", "voc", "ultralytics", "cityscapes", "fiftyone")
ANY = "any"  # --size of a graph for images of any


def _export_data(what: str, out: Path, format: str, with_real: bool, as_json: bool) -> None:
    quiet_libraries()
    from ..runs.data_export import export_data

    counts = export_data(what, out, format, with_real)
    if as_json:
        print(dumps({"folder": str(out), "format": format} | counts))
    else:
        real = f" and {counts['real']} real" if with_real else ""
        print(f"{out}: {counts['synthetic']} synthetic{real} records as {format}")


@command
def export(
    what: Annotated[
        str, typer.Argument(help="A trained segmenter (folder or Hub id) for onnx; else a run, or its synthetic/.")
    ],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    size: Annotated[
        str, typer.Option("--size", help="HEIGHTxWIDTH of the images in pixels, multiples of 32; or any.")
    ] = "512x512",
    task: Annotated[
        str | None,
        typer.Option("--task", help="semantic, panoptic or instance; that of the segmenter's run, else semantic."),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help=f"onnx; or of the data: {', '.join(DATA_FORMATS)}.")
    ] = "onnx",
    with_real: Annotated[bool, typer.Option("--with-real", help="Of a run's data: the real records too.")] = False,
    json: Json = False,
    debug: Debug = False,
):
    """Export a segmenter to ONNX, run beside PyTorch on 20 images; or synthetic data as other trainers read it."""
    if format in DATA_FORMATS:
        _export_data(what, out, format, with_real, json)
        return
    if format != "onnx":
        raise WrongArguments(f"There is no format {format!r}; there are onnx, {', '.join(DATA_FORMATS)}.")
    check_task(task)
    sides = re.fullmatch(r"(\d+)x(\d+)", size)
    if sides is None and size != ANY:
        raise WrongArguments(f"--size is {size!r}; write HEIGHTxWIDTH, such as 512x512, or {ANY}.")
    quiet_libraries()
    from ..runs.onnx_export import MODEL, export_onnx

    chosen = task_for(what, task)
    facts = export_onnx(what, out, (int(sides[1]), int(sides[2])) if sides else None, chosen)
    if json:
        print(dumps({"model": str(out / MODEL)} | facts))
    else:
        told = (
            f"{facts['equal_pixels']:.2%} of the pixels are equal to PyTorch's"
            if "equal_pixels" in facts
            else f"logits differ from PyTorch's by at most {facts['largest_difference']:.1e}"
        )
        print(f"{out / MODEL}: {chosen}, {size if sides else 'any size'}; {told}")
