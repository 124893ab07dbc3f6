"""`subprocess.Popen` of Python without its slowest imports: a process forked from one that has done them.

What is imported before the fork belongs to no Hugging Face library, and takes no setting from the environment: those
read theirs when they are imported, so each client still imports them itself, under its own HF_HOME, address and token.
"""

import atexit
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import types
from multiprocessing import get_context, set_start_method
from multiprocessing.reduction import DupFd
from pathlib import Path

PRELOADED = [
    "torch", "torch._dynamo", "torch.utils.data", "pandas", "pyarrow.dataset", "pyarrow.parquet", "scipy.ndimage",
    "scipy.optimize", "scipy.sparse", "PIL.Image", "aiohttp", "httpx", "httpx2", "fsspec", "jinja2", "yaml", "typer",
]  # fmt: skip
# Where a new interpreter looks for modules, its first place aside: the tests' own folders are none of a client's.
_PATH = subprocess.run(
    [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"], capture_output=True, text=True, check=True
).stdout.splitlines()


class ForkedPython:
    """A running `python ARGUMENTS`, with what `subprocess.Popen(..., stdout=PIPE, stderr=PIPE, text=True)` offers.

    Args:
        arguments: of the interpreter: `-c CODE`, `-m MODULE` or a file, and what is `sys.argv[1:]`.
        env, cwd: as of `Popen`.
    """

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: Path):
        self.args = [sys.executable, *arguments]
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        ends = DupFd(out_end), DupFd(err_end)
        self._process = context.Process(target=_run, args=(arguments, env, str(cwd), _PATH, *ends))
        self._process.start()
        os.close(out_end)
        os.close(err_end)
        self.pid, self.stdout, self.stderr = self._process.pid, open(out), open(err)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it prints from here on, once it has ended; the pipes are closed."""
        told: dict[str, str] = {}
        readers = [
            threading.Thread(target=lambda name=name: told.update({name: getattr(self, name).read()}))
            for name in ("stdout", "stderr")
            if not getattr(self, name).closed
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        self.stdout.close()
        self.stderr.close()
        return told.get("stdout", ""), told.get("stderr", "")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._process.pid or 0, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], env: dict[str, str], cwd: str, path: list[str], out, err) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for end, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (out.detach(), 1), (err.detach(), 2)):
        os.dup2(end, standard)
        os.close(end)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    set_start_method(None, force=True)  # of its own children: what a new interpreter would take
    os._exit(_status(arguments, path))


def _status(arguments: list[str], path: list[str]) -> int:
    """Run the program to its end, what it left to be done there included."""
    status = 0
    try:
        _execute(arguments, path)
    except SystemExit as stop:
        if stop.code is not None:
            status = stop.code if isinstance(stop.code, int) else 1
        if status != stop.code and stop.code is not None:
            print(stop.code, file=sys.stderr)
    except KeyboardInterrupt:
        status = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    if status == -signal.SIGINT:  # as a shell sees it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return status


def _execute(arguments: list[str], path: list[str]) -> None:
    first, *rest = arguments
    if first == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv, sys.path[:] = ["-c", *rest[1:]], ["", *path]
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif first == "-m":
        sys.argv, sys.path[:] = [rest[0], *rest[1:]], [os.getcwd(), *path]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:] = arguments, [str(Path(first).resolve().parent), *path]
        runpy.run_path(first, run_name="__main__")
