"""Python processes that begin with the libraries imported, which takes longer than many a stage of a small run."""

import contextlib
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_SERVER = "seggen_hf.process.fork_server"


def child_context(*modules: str) -> Any:
    """Where `Process` and `Pipe` come from; children are forked from a process that has imported `modules`.

    Not where there is a GPU: diffusers looks for it when it is imported, and CUDA does not work in what is forked
    after that. Nor on other systems than Linux, whose own libraries do not bear it.
    """
    method = "forkserver" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"
    context: Any = multiprocessing.get_context(method)  # of several types, by the name of the method
    if method == "forkserver":
        context.set_forkserver_preload([_SERVER, *modules])
    return context


def start_child(process: Any, variables: Mapping[str, str] | None = None) -> None:
    """Start a `Process` of `child_context`, with more environment variables: a new interpreter imports with them.

    The user's script is not run anew: without a guard around its last lines it would begin once more in each child.
    Nor is a module that lies where the user stands taken for a library: their folder may hold a `datasets`.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        with _environment({"PYTHONSAFEPATH": "1"} | dict(variables or {})):
            process.start()
    finally:
        sys.modules["__main__"] = main


def begin_child(variables: Mapping[str, str] | None = None) -> None:
    """The first call in a child: the variables, and its own children start as anybody's do."""
    os.environ.update(variables or {})
    if threads := os.environ.get("OMP_NUM_THREADS"):  # read at torch's import, which was in another process
        torch.set_num_threads(int(threads))
    multiprocessing.set_start_method(None, force=True)
    if server := sys.modules.get(_SERVER):
        signal.signal(signal.SIGTERM, server.TERMINATION)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
