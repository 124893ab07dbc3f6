"""`subprocess.Popen` of Python without the imports, which take longer than most of what the tests have it do.

A process is forked from one that has imported the libraries, Hugging Face's too, under the settings that all clients
share (`SETTINGS`): those are read at the import. What differs from client to client, the folder of their cache above
all, is read later, or is relative to the client's own folder. seggen_hf itself each client imports for itself.
"""

import atexit
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Sequence
from multiprocessing import forkserver, get_context, set_start_method
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import TextIO

PRELOADED = [
    "torch._dynamo", "torch.utils.data", "torch.distributed.elastic.multiprocessing.errors", "pandas",
    "pyarrow.dataset", "pyarrow.parquet", "scipy.ndimage", "scipy.optimize", "scipy.sparse", "PIL.Image", "aiohttp",
    "httpx", "fsspec", "jinja2", "yaml", "typer", "pycocotools.mask", "safetensors.torch", "accelerate", "datasets",
    "evaluate", "peft", "huggingface_hub.hf_api", "huggingface_hub.repocard",
    "transformers.models.auto.modeling_auto", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip", "transformers.models.mask2former.modeling_mask2former",
    "transformers.models.mask2former.image_processing_pil_mask2former", "transformers.models.swin.modeling_swin",
    "transformers.models.resnet.modeling_resnet",
    "diffusers.loaders", "diffusers.models.controlnets.controlnet", "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl", "diffusers.schedulers.scheduling_ddim",
    "diffusers.schedulers.scheduling_ddpm", "diffusers.schedulers.scheduling_euler_discrete",
]  # fmt: skip


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


HUB_PORT = free_port()
HOME = ".hf-home"  # in the folder that a client is started in
_OWN_FOLDER = Path("/proc/self/cwd")  # Linux's name for the folder of whichever process asks
# What the libraries read from the environment at their import, the same for all clients of this process.
SETTINGS = {
    "HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
    "HF_HOME": str(_OWN_FOLDER / HOME),
    "HF_HUB_DISABLE_XET": "1",  # without it every upload of a large file asks for a Xet token
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
}
# Settings of whoever runs the tests, this process's own offline mode among them, must not reach the clients.
FOREIGN = ("HF_", "HUGGING", "TRANSFORMERS_", "DIFFUSERS_", "DATASETS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# Where a new interpreter looks for modules, its first place aside: the tests' own folders are none of a client's.
_PATH = subprocess.run(
    [sys.executable, "-c", "import sys; print(*sys.path[1:], sep='\\n')"], capture_output=True, text=True, check=True
).stdout.splitlines()


def client_environment(**more: object) -> dict[str, str]:
    """Variables for a client: those of this process that are nobody's settings, `SETTINGS`, and `more`; None there
    leaves one out."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(FOREIGN) and name not in ("PYTHONPATH", "PYTEST_CURRENT_TEST")
    }
    local = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    return {name: str(value) for name, value in (own | SETTINGS | local | more).items() if value is not None}


def start_python(
    arguments: Sequence[object],
    env: dict[str, str],
    cwd: Path,
    log: TextIO | None = None,
    start_new_session: bool = False,
) -> "subprocess.Popen | ForkedPython":
    """Start `python ARGUMENTS`; what it prints goes to pipes, as text, or to `log`.

    Args:
        arguments: of the interpreter: `-c CODE`, `-m MODULE` or a file, and what is `sys.argv[1:]`.
        env: of `client_environment`; with other settings of the libraries a new interpreter imports them anew.
        cwd: a folder.
    """
    words = [str(word) for word in arguments]
    settings = {name: value for name, value in env.items() if name.startswith(FOREIGN) and name != "HF_TOKEN"}
    if settings == SETTINGS and _OWN_FOLDER.is_dir():
        return ForkedPython(words, env, cwd, log, start_new_session)
    if env["HF_HOME"] == SETTINGS["HF_HOME"]:
        env = env | {"HF_HOME": str(cwd / HOME)}
    return subprocess.Popen(
        [sys.executable, *words],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log or subprocess.PIPE,
        stderr=log or subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def run_python(
    arguments: Sequence[object], env: dict[str, str], cwd: Path, check: bool = True, timeout: float = 300
) -> subprocess.CompletedProcess:
    """`start_python`, to the end; fails with what it printed if `check` and it failed."""
    return finish(start_python(arguments, env, cwd), check, timeout)


def run_ranks(
    arguments: Sequence[object], env: dict[str, str], cwd: Path, processes: int = 2, timeout: float = 300
) -> list[subprocess.CompletedProcess]:
    """`python ARGUMENTS` as so many processes of one job, told of each other as `torchrun` does."""
    job = env | {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        start_python(arguments, job | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd) for rank in range(processes)
    ]
    try:
        return [finish(process, True, timeout) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()


def finish(process: "subprocess.Popen | ForkedPython", check: bool, timeout: float) -> subprocess.CompletedProcess:
    out, err = process.communicate(timeout=timeout)
    assert not (check and process.returncode), f"exit status {process.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


_SERVER = forkserver.ForkServer()  # not the one of this process, from which the package forks its own children
_SERVER.set_forkserver_preload(PRELOADED)


def _start_forked(process) -> None:
    """Fork from a process that reads `SETTINGS` while it imports."""
    own, connect = dict(os.environ), forkserver.connect_to_new_process
    os.environ.clear()
    os.environ.update(client_environment())
    forkserver.connect_to_new_process = _SERVER.connect_to_new_process
    try:
        process.start()
    finally:
        forkserver.connect_to_new_process = connect
        os.environ.clear()
        os.environ.update(own)


class ForkedPython:
    """A running `python ARGUMENTS`, with what `subprocess.Popen` offers; the arguments are those of `start_python`."""

    def __init__(
        self, arguments: list[str], env: dict[str, str], cwd: Path, log: TextIO | None, start_new_session: bool
    ):
        self.args = [sys.executable, *arguments]
        pipes = [] if log else [os.pipe(), os.pipe()]
        ends = [log.fileno()] * 2 if log else [write for _, write in pipes]
        given = (arguments, env, str(cwd), _PATH, *map(DupFd, ends), start_new_session)
        self._process = get_context("forkserver").Process(target=_run, args=given)
        _start_forked(self._process)
        for _, write in pipes:
            os.close(write)
        self.pid = self._process.pid
        self.stdout, self.stderr = (open(read) for read, _ in pipes) if pipes else (None, None)

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
            if getattr(self, name) and not getattr(self, name).closed
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        for pipe in filter(None, (self.stdout, self.stderr)):
            pipe.close()
        return told.get("stdout", ""), told.get("stderr", "")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._process.pid or 0, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], env: dict[str, str], cwd: str, path: list[str], out, err, new_session: bool) -> None:
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for end, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (out.detach(), 1), (err.detach(), 2)):
        os.dup2(end, standard)
        os.close(end)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    set_start_method(None, force=True)  # of its own children: what a new interpreter would take
    if "OMP_NUM_THREADS" in env:  # read at torch's import
        import torch

        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    path = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    for customization in (Path(folder) / "sitecustomize.py" for folder in path):
        if customization.is_file():  # found by every new interpreter
            runpy.run_path(str(customization))
            break
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
