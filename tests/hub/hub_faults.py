"""Bad connections on demand, the same ones for the same seed."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence

# Status codes are answered without doing anything. "cut": the connection ends within the request. "cut_body": it ends
# within the body of the answer. "lost_answer": the request is carried out, and the connection ends without an answer.
KINDS = ("500", "503", "429", "cut", "cut_body", "lost_answer")


class Faults:
    """Which requests go wrong, and how.

    The fate of the n-th request of a method to a path depends on these three and the seed, not on the order in which
    the threads of a client come; the query, where signatures are, does not count.

    Args:
        rate (`float`): share of the requests that go wrong, in [0, 1].
        kinds: of `KINDS`, all equally likely.
        only: called with method and path; others never go wrong.
        limit (`int`): no more than so many go wrong.
    """

    def __init__(
        self,
        rate: float,
        kinds: Sequence[str] = KINDS,
        seed: int = 0,
        only: Callable[[str, str], bool] | None = None,
        limit: int | None = None,
    ):
        unknown = set(kinds) - set(KINDS)
        if unknown:
            raise ValueError(f"There are no faults {sorted(unknown)}; there are {KINDS}.")
        self.rate, self.kinds, self.seed, self.only, self.limit = rate, tuple(kinds), seed, only, limit
        self.count = 0
        self._seen: Counter = Counter()
        self._lock = threading.Lock()

    def choose(self, method: str, path: str) -> str | None:
        """The kind of fault that this request gets, if any."""
        if self.only and not self.only(method, path):
            return None
        with self._lock:
            self._seen[method, path] += 1
            draw = random.Random(f"{self.seed} {method} {path} {self._seen[method, path]}")
            if draw.random() >= self.rate or (self.limit is not None and self.count >= self.limit):
                return None
            self.count += 1
            return draw.choice(self.kinds)
