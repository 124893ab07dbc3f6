"""The log of a run: what each call began, finished, and how it ended, so that a run that died is diagnosed by it."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

from .folder import RunFolder

ENDED, STOPPED, FAILED = "ended", "stopped", "failed"  # how a call's last line begins


class RunLog:
    """Lines with their time in log/run.log; what a user should see is said too.

    A call before this one that left no word of its end was killed: that is the first line, before any other.
    """

    def __init__(self, run: RunFolder, say: Callable[[str], None]):
        self.run, self.say, self._remarks = run, say, []
        if (last := self._last_line()) and not last.startswith((ENDED, STOPPED, FAILED)):
            self._remarks = [f"The earlier call was killed, or the machine went, after: {last}"]

    def tell(self, line: str) -> None:
        self.note(line)
        self.say(line)

    def note(self, line: str) -> None:
        self.run.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.run.log, "a", encoding="utf-8") as log:
            for entry in (*self._remarks, line):
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {entry}\n")
        self._remarks = []

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """A call: how it ends is its last line."""
        try:
            yield
        except KeyboardInterrupt as stop:
            number = getattr(stop, "number", signal.SIGINT)
            self.note(f"{STOPPED} by {signal.Signals(number).name}; the same call goes on")
            raise
        except BaseException as error:
            self.note(f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())}")
            raise
        self.note(ENDED)

    def _last_line(self) -> str | None:
        """The last line without its time, of an earlier call."""
        if not self.run.log.is_file():
            return None
        lines = self.run.log.read_text(encoding="utf-8").splitlines()
        return lines[-1].partition(" ")[2].partition(" ")[2] if lines else None
