"""Requests repeated on what passes by itself: twenty lines, and no further dependency for them."""

import time
from collections.abc import Callable, Sequence

LONGEST_WAIT = 30.0  # seconds, whatever a server asks for


def repeat(
    call: Callable,
    waits: Sequence[float],
    errors: tuple[type[Exception], ...],
    passes: Callable[[Exception], bool],
    tell: Callable[[Exception, float, int], None],
):
    """The result of `call`; the last failure is raised as it is.

    Args:
        waits: seconds before each further attempt; a server may ask for more.
        errors, passes: what is repeated: of these types, those of which `passes` is true.
        tell: called before each wait, with the error, the seconds, and how many attempts are left.
    """
    for number, wait in enumerate(waits):
        try:
            return call()
        except errors as error:
            if not passes(error):
                raise
            seconds = max(wait, _asked_wait(error))
            tell(error, seconds, len(waits) - number)
            time.sleep(seconds)
    return call()


def status_of(error: Exception) -> int | None:
    """Of the answer that an error is about, if there was one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _asked_wait(error: Exception) -> float:
    """Seconds that the server asks to wait, at most as many as a repetition waits by itself."""
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(value), LONGEST_WAIT) if value.isdigit() else 0.0
