"""Write docs/walkthrough.md, from a folder of images and masks to a better segmenter, with what was really said and
seen: python benchmarks/write_walkthrough.py RUN

RUN is a finished run of the quickstart. Its data, the built-in scenes, is written as a folder that could be anybody's;
every command but the long one is called here, in a new folder, and what it prints stands on the page. What the long
one prints is read from the run's log.
"""

import argparse
import contextlib
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from seggen_hf.cli import app
from seggen_hf.config import SCENES
from seggen_hf.data.schema import labels_of, load_saved
from seggen_hf.pictures.cards import draw_legend
from seggen_hf.pictures.grid import lay_out
from seggen_hf.pictures.segments import paint_record
from seggen_hf.pictures.spacing import spread
from seggen_hf.pipelines import ColormapCodec
from seggen_hf.runs.folder import RunFolder
from seggen_hf.runs.report import write_report
from seggen_hf.runs.results import read_results, results_table
from seggen_hf.storage.files import save_image, write_text
from seggen_hf.trainers.script import told_in_a_line

DOCS = Path(__file__).parents[1] / "docs"
SHOWN, SIDE = 6, 160
MAX_IMAGES = 300  # that are predicted
LONGEST = 24  # lines of an answer
BAR = re.compile(r"\r?[A-Z][\w ]*: +\d+(%\|[^\r\n\]]*\]| examples [^\r\n\]]*\])")  # as it grows, one after the other


def call(*words: object, cwd: Path) -> str:
    """A command as it is typed, and what it says, as Markdown. Raises: `RuntimeError` with that if it fails."""
    typed = [str(word) for word in words]
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, typed, env={"COLUMNS": "100"})
    if done.exit_code:
        raise RuntimeError(f"seggen {' '.join(typed)}: {done.output}")
    lines = [line.rstrip() for line in BAR.sub("", done.output).strip().splitlines()]
    if len(lines) > LONGEST:
        lines = [*lines[: LONGEST - 4], "...", *lines[-3:]]
    return "\n".join(["```console", f"$ seggen {' '.join(typed)}", *lines, "```"])


def picture(rows: list[list[np.ndarray]], name: str, docs: Path, smooth: bool = True) -> str:
    """Rows of pictures of one height as a file of the page."""
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    cells = [[Image.fromarray(view).resize((SIDE, SIDE), resample) for view in row] for row in rows]
    save_image(lay_out(cells, 4), docs / "walkthrough" / f"{name}.png", optimize=True)
    return f"![{name.replace('-', ' ')}](walkthrough/{name}.png)"


def write_page(run: RunFolder, docs: Path) -> None:
    """The page and its pictures, in `docs`. Raises: `ValueError` for a run that is not finished, or of other data."""
    results = read_results(run)
    if results is None or run.recipe().data.dataset_name != SCENES:
        raise ValueError(f"{run} is no finished run of the built-in scenes.")
    (docs / "walkthrough").mkdir(parents=True, exist_ok=True)
    records = load_saved(run.captions)
    codec = ColormapCodec(labels_of(records))
    shown = [records[i] for i in spread(len(records), SHOWN)]
    data = [[np.asarray(row["image"]) for row in shown], [paint_record(row, codec) for row in shown]]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        call("doctor", SCENES, "--split", "train", "--split", "test", "--fix", "shapes", cwd=place)
        shutil.copytree(run, place / "runs" / "shapes", ignore=shutil.ignore_patterns("checkpoints", "cache", "log"))
        write_report(place / "runs" / "shapes")
        texts = {
            "doctor": call("doctor", "shapes", cwd=place),
            "init": call("init", "shapes", cwd=place),
            "status": call("status", "runs/shapes", cwd=place),
        }
        segmenter = "runs/shapes/segmenter-synthetic/seed-0"
        images = sorted((place / "shapes" / "images" / "test").iterdir())
        for path in images[MAX_IMAGES:]:
            path.unlink()
        texts["predict"] = call("predict", segmenter, "shapes/images/test", "predictions", cwd=place)
        texts["export"] = call("export", "runs/shapes", "drawn", "--format", "voc", "--with-real", cwd=place)
        overlays = sorted((place / "predictions" / "overlays").glob("*.jpg"))
        chosen = [overlays[i] for i in spread(len(overlays), SHOWN)]
        images = [next((place / "shapes" / "images" / "test").glob(f"{path.stem}.*")) for path in chosen]
        seen = [[np.asarray(Image.open(path).convert("RGB")) for path in paths] for paths in (images, chosen)]
        pictures = {"data": picture(data, "data", docs), "seen": picture(seen, "predictions", docs)}
        draw_legend(codec, docs / "walkthrough" / "legend.png")
        near = [
            [np.asarray(Image.open(place / f"runs/shapes/pictures/nearest-{kind}-{i}-{part}.png").convert("RGB"))
             for i in range(3) for part in ("made", "real")]
            for kind in (0, 2)
        ]  # fmt: skip
        pictures["near"] = picture(near, "nearest", docs)
    log = [line.split(" ", 2)[2] for line in run.log.read_text(encoding="utf-8").splitlines()]
    log = [line for line in log if "done in" in line or line.startswith(("stage ", "Checked"))]
    table = "\n".join(["```", results_table(results), "```"])
    write_text(docs / "walkthrough.md", PAGE.format(
        **texts, **{f"picture_{name}": text for name, text in pictures.items()}, table=table,
        log="\n".join(["```console", "$ seggen quickstart", *log, "```"]), verdict=results["verdict"],
        records=len(records),
    ))  # fmt: skip


PAGE = """<!-- written by benchmarks/write_walkthrough.py -->
# From your folder to a better segmenter

What is typed, said and seen on the way, with the built-in scenes written as a folder that could be yours. It is the
same way with photographs and SDXL on a GPU.

{picture_data}

![legend](walkthrough/legend.png)

## 1. Is the data sound?

{doctor}

## 2. A recipe that fits it

{init}

The recipe is a YAML file with a comment for each choice; [every setting](settings.md) can be changed.

## 3. The run

`seggen run shapes.yaml` makes captions, two generators, their samples, segmenters and scores. What follows is of the
[quickstart](quickstart.md), which learns from {records} of these pictures.

{log}

From another terminal:

{status}

## 4. What was made

![samples: caption, map, generated image](quickstart.png)

Are these copies of what the generators learnt from? The report looks for the real record that is nearest to each
sample. Here the nearest three of ImgSyn's images, then of MaskSyn's maps, each left of its real neighbor:

{picture_near}

## 5. Did it help?

{table}

> {verdict}

`runs/shapes/report.html` has the same by class and by picture, what was dropped and why, the settings, the cost, and
what to try next.

## 6. The segmenter at work

{predict}

{picture_seen}

## 7. Taking it along

{export}

`seggen export` writes the segmenter as ONNX too; `seggen push` publishes generators, segmenter and synthetic data.
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--docs", type=Path, default=DOCS)
    args = parser.parse_args(arguments)
    write_page(RunFolder(args.run), args.docs)


if __name__ == "__main__":
    raise SystemExit(told_in_a_line(main))
