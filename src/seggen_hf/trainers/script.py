"""What the generators' scripts have in common: flags in, records, captions, task, loop, exit status."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset

from ..config import CaptionConfig, DataConfig, GeneratorConfig, parse_or_exit
from ..data.captions import TEMPLATE, add_captions
from ..data.schema import labels_of
from ..data.sources.streamed import StreamedRecords, read_split
from ..process.quiet import quiet_libraries
from ..process.stopping import GOES_ON, exit_status, termination_raises
from ..storage.folders import TRAINING, check_folder, claim_folder
from .generator import build_panoptic_codec
from .loop import Run, build_accelerator, train


def run_script(config_class, task_class, plan, argv: list[str] | None = None) -> int:
    """Parse the command line and train `task_class`, or print `plan(config, num_records, processes)` with `--dry_run`.

    Returns: the exit status, see `told_in_a_line`. Wrong arguments exit with 2.
    """
    config, data, caption = parse_or_exit(config_class, DataConfig, CaptionConfig, argv=argv)

    def run() -> None:
        if config.dry_run:
            processes = int(os.environ.get("WORLD_SIZE", 1))
            text = plan(config, data.max_train_records, processes).to_text()
            if os.environ.get("RANK", "0") == "0":
                print(text)
        else:
            train_generator(task_class, config, data, caption)

    return told_in_a_line(run)


def told_in_a_line(run: Callable[[], None]) -> int:
    """Call `run`; its exit status, with a line on stderr where that is not 0: 1 for what goes wrong in use, 130 after
    Ctrl-C and 143 after SIGTERM, which the first process tells."""
    quiet_libraries()
    try:
        with termination_raises():
            run()
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {str(stop) or GOES_ON}", file=sys.stderr)
        return exit_status(stop)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train_generator(task_class, config: GeneratorConfig, data: DataConfig, caption: CaptionConfig) -> Run:
    """Load the training records, caption those that have no caption, and train. Collective."""
    accelerator = build_accelerator(config)
    check_folder(config.output_dir, TRAINING)  # before anything is read
    with accelerator.main_process_first():  # sources keep converted copies in a cache that the others then read
        records = read_split(data, data.train_split, data.max_train_records)
        records = _captioned(records, config, caption, accelerator.is_main_process)
    labels = labels_of(records)
    task = task_class.from_config(config, records, labels, panoptic_codec=build_panoptic_codec(data, labels))
    run = train(task, config, accelerator)
    accelerator.end_training()
    return run


def _captioned(
    records: Dataset | StreamedRecords, config: GeneratorConfig, caption: CaptionConfig, is_main: bool
) -> Dataset | StreamedRecords:
    """Captions of a model are kept beside the training: the main process makes them, others and later runs read."""
    if caption.captioner == TEMPLATE:
        return add_captions(records, labels_of(records), caption)
    claim_folder(config.output_dir, TRAINING, is_main)
    progress = Path(config.output_dir) / "captions.jsonl"
    return add_captions(records, labels_of(records), caption, progress_file=progress)
