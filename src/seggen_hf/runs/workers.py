"""Several stages of a run at once, each in a process of its own with a share of the machine.

A small model does not keep many CPU threads busy, nor one of several GPUs the others: on two cores, two trainings with
a thread each make half as many steps again as one after the other with two.
"""

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TextIO

import torch

from ..config import Recipe
from ..process.quiet import quiet_libraries
from ..process.stopping import GOES_ON, exit_status, termination_raises
from .folder import RunFolder
from .makers import begins, make_stage
from .records import data_digest, load_test_records, source_digests
from .scores import list_sources, score_splits
from .stages import Stage, list_stages, segmenter_of


def work_together(
    job: str,
    recipe: Recipe,
    run: RunFolder,
    stages: Sequence[Stage],
    command: str | None,
    lock: int,
    tell: Callable[[str], None],
) -> None:
    """Do `job` for each of `stages` of a run, `evaluation.jobs` at a time; what a stage reads comes before it.

    Args:
        job: `make` a stage, or `score` the segmenter that it has made on the test splits.
        command: what the user typed, for the markers.
        lock: file descriptor of the run folder's lock, which each process keeps until it ends.
    Raises: `ValueError` with what the first that failed said; the others are asked to stop, and go on with the next
    call where they are. After Ctrl-C or SIGTERM, which they are told too, `KeyboardInterrupt`; at Ctrl-C
    after that they end at once.
    """
    waiting, running, count = list(stages), {}, recipe.evaluation.jobs
    try:
        while waiting or running:
            unmade = [*waiting, *(stage for stage, _ in running.values())] if job == "make" else []
            ready = [stage for stage in waiting if not {*stage.inputs, *stage.after}.intersection(unmade)]
            share = min(count, len(running) + len(ready))  # one that is alone has the whole machine
            for stage in ready[: count - len(running)]:
                waiting.remove(stage)
                if job == "make":
                    tell(begins(stage))
                place = min(set(range(count)) - running.keys())
                running[place] = stage, _begin(job, run, stage.name, place, share, command, lock)
            time.sleep(0.2)
            for place in [place for place, (_, process) in running.items() if process.poll() is not None]:
                stage, process = running.pop(place)
                said = process.stdout.read().strip()
                if process.returncode != 0:
                    raise ValueError(said or f"{stage.name} ended with status {process.returncode}.")
                for line in said.splitlines():
                    tell(line)
    finally:
        try:
            _stop([process for _, process in running.values()])
        finally:
            for _, process in running.values():
                process.kill()


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Have `processes` write checkpoints and end."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.communicate()


def _begin(job: str, run: RunFolder, name: str, place: int, share: int, command: str | None, lock: int):
    threads = max(1, torch.get_num_threads() // share)
    # Each has its bar of progress below the others'.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_POSITION": str(place)}
    # At its first import transformers warns of image processors that nothing here uses: before anybody could ask it
    # to be quiet.
    environment.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if (gpus := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[place % len(visible)]
    # -P: the user's folder may hold a module called `datasets`.
    words = [
        sys.executable,
        "-P",
        "-m",
        "seggen_hf.runs.workers",
        str(os.getpid()),
        job,
        str(run),
        name,
        command or "",
    ]
    # A group of its own: Ctrl-C in a terminal reaches this process alone, which passes it on once.
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, text=True, pass_fds=[lock], process_group=0
    )


def main(parent: str, job: str, out: str, name: str, command: str) -> int:
    """One of the processes; what it has to say to the one that began it goes to stdout, and nothing else does."""
    threading.Thread(target=_end_with, args=[int(parent)], daemon=True).start()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    quiet_libraries()
    try:
        with termination_raises():
            _work(job, out, name, command, answer)
    except KeyboardInterrupt as stop:
        print(f"{name}: {str(stop) or GOES_ON}", file=answer)
        return exit_status(stop)
    except Exception as error:  # told by the process that waits for this one
        reason = " ".join(str(error).split())
        if not isinstance(error, (ValueError, OSError, FloatingPointError)):
            traceback.print_exc()  # to stderr: the line alone would not say where
            reason = f"{type(error).__name__}: {reason}"
        print(f"{name}: {reason}", file=answer)
        return 1
    finally:
        answer.flush()
    return 0


def _work(job: str, out: str, name: str, command: str, answer: TextIO) -> None:
    run = RunFolder(out)
    recipe = run.recipe()
    (stage,) = (stage for stage in list_stages(recipe, run) if stage.name == name)
    if job == "make":
        data = None if stage.inputs else source_digests(recipe)
        print(make_stage(stage, recipe, run, command or None, data), file=answer)
    else:
        tests = {split: load_test_records(recipe, split) for split in recipe.data.test_splits}
        digests = {split: data_digest(recipe, records) for split, records in tests.items()}
        score_splits(segmenter_of(stage), tests, list_sources(recipe, tests, digests), recipe, command or None)


def _end_with(parent: int) -> None:
    """A training must not outlive the run that wants it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
