"""The real clients against a Hub on this machine, each in a process of its own with an empty cache."""

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from forked_python import ForkedPython
from hub_server import WRITER, HubServer

# Found by every Python process before any of our packages: the finder of editable installs comes later.
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "seggen_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
# Settings of whoever runs the tests, this process's own offline mode among them, must not reach the clients.
FOREIGN = ("HF_", "HUGGING", "TRANSFORMERS_", "DIFFUSERS_", "DATASETS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Clients:
    """Starts Python in a folder of its own, with the Hub's address, a token and an empty HF_HOME."""

    def __init__(self, hub: HubServer, folder: Path):
        self.hub, self.folder = hub, folder
        self.processes: list[subprocess.Popen | ForkedPython] = []

    def start(
        self,
        code_or_args: str | Sequence,
        *args,
        token: str | None = WRITER,
        env: dict[str, str] | None = None,
        home: Path | None = None,
        cwd: Path | None = None,
        bare: bool = False,
    ) -> subprocess.Popen | ForkedPython:
        """Start a client; what it prints goes to pipes.

        Args:
            code_or_args: Python code, indented at will, or arguments of the interpreter, such as `["-m", "x.cli"]`.
            args: of the code, in `sys.argv[1:]`.
            token: None for a client that is not logged in.
            env: more variables, or None instead of a value for one to leave out.
            home: HF_HOME; a new, empty one if not given.
            cwd: a new, empty folder if not given, so that no id of a repository is the name of a folder.
            bare: seggen_hf cannot be imported, in child processes neither.
        """
        command = ["-c", textwrap.dedent(code_or_args)] if isinstance(code_or_args, str) else list(code_or_args)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith(FOREIGN) and name not in ("PYTHONPATH", "PYTEST_CURRENT_TEST")
        }
        variables |= {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(home or folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",  # without it every upload of a large file asks for a Xet token
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        if token:
            variables["HF_TOKEN"] = token
        if bare:
            (folder / "site").mkdir()
            (folder / "site" / "sitecustomize.py").write_text(ABSENT)
            variables["PYTHONPATH"] = str(folder / "site")
        variables |= env or {}
        if cwd is None:
            cwd = folder / "cwd"
            cwd.mkdir()
        arguments = [str(part) for part in [*command, *args]]
        variables = {name: str(value) for name, value in variables.items() if value is not None}
        if "PYTHONPATH" in variables:  # what it says must be there before the first import
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen([sys.executable, *arguments], env=variables, cwd=cwd, **pipes)
        else:
            process = ForkedPython(arguments, variables, cwd)
        self.processes.append(process)
        return process

    def run(
        self, code_or_args: str | Sequence, *args, check: bool = True, timeout: float = 300, **kwargs
    ) -> subprocess.CompletedProcess:
        """`start`, to the end; fails with what the client printed if `check` and it failed."""
        process = self.start(code_or_args, *args, **kwargs)
        out, err = process.communicate(timeout=timeout)
        assert not (check and process.returncode), f"exit status {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
