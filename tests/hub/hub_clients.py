"""The real clients against a Hub on this machine, each in a process of its own with an empty cache."""

import subprocess
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from forked_python import HOME, ForkedPython, client_environment, finish, start_python
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
        variables: dict[str, object] = {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": token}
        if bare:
            (folder / "site").mkdir()
            (folder / "site" / "sitecustomize.py").write_text(ABSENT)
            variables["PYTHONPATH"] = folder / "site"
        if cwd is None:
            cwd = folder / "cwd"
            cwd.mkdir()
        (link := cwd / HOME).unlink(missing_ok=True)
        link.symlink_to(home or folder / "hf")
        (home or folder / "hf").mkdir(exist_ok=True)
        process = start_python([*command, *args], client_environment(**variables | (env or {})), cwd)
        self.processes.append(process)
        return process

    def run(
        self, code_or_args: str | Sequence, *args, check: bool = True, timeout: float = 300, **kwargs
    ) -> subprocess.CompletedProcess:
        """`start`, to the end; fails with what the client printed if `check` and it failed."""
        return finish(self.start(code_or_args, *args, **kwargs), check, timeout)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
