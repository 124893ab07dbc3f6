# /// script
# requires-python = ">=3.11"
# dependencies = ["seggen_hf @ git+https://github.com/seggen/seggen_hf"]
# ///
"""Train a segmenter (Mask2Former) on real records, synthetic records, or both, and score it on the test splits.

    accelerate launch training/train_seg.py --dataset_name ../shared/data/camvid --output_dir runs/camvid-real
    accelerate launch training/train_seg.py camvid_mini --synthetic_dataset runs/camvid/synthetic --p_aug 0.6
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 training/train_seg.py --output_dir runs/scenes  # gloo

An optional recipe comes first, then flags that override it; `--help` lists them. A killed run continues when called
again. The batch is --train_batch_size times the processes; one process with their joint batch has the same loss.
Scoring sees --train_batch_size images at once in each process. `--dry_run` prints sizes and memory; it loads nothing.
`--streaming` reads data sets on the Hub as they are needed; no shard is downloaded whole.
"""

import dataclasses
import os
import sys
from typing import Any

from seggen_hf.config import SCENES, DataConfig, SegmenterConfig, parse_or_exit
from seggen_hf.data.scenes.records import scene_labels
from seggen_hf.data.schema import labels_of
from seggen_hf.data.sources.layout import open_source
from seggen_hf.data.sources.map_decoder import read_label_file
from seggen_hf.data.sources.streamed import read_split
from seggen_hf.labels import LabelSet
from seggen_hf.networks.modules import move
from seggen_hf.plan.segmenter import plan_segmenter
from seggen_hf.segmenter.build import load_segmenter
from seggen_hf.segmenter.evaluation import evaluate_segmenter
from seggen_hf.storage.files import write_json
from seggen_hf.storage.folders import TRAINING, check_folder
from seggen_hf.synthesis import load_synthetic, stream_synthetic
from seggen_hf.tasks import TASKS
from seggen_hf.trainers.loop import build_accelerator, train
from seggen_hf.trainers.script import told_in_a_line
from seggen_hf.trainers.segmenter import SegmenterTask
from seggen_hf.trainers.trackers import report_scores


def main(argv: list[str] | None = None) -> int:
    """Train and score, or print the plan with `--dry_run`. Returns the exit status; wrong arguments exit with 2."""
    config, data = parse_or_exit(SegmenterConfig, DataConfig, argv=argv)
    if config.synthetic_mode == "only" and not config.synthetic_dataset:
        print("error: --synthetic_mode is 'only' but no --synthetic_dataset is given.", file=sys.stderr)
        raise SystemExit(2)

    def run() -> None:
        if config.dry_run:
            plan = plan_segmenter(config, _read_labels(data), int(os.environ.get("WORLD_SIZE", 1)))
            if os.environ.get("RANK", "0") == "0":
                print(plan.to_text())
        else:
            _train_and_score(config, data)

    return told_in_a_line(run)


def _read_labels(data: DataConfig) -> LabelSet:
    """The labels alone; no record is read."""
    if data.labels:
        return read_label_file(data.labels).labels
    if data.dataset_name == SCENES:
        return scene_labels()
    columns = (data.image_column, data.mask_column)
    more: dict[str, Any] = {"config_name": data.dataset_config_name, "revision": data.dataset_revision}
    more |= {name: getattr(data, name) for name in ("zero_is_void", "media_roots", "void_ids", "mask_suffix")}
    return open_source(data.dataset_name, data.train_split, *columns, **more).labels


def _train_and_score(config: SegmenterConfig, data: DataConfig) -> None:
    accelerator = build_accelerator(config)
    check_folder(config.output_dir, TRAINING)  # before anything is read
    if warning := config.batch_warning(accelerator.num_processes):
        accelerator.print(f"warning: {warning}")
    with accelerator.main_process_first():  # sources keep converted copies in a cache that the others then read
        records = read_split(data, data.train_split, data.max_train_records)
        whole = dataclasses.replace(data, tiles=1)
        tests = {split: read_split(whole, split, data.max_test_records) for split in data.test_splits}
    synthetic_records = None
    if config.synthetic_dataset:
        where: dict[str, Any] = {"revision": config.synthetic_revision, "config_name": config.synthetic_config_name}
        names = config.synthetic_dataset.split(",")
        is_streamed = data.streaming and not any(os.path.isdir(name.strip()) for name in names)
        synthetic_records = (stream_synthetic if is_streamed else load_synthetic)(config.synthetic_dataset, **where)

    how = {"task": data.task, "tiles": data.tiles}
    task = SegmenterTask.from_config(config, records, synthetic_records=synthetic_records, **how)
    run = train(task, config, accelerator)

    # The saved model, not the trained one: it holds the averaged weights if there are any.
    model, processor = load_segmenter(run.folder, labels_of(records))
    move(model, accelerator.device)
    results = {}
    for split, rows in tests.items():
        results[split] = evaluate_segmenter(
            model,
            processor,
            rows,
            task=data.task,
            batch_size=config.train_batch_size,
            accelerator=accelerator,
        )
        score = TASKS[data.task]
        accelerator.print(f"{split}: {score.metric_name} {results[split][score.metric]} on {len(rows)} images")
    if accelerator.is_main_process:
        write_json(run.folder / "results.json", results)
        for split, scores in results.items():
            report_scores(config.report_to, run.folder, split, scores, run.steps)
    accelerator.end_training()


if __name__ == "__main__":
    raise SystemExit(main())
