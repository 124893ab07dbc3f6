"""Measure what Mask2Img's ControlNet should be shown of a map: how well its images follow maps, for each condition.

    python benchmarks/measure_conditioning.py nuclei_mini --set data.dataset_name=FOLDER --output docs/conditioning.md
    python benchmarks/measure_conditioning.py quickstart --set data.task=panoptic

All on the training split: the generators learn from the recipe's records; a segmenter that learned from others is
the judge: its PQ on the images that were drawn for the maps of a third part, against those maps. Its PQ on the real
images of these maps is what a perfect generator gets.
"""

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from seggen_hf.config import Recipe, list_overridden, load_recipe
from seggen_hf.data.captions import add_captions
from seggen_hf.data.schema import (
    attach_labels,
    encode_image,
    encode_map,
    encode_panoptic,
    labels_of,
    read_image,
    read_panoptic,
    record_features,
)
from seggen_hf.data.sources.split import load_split
from seggen_hf.data.transforms import cover_crop
from seggen_hf.pictures.markdown import table
from seggen_hf.pictures.spacing import spread
from seggen_hf.pipelines import Mask2ImgPipeline
from seggen_hf.pipelines.seggen_choices import CONDITIONINGS
from seggen_hf.provenance import library_versions, public_command
from seggen_hf.runs.records import load_train_records
from seggen_hf.segmenter.build import load_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.segmenter.inference import without_windows
from seggen_hf.segments import label_map, measure_segments
from seggen_hf.storage.files import write_text
from seggen_hf.trainers.generator import build_panoptic_codec
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.mask2img import Mask2ImgTask
from seggen_hf.trainers.segmenter import SegmenterTask

BATCH = 16
TITLE = """# What Mask2Img should be shown of a map

`rgb` is the painted map alone (SegGen, arXiv:2311.03355); `rgb_edges` has a fourth channel with the borders of
segments; `bits` has that channel and, in the colors' place, the binary digits of the label (`mask2img.conditioning`).
Scores, %, are those of a judge that learned from other real images, on the images that were drawn for held-out maps,
against these maps.
"""
SHOWN_SCORES = ("PQ_things", "SQ_things", "RQ_things", "PQ_stuff", "AP", "mIoU")


def judged_records(records: Dataset, size: tuple[int, int], count: int) -> Dataset:
    """`count` records spread over `records`, as the generators' training sees them: they cover `size`, cropped."""
    labels, rows = labels_of(records), []
    for index in spread(len(records), count):
        row = records[index]
        image, panoptic_map, _ = cover_crop(read_image(row["image"]), read_panoptic(row["panoptic_map"]), size)
        segments = measure_segments(panoptic_map, row["segments_info"])
        rows.append(
            {
                "image": encode_image(image),
                "segmentation_map": encode_map(label_map(panoptic_map, segments, labels.ignore_index)),
                "panoptic_map": encode_panoptic(panoptic_map),
                "segments_info": segments,
                "caption": row.get("caption"),
                "image_id": row["image_id"],
            }
        )
    made = Dataset.from_list(rows, features=record_features(panoptic=True))
    return attach_labels(made, labels)


def other_records(recipe: Recipe, count: int) -> tuple[Dataset, Dataset]:
    """Up to `count` records behind those that the generators learn from, in two parts: seven eighths for the judge,
    and the rest, whose maps are drawn."""
    first, data = len(load_train_records(recipe)), recipe.data
    records = load_split(data, data.train_split, first + count)  # this counts images, of which tiles are cut
    records = records.select(range(first, min(len(records), first + count)))
    if len(records) < 16:
        raise SystemExit(f"error: {data.train_split} has {len(records)} records more than the recipe learns from.")
    border = len(records) * 7 // 8
    return records.select(range(border)), records.select(range(border, len(records)))


def train_judge(recipe: Recipe, records: Dataset, steps: int, folder: Path):
    config = dataclasses.replace(
        recipe.segmenter, output_dir=str(folder / "judge"), max_train_steps=steps, checkpointing_steps=0
    )
    task = SegmenterTask.from_config(config, records, labels_of(records), task="panoptic")
    model, processor = load_segmenter(train(task, config).folder, labels_of(records))
    return model.eval(), without_windows(processor)


def draw(folder: Path, recipe: Recipe, records: Dataset, seed: int) -> Dataset:
    """The records with images drawn for their maps, by the weights that a run would keep."""
    pipeline, synthesis, images = Mask2ImgPipeline.from_pretrained(folder), recipe.synthesis, []
    pipeline.set_progress_bar_config(disable=True)
    for start in tqdm(range(0, len(records), BATCH), "Drawing"):
        rows = [records[index] for index in range(start, min(start + BATCH, len(records)))]
        drawn = pipeline(
            [row["caption"] for row in rows],
            [read_panoptic(row["panoptic_map"]) for row in rows],
            segments_info=[row["segments_info"] for row in rows],
            num_inference_steps=synthesis.mask2img_steps,
            guidance_scale=synthesis.mask2img_guidance,
            generator=[torch.Generator().manual_seed(seed + start + place) for place in range(len(rows))],
            output_type="np",
        ).images
        images += [encode_image(np.rint(image * 255).astype(np.uint8)) for image in drawn]
    rows = [records[index] | {"image": image} for index, image in enumerate(images)]
    return attach_labels(Dataset.from_list(rows, features=records.features), labels_of(records))


def percent(scores: dict) -> list[str]:
    return [f"{100 * (scores[name] or 0.0):.1f}" for name in SHOWN_SCORES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe whose data has segments; its settings train generator and judge")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--conditionings", nargs="+", default=list(CONDITIONINGS), choices=CONDITIONINGS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the generators' trainings")
    parser.add_argument("--num_maps", type=int, default=192)
    parser.add_argument("--judge_steps", type=int, default=2000)
    parser.add_argument("--judge_records", type=int, default=6000)
    parser.add_argument("--output", default="docs/conditioning.md", help="a table is added to it")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.settings)
    if recipe.data.task == "semantic":
        parser.error("the judge scores segments; add --set data.task=panoptic")
    records = load_train_records(recipe)
    labels = labels_of(records)
    records = attach_labels(add_captions(records, labels, recipe.caption), labels)
    judged, held_out = other_records(recipe, arguments.judge_records)
    held_out = add_captions(held_out, labels, recipe.caption)
    held_out = judged_records(held_out, (recipe.data.height, recipe.data.width), arguments.num_maps)
    folder = Path(tempfile.mkdtemp(prefix="seggen-conditioning-"))
    try:
        judge = train_judge(recipe, judged, arguments.judge_steps, folder)

        def score(found: Dataset) -> list[str]:
            thresholds = (recipe.evaluation.object_threshold, recipe.evaluation.overlap_threshold)
            return percent(evaluate_segmenter(*judge, found, "panoptic", BATCH, labels=labels, thresholds=thresholds))

        rows = [["real images", "", *score(held_out)]]
        for conditioning in arguments.conditionings:
            for seed in arguments.seeds:
                config = dataclasses.replace(
                    recipe.mask2img,
                    output_dir=str(folder / f"{conditioning}-{seed}"),
                    conditioning=conditioning,
                    seed=seed,
                    checkpointing_steps=0,
                    num_validation_images=0,
                )
                task = Mask2ImgTask.from_config(config, records, labels, build_panoptic_codec(recipe.data, labels))
                run = train(task, config)
                rows.append([conditioning, str(seed), *score(draw(run.folder, recipe, held_out, 0))])
                print(rows[-1], flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    header = ["condition", "seed", *(name.replace("_", " ") for name in SHOWN_SCORES)]
    shown = ("conditionings", "seeds", "num_maps", "judge_steps", "judge_records")
    options = [(f"--{name}", getattr(arguments, name)) for name in shown]
    words = ["python", "benchmarks/measure_conditioning.py", Path(arguments.recipe).name]
    typed = public_command(*words, settings=list_overridden(recipe, arguments.settings), options=options)
    lines = [
        f"## {recipe.name}",
        "",
        *table(header, rows),
        "",
        f"{len(held_out)} maps of {recipe.data.train_split}; generators of {recipe.mask2img.max_train_steps} steps on "
        f"{len(records)} records; a judge of {arguments.judge_steps} steps on {len(judged)} others. Written by "
        f"`{typed}`; " + ", ".join(f"{name} {version}" for name, version in library_versions().items()),
        "",
    ]
    path = Path(arguments.output)
    before = path.read_text(encoding="utf-8") if path.is_file() else TITLE
    write_text(path, before + "\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
