"""Several stages of a run at once, each in a process of its own with a share of the machine.

A small model does not keep many CPU threads busy, nor one of several GPUs the others: on two cores, two trainings with
a thread each make half as many steps again as one after the other with two.
"""

import functools
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

import torch
from tqdm.std import tqdm

from ..config import Recipe
from ..process.children import begin_child, child_context, start_child
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
                    tell(begins(stage, run))
                place = min(set(range(count)) - running.keys())
                running[place] = stage, _begin(job, run, stage.name, place, share, command, lock)
            time.sleep(0.2)
            for place in [place for place, (_, worker) in running.items() if worker.process.exitcode is not None]:
                stage, worker = running.pop(place)
                said, status = worker.said(), worker.process.exitcode
                if status != 0:
                    raise ValueError(said or f"{stage.name} ended with status {status}.")
                if said:
                    tell(said)
    finally:
        try:
            _stop([worker.process for _, worker in running.values()])
        finally:
            for _, worker in running.values():
                worker.process.kill()


def _stop(processes: Sequence[Any]) -> None:
    """Have `processes` write checkpoints and end."""
    while alive := [process for process in processes if process.is_alive()]:
        for process in alive:  # again: one that has just been forked does not listen yet
            process.terminate()
        alive[0].join(1)


@dataclass
class _Worker:
    """A process that does the work of a stage, and where it says at its end what came of it."""

    process: Any
    receiver: Any

    def said(self) -> str:
        return self.receiver.recv() if self.receiver.poll() else ""


def _begin(job: str, run: RunFolder, name: str, place: int, share: int, command: str | None, lock: int) -> _Worker:
    variables = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // share))}
    if (gpus := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        variables["CUDA_VISIBLE_DEVICES"] = visible[place % len(visible)]
    # On Windows nobody but the first process can have the lock.
    held = reduction.DupFd(lock) if hasattr(reduction, "DupFd") else None
    context = child_context(__name__)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(job, str(run), name, place, command, held, variables, sender))
    start_child(process, variables)
    sender.close()
    return _Worker(process, receiver)


def _run(
    job: str, out: str, name: str, place: int, command: str | None, held: Any, variables: dict[str, str], sender: Any
) -> None:
    """One of the processes; what it has to say to the one that began it goes to `sender`."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C in a terminal reaches the first process alone, which passes it on once
    begin_child(variables)
    # Each has its bar below the others'. TQDM_POSITION is read at tqdm's import, which was in another process.
    bars: Any = tqdm
    bars.__init__ = functools.partialmethod(bars.__init__, position=place)
    lock = held and held.detach()  # open until the end
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    os.dup2(2, 1)
    quiet_libraries()
    status, line = _answer(job, out, name, command)
    sender.send(line)
    if lock is not None:
        os.close(lock)
    raise SystemExit(status)


def _answer(job: str, out: str, name: str, command: str | None) -> tuple[int, str]:
    try:
        with termination_raises():
            return 0, _work(job, out, name, command)
    except KeyboardInterrupt as stop:
        return exit_status(stop), f"{name}: {str(stop) or GOES_ON}"
    except Exception as error:  # told by the process that waits for this one
        reason = " ".join(str(error).split())
        if not isinstance(error, (ValueError, OSError, FloatingPointError)):
            traceback.print_exc()  # to stderr: the line alone would not say where
            reason = f"{type(error).__name__}: {reason}"
        return 1, f"{name}: {reason}"


def _work(job: str, out: str, name: str, command: str | None) -> str:
    run = RunFolder(out)
    recipe = run.recipe()
    (stage,) = (stage for stage in list_stages(recipe, run) if stage.name == name)
    if job == "make":
        data = None if stage.inputs else source_digests(recipe)
        return make_stage(stage, recipe, run, command, data)
    tests = {split: load_test_records(recipe, split) for split in recipe.data.test_splits}
    digests = {split: data_digest(recipe, records) for split, records in tests.items()}
    score_splits(segmenter_of(stage), tests, list_sources(recipe, tests, digests), recipe, command)
    return ""


def _end_with_the_run() -> None:
    """A training must not outlive the run that wants it."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
