"""Real records: looked through, and captioned."""

from pathlib import Path
from typing import Annotated

import typer

from ..process.quiet import quiet_libraries
from .app import WrongArguments, command, dumps, say
from .options import Debug, Json, Splits, reads_source


@command
@reads_source
def doctor(
    source: Annotated[str, typer.Argument(help="Folder, Hub id or `scenes`.")],
    split: Splits = None,
    unlabelled: Annotated[
        str | None,
        typer.Option("--unlabelled", help="Look through images without masks too: a folder, a split or a Hub id."),
    ] = None,
    fix: Annotated[Path | None, typer.Option("--fix", help="Write a clean copy into this new folder.")] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option("--value-range", help="Of images with more than 8 bits: what becomes black and white there."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Read a data set and say what is wrong with it; exit status 1 if something keeps it from being used."""
    quiet_libraries()
    from ..data.doctor import check_output_dir, examine
    from ..data.doctor import fix as write_clean_copy

    if value_range is not None and (fix is None or not value_range[0] < value_range[1]):
        raise WrongArguments("--value-range LOW HIGH goes with --fix FOLDER, and LOW is below HIGH.")
    if fix is not None:
        check_output_dir(source, fix)
    found = examine(source, split or None, unlabelled, **reading)
    print(dumps(found.to_dict()) if json else found.to_text())
    if fix is not None:
        copy = write_clean_copy(source, fix, split or None, value_range, **reading)
        written = ", ".join(f"{number} records of {name}" for name, number in copy.written.items())
        say(f"The clean copy is in {copy.folder}: {written}; {len(copy.left_out)} left out")
    elif found.problems:
        raise typer.Exit(1)


@command
@reads_source
def caption(
    source: Annotated[str, typer.Argument(help="Folder, Hub id or `scenes`.")],
    out: Annotated[Path, typer.Argument(help="Folder for the records with captions (a `datasets` folder).")],
    split: Annotated[str, typer.Option("--split", help="Split to caption.")] = "train",
    captioner: Annotated[
        str, typer.Option("--captioner", help="`template`, or a captioning model's id.")
    ] = "template",
    prompt: Annotated[str | None, typer.Option("--prompt", help="Question asked of a chat-style model.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images captioned at once.")] = 8,
    recaption: Annotated[bool, typer.Option("--recaption", help="Replace captions that are there.")] = False,
    json: Json = False,
    debug: Debug = False,
    *,
    reading: dict,
):
    """Write the records of a data set with captions; interrupted, it goes on where it was."""
    quiet_libraries()
    from ..config import CaptionConfig
    from ..data.captions import write_captions
    from ..data.sources.load import load_records
    from ..storage.folders import CAPTIONS, check_folder, claim_folder, hold_folder

    config = CaptionConfig(
        captioner=captioner, caption_prompt=prompt, caption_batch_size=batch_size, recaption=recaption
    )
    if (out / "state.json").is_file():
        raise ValueError(f"{out} holds records already; name another folder.")
    check_folder(out, CAPTIONS)
    records = load_records(source, split, **reading)
    claim_folder(out, CAPTIONS)
    with hold_folder(out, CAPTIONS):
        captioned = write_captions(records, config, out)
    say(f"{len(captioned)} records with captions are in {out}")
    if json:
        captions = dict(zip(captioned["image_id"], captioned["caption"], strict=True))
        print(dumps({"records": len(captioned), "captions": captions}))
