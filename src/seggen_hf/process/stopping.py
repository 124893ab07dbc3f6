"""Ctrl-C and SIGTERM: work that can go on later ends at a fitting place, with a line and a telling exit status."""

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GOES_ON = "stopped; the same command goes on where it was."


class Stopped(KeyboardInterrupt):
    """A signal has ended the work; the message says where it goes on."""

    def __init__(self, number: int, message: str = GOES_ON):
        super().__init__(message)
        self.number = number


def exit_status(stop: KeyboardInterrupt) -> int:
    """What shells and batch systems take for the end by that signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + getattr(stop, "number", signal.SIGINT)


class StopRequest:
    """The signal that has asked for a stop; 0 as long as none has."""

    number = 0


@contextlib.contextmanager
def _handlers(numbers, handler) -> Iterator[None]:
    """Within the block `handler` gets the signals; only the main thread can, and a signal that the user had ignored
    (nohup, a background job) stays ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block a signal only sets the request, for the block to look at; Ctrl-C after one ends it at once.

    Another SIGTERM does not: a batch system may send it to a process and to the one that passes it on.

    Raises: `Stopped` for that Ctrl-C, and after the block for a request that came too late in it to be seen.
    """
    request = StopRequest()

    def handle(number, frame):
        if request.number and number == signal.SIGINT:
            raise Stopped(number)
        request.number = request.number or number

    with _handlers(SIGNALS, handle):
        yield request
    if request.number:
        raise Stopped(request.number)


@contextlib.contextmanager
def termination_raises() -> Iterator[None]:
    """Within the block SIGTERM raises `Stopped`, once, as Ctrl-C raises KeyboardInterrupt: what is open is closed."""
    seen = []

    def handle(number, frame):
        if not seen:
            seen.append(number)
            raise Stopped(number)

    with _handlers([signal.SIGTERM], handle):
        yield


def outlive_first_signal(*_) -> None:
    """For a process that works for another one: signals go to whole groups of processes, and the other still needs
    it to end well. It ends when the other one says so; a second SIGTERM ends it too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
