"""Synthetic records outside a run: made with finished generators, and filtered."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps, say
from .loop import start_run
from .options import Debug, Json, Settings, reads_source
from .settings import synthesis_settings


@command
@reads_source
def synthesize(
    source: Annotated[str, typer.Argument(help="Real records with captions: folder, Hub id or `scenes`.")],
    out: Annotated[Path, typer.Argument(help="Folder for the synthetic records.")],
    mask2img: Annotated[str, typer.Option("--mask2img", help="Folder or Hub id of a Mask2Img pipeline.")],
    text2mask: Annotated[
        str | None, typer.Option("--text2mask", help="The same for Text2Mask; MaskSyn needs it.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of the real records.")] = "train",
    height: Annotated[int | None, typer.Option("--height", help="Height of the samples in pixels.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Width of the samples in pixels.")] = None,
    settings: Settings = None,
    json: Json = False,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Make synthetic records with finished generators. --set synthesis.imgsyn_variants=4 and the like."""
    from ..config import SynthesisConfig
    from ..config.values import build

    try:
        values = synthesis_settings(settings) | {"output_dir": str(out)}
        values |= {"mask2img_model": mask2img, "text2mask_model": text2mask}
        if text2mask is None:
            values.setdefault("masksyn_variants", 0)
        config = build(SynthesisConfig, values, "--set")
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    from ..storage.folders import SYNTHESIS, check_folder

    check_folder(out, SYNTHESIS)
    quiet_libraries()
    from seggen_hf.pipelines import Mask2ImgPipeline, Text2MaskPipeline

    from ..data.sources.load import load_records
    from ..storage.files import read_json
    from ..synthesis import synthesize as make_records
    from ..synthesis.engine import SUMMARY
    from ..synthesis.generators import open_pipeline

    made = make_records(
        load_records(source, split, **reading),
        out,
        config,
        mask2img=open_pipeline(Mask2ImgPipeline, mask2img, config),
        text2mask=open_pipeline(Text2MaskPipeline, text2mask, config) if text2mask else None,
        height=height,
        width=width,
        provenance={"data": source, "mask2img": mask2img} | ({"text2mask": text2mask} if text2mask else {}),
    )
    say(f"{len(made)} synthetic records are in {out}")
    if json:
        print(dumps(read_json(out / SUMMARY)))


@command
def filter(
    run: Annotated[Path, typer.Argument(help="A run folder with finished synthetic records and arm real.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for what is kept; RUN/filtered if absent.")] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="A pixel is void above this many times its label's mean loss.")
    ] = None,
    min_alignment: Annotated[
        float | None, typer.Option("--min-alignment", help="Drop records that keep less of their labelled pixels.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
):
    """Void what the segmenter of real records does not see in synthetic ones; arm `filtered` trains with the rest."""
    from ..runs.folder import RunFolder

    place = RunFolder(run)
    if not place.is_run:
        raise ValueError(f"{run} is no run folder (recipe.yaml).")
    recipe = place.recipe()
    given = {"tolerance": tolerance, "min_alignment": min_alignment}
    try:
        settings = dataclasses.replace(recipe.filter, **{k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        raise WrongArguments(str(error)) from error
    if "filtered" in recipe.evaluation.arms and settings == recipe.filter and out is None:
        start_run(str(run), [], None, only=["filter"])
        if json:
            from ..synthesis.agreement_filter import read_summary

            print(dumps(read_summary(place.filtered)))
        return
    quiet_libraries()
    from ..runs.lock import lock_run
    from ..runs.makers import filter_run
    from ..storage.folders import FILTERED, check_folder
    from ..synthesis.agreement_filter import read_summary

    folder = out or place.filtered
    check_folder(folder, FILTERED)
    with lock_run(run):
        kept = filter_run(dataclasses.replace(recipe, filter=settings), run, folder)
    summary = read_summary(folder)
    kept_share = summary["mean_alignment"]
    say(f"{len(kept)} records, of whose labelled pixels {kept_share:.1%} are kept, are in {folder}")
    if json:
        print(dumps(summary))
