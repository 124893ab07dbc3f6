"""The demo in the browser."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, say
from .options import Debug, Settings
from .settings import synthesis_settings


@command
def demo(
    run: Annotated[Path | None, typer.Argument(help="A run folder; or name the models below.")] = None,
    text2mask: Annotated[str | None, typer.Option("--text2mask", help="Folder or Hub id of a Text2Mask.")] = None,
    mask2img: Annotated[str | None, typer.Option("--mask2img", help="The same of a Mask2Img pipeline.")] = None,
    segmenter: Annotated[str | None, typer.Option("--segmenter", help="The same of a trained Mask2Former.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for what you keep and reject; RUN/demo if not given.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", help="First free one from 7860 if not given.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A proxy's name for the page, let in too. Repeat it for more."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    settings: Settings = None,
    debug: Debug = False,
):
    """Caption, map, image in the browser; what you keep is training data. --set text2mask_steps=50 and the like."""
    from ..config import SynthesisConfig
    from ..config.values import build

    values, caption = {}, ""
    if run is not None:
        quiet_libraries()
        from ..demo.models import models_of_run

        config, found, caption = models_of_run(run)
        values, segmenter = dataclasses.asdict(config), segmenter or found
    values |= synthesis_settings(settings)
    values |= {name: model for name, model in (("text2mask_model", text2mask), ("mask2img_model", mask2img)) if model}
    for name in ("text2mask", "mask2img"):
        if not values.get(f"{name}_model"):
            where = f"{run} has no finished {name}; give" if run else "Give a run folder, or"
            raise WrongArguments(f"{where} --{name} with a folder or Hub id.")
    try:
        config = build(SynthesisConfig, values, "--set")
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    quiet_libraries()
    try:
        from ..demo.server import check_address, serve
    except ModuleNotFoundError as error:
        raise ValueError(f"The demo needs {error.name}: pip install 'seggen_hf[demo]'") from error
    from ..demo.models import load_models
    from ..runs.folder import RunFolder
    from ..storage.folders import DECISIONS, check_folder

    check_address(host, port)
    out = out or RunFolder(run or "runs").decisions
    check_folder(out, DECISIONS)
    serve(load_models(config, segmenter), out, host, port, caption, open_browser, say, allow_host or ())
