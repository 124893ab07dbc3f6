"""Train a segmenter (Mask2Former) on real records, synthetic records, or both, and score it on the test splits.

    accelerate launch training/train_seg.py --dataset_name ../shared/data/camvid --output_dir runs/camvid-real
    accelerate launch training/train_seg.py camvid_mini --synthetic_dataset runs/camvid/synthetic --p_aug 0.6
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 training/train_seg.py --output_dir runs/scenes  # gloo

An optional recipe comes first, then flags that override it; `--help` lists them. A killed run continues when called
again. The batch is --train_batch_size times the processes; one process with their joint batch has the same loss.
"""

import sys

import torch

from seggen_hf.config import DataConfig, EvaluationConfig, SegmenterConfig, parse_or_exit
from seggen_hf.data.schema import labels_of, write_json
from seggen_hf.data.sources import load_split
from seggen_hf.evaluation import evaluate_segmenter
from seggen_hf.segmenters import build_segmenter
from seggen_hf.synthesis import load_synthetic
from seggen_hf.trainers.loop import build_accelerator, train
from seggen_hf.trainers.segmenter import SegmenterTask


def main(argv: list[str] | None = None) -> None:
    config, data, evaluation = parse_or_exit(SegmenterConfig, DataConfig, EvaluationConfig, argv=argv)
    if config.synthetic_mode == "only" and not config.synthetic_dataset:
        print("error: --synthetic_mode is 'only' but no --synthetic_dataset is given.", file=sys.stderr)
        raise SystemExit(2)
    accelerator = build_accelerator(config)
    if warning := config.batch_warning(accelerator.num_processes):
        accelerator.print(f"warning: {warning}")
    with accelerator.main_process_first():  # sources keep converted copies in a cache that the others then read
        records = load_split(data, data.train_split, data.max_train_records)
        tests = {split: load_split(data, split, data.max_test_records) for split in data.test_splits}
    synthetic_records = load_synthetic(config.synthetic_dataset) if config.synthetic_dataset else None

    task = SegmenterTask.from_config(config, records, synthetic_records=synthetic_records)
    if config.dry_run:
        sizes = [sum(p.numel() for p in group["params"]) for group in task.parameter_groups()]
        accelerator.print(
            f"{sum(sizes):,} parameters train; weights, gradients and AdamW: {16 * sum(sizes) / 2**30:.2f} GiB"
        )
        return
    run = train(task, config, accelerator)

    # The saved model, not the trained one: it holds the averaged weights if there are any.
    model, processor = build_segmenter(run.folder, labels_of(records))
    model.to(accelerator.device)
    # Closing the trackers also closes the process group; the main process then scores alone.
    together = accelerator.num_processes == 1 or torch.distributed.is_initialized()
    if not together and not accelerator.is_main_process:
        return
    results = {}
    for split, rows in tests.items():
        results[split] = evaluate_segmenter(
            model,
            processor,
            rows,
            task=data.task,
            batch_size=evaluation.eval_batch_size,
            accelerator=accelerator if together else None,
        )
        accelerator.print(f"{split}: mIoU {results[split]['mIoU']} on {len(rows)} images")
    if accelerator.is_main_process:
        write_json(run.folder / "results.json", results)
    if together:
        accelerator.end_training()


if __name__ == "__main__":
    main()
