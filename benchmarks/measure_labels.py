"""Measure what more labelled images would bring: the recipe's segmenter trained on some and on many of them.

    python benchmarks/measure_labels.py nuclei_mini --set data.dataset_name=FOLDER --counts 40 300

All on the training split: the first images are learned from, the last ones are scored, whole. Synthetic data stands in
for labels that one lacks; where more real ones bring little, it cannot bring much. A table goes to docs/labels.md.
"""

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

from seggen_hf.config import list_overridden, load_recipe
from seggen_hf.data.schema import labels_of
from seggen_hf.data.sources.split import load_split
from seggen_hf.data.tiles import tile_records
from seggen_hf.pictures.markdown import table
from seggen_hf.provenance import library_versions, public_command
from seggen_hf.segmenter.build import load_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.storage.files import write_text
from seggen_hf.tasks import TASKS
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.segmenter import SegmenterTask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="its data and segmenter sections are used")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--counts", type=int, nargs="+", required=True, help="images learned from")
    parser.add_argument("--held_out", type=int, default=40, help="images scored, the split's last ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", default="docs/labels.md", help="a table is added to it")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.settings)
    data, evaluation, task = recipe.data, recipe.evaluation, TASKS[recipe.data.task]
    whole = load_split(dataclasses.replace(data, tiles=1), data.train_split, None)
    if max(arguments.counts) + arguments.held_out > len(whole):
        wanted = f"{max(arguments.counts)} to learn from and {arguments.held_out} to score"
        parser.error(f"{data.train_split} has {len(whole)} images, not {wanted}.")
    held_out = whole.select(range(len(whole) - arguments.held_out, len(whole)))
    names = [task.metric, *task.more]
    header = ["images", "seed", *(name.replace("_", " ") for name in names)]
    rows, folder = [], Path(tempfile.mkdtemp(prefix="seggen-labels-"))
    try:
        for count in arguments.counts:
            records = tile_records(whole.select(range(count)), data.tiles)
            for seed in arguments.seeds:
                config = dataclasses.replace(
                    recipe.segmenter, output_dir=str(folder / f"{count}-{seed}"), seed=seed, checkpointing_steps=0
                )
                learner = SegmenterTask.from_config(
                    config, records, labels_of(records), task=data.task, tiles=data.tiles
                )
                run = train(learner, config)
                scores = evaluate_segmenter(
                    *load_segmenter(run.folder, labels_of(records)),  # the weights that a run would keep
                    held_out,
                    data.task,
                    evaluation.eval_batch_size,
                    thresholds=(evaluation.object_threshold, evaluation.overlap_threshold),
                    max_detections=evaluation.max_detections,
                )
                rows.append([str(count), str(seed), *(f"{100 * (scores[name] or 0.0):.1f}" for name in names)])
                print(dict(zip(header, rows[-1], strict=True)), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options = [("--counts", arguments.counts), ("--held_out", arguments.held_out), ("--seeds", arguments.seeds)]
    words = ["python", "benchmarks/measure_labels.py", Path(arguments.recipe).name]
    typed = public_command(*words, settings=list_overridden(recipe, arguments.settings), options=options)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    lines = [
        f"## {recipe.name}",
        "",
        *table(header, rows),
        "",
        f"{recipe.segmenter.max_train_steps} steps on real images; {arguments.held_out} others of {data.train_split} "
        f"scored, whole. Written by `{typed}`; {versions}",
        "",
    ]
    path = Path(arguments.output)
    before = path.read_text(encoding="utf-8") if path.is_file() else "# What more labels would bring\n"
    write_text(path, before + "\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
