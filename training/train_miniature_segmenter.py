# /// script
# requires-python = ">=3.11"
# dependencies = ["seggen_hf @ git+https://github.com/seggen/seggen_hf"]
# ///
"""Train the miniature segmenter that ships with the package: `python training/train_miniature_segmenter.py`

A Mask2Former of the size `miniature` learns panoptic segmentation of rendered scenes, and is copied in fp16 into the
package with its figures and its card; `segmenter.model: miniature-scenes` names it. It stands for the segmenters that
others trained on COCO: other data is learnt faster from it than from random weights. A quarter of an hour on one core
of a CPU; a killed training goes on where it was.
"""

import argparse
import shutil
from pathlib import Path

import torch
from huggingface_hub import ModelCardData
from transformers import Mask2FormerForUniversalSegmentation

from seggen_hf.config import SegmenterConfig
from seggen_hf.data.scenes.records import scene_records
from seggen_hf.data.schema import labels_of
from seggen_hf.provenance import library_versions
from seggen_hf.runs.cards import fill_card, write_card
from seggen_hf.segmenter.build import load_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.segmenter.sizes import resolve_segmenter
from seggen_hf.storage.files import replace_folder
from seggen_hf.trainers.loop import train
from seggen_hf.trainers.segmenter import SegmenterTask

NAME = "miniature-scenes"
NUM_RECORDS = 2_000
QUERIES = 24
SHOWN = ("PQ", "PQ_things", "PQ_stuff", "AP", "mIoU")


def build_config(output: Path, steps: int) -> SegmenterConfig:
    return SegmenterConfig(
        output_dir=str(output),
        model="miniature",
        num_queries=QUERIES,
        max_train_steps=steps,
        learning_rate=2e-3,
        lr_warmup_steps=50,
        backbone_lr_multiplier=1.0,
        max_grad_norm=1.0,
        crop_height=64,
        crop_width=64,
        min_scale=0.8,
        max_scale=1.25,
        checkpointing_steps=500,
    )


def ship(trained: Path, target: Path, steps: int) -> None:
    """Copy the weights in fp16, score them on scenes, and write both as one folder, swapped in whole."""
    model = Mask2FormerForUniversalSegmentation.from_pretrained(trained, use_safetensors=True, dtype=torch.float16)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        for name in ("preprocessor_config.json", "id2label.json", "labels.json"):
            shutil.copyfile(trained / name, folder / name)
        records = scene_records("test")
        scores = evaluate_segmenter(*load_segmenter(folder, labels_of(records)), records, task="panoptic")
        facts = {"scores": {name: scores[name] for name in SHOWN}, "num_images": len(records), "steps": steps}
        facts |= {"num_records": NUM_RECORDS, "batch_size": SegmenterConfig.train_batch_size}
        facts |= {"parameters": model.num_parameters(), "versions": library_versions()}
        data = ModelCardData(library_name="transformers", license="apache-2.0", tags=["seggen"])
        write_card(folder, fill_card("miniature_segmenter", facts, data.to_yaml()))

    replace_folder(target, save)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/miniature-segmenter"))
    parser.add_argument("--target", type=Path, default=Path(resolve_segmenter(NAME)), help="where it is shipped to")
    parser.add_argument("--max_train_steps", type=int, default=6_000)
    arguments = parser.parse_args(argv)
    config = build_config(arguments.output_dir, arguments.max_train_steps)
    records = scene_records("train", num_records=NUM_RECORDS)
    task = SegmenterTask.from_config(config, records, labels_of(records), task="panoptic")
    ship(train(task, config).folder, arguments.target, arguments.max_train_steps)


if __name__ == "__main__":
    main()
