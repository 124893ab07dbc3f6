"""A trained segmenter at work."""

from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import command, dumps, say
from .options import Debug, Json
from .settings import check_task, task_for


@command
def predict(
    segmenter: Annotated[str, typer.Argument(help="A trained segmenter (a folder with config.json), or a Hub id.")],
    images: Annotated[str, typer.Argument(help="A folder, an image, or a pattern in quotes such as 'frames/*.png'.")],
    out: Annotated[Path, typer.Argument(help="Folder for maps, overlays and predictions.json.")],
    task: Annotated[
        str | None,
        typer.Option("--task", help="semantic, panoptic or instance; that of the segmenter's run, else semantic."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per forward pass.")] = 8,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0.0, max=1.0, help="Instances with a smaller score are left out.")
    ] = 0.5,
    overlays: Annotated[bool, typer.Option(help="Write the images with their maps laid over them.")] = True,
    max_megapixels: Annotated[
        float | None, typer.Option("--max-megapixels", help="Of the largest picture to open; 179 if absent.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
):
    """Segment images: maps, overlays, and COCO JSON of segments or instances; a stopped call goes on where it was."""
    check_task(task)
    quiet_libraries()
    from ..runs.prediction import RESULT, predict_folder

    chosen = task_for(segmenter, task)
    found = predict_folder(segmenter, images, out, chosen, batch_size, min_score, overlays, max_megapixels, say)
    if json:
        facts = {"images": found.images, "kept": found.kept, "unreadable": found.unreadable, "task": chosen}
        print(dumps(facts | {"result": str(found.folder / RESULT)}))
    else:
        more = f"; {len(found.unreadable)} could not be read" if found.unreadable else ""
        print(f"{found.images} images in {found.folder}{more}")
