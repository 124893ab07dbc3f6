"""One bar over the samples of all processes."""

import time
from pathlib import Path

from tqdm.auto import tqdm

from .manifest import Shard, SynthesisPlan
from .shards import finished_shards

POLL_SECONDS = 1.0


class Progress:
    """A bar over all samples of the plan; what other processes make is counted by their finished shards."""

    def __init__(self, folder: Path, plan: SynthesisPlan, mine: list[Shard], disable: bool):
        self.folder = folder
        self.waiting = {shard.name: shard for shard in plan.shards}
        self.mine = {shard.name for shard in mine}
        initial = sum(len(self.waiting.pop(name)) for name in finished_shards(folder) & self.waiting.keys())
        # Rate and time left are of this call, over all processes.
        self.bar = tqdm(
            desc="Synthesis", total=len(plan), initial=initial, unit="sample", disable=disable, smoothing=0.05
        )
        self.num_made = self.num_dropped = 0
        self._looked = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def advance(self, number: int) -> None:
        """Samples that this process made."""
        self.bar.update(number)
        if time.monotonic() - self._looked > 5 * POLL_SECONDS:
            self.look()

    def finish(self, shard: Shard, num_dropped: int) -> None:
        """A shard that this process made; a generator that fails is seen on the bar, not after days."""
        self.waiting.pop(shard.name, None)
        self.num_made += len(shard)
        self.num_dropped += num_dropped
        self.bar.set_postfix(dropped=f"{self.num_dropped / self.num_made:.0%}")

    def look(self) -> None:
        """Count the shards that others finished since."""
        for name in (finished_shards(self.folder) & self.waiting.keys()) - self.mine:
            self.bar.update(len(self.waiting.pop(name)))
        self._looked = time.monotonic()

    def wait_for_others(self) -> None:
        self.look()
        while self.waiting:
            time.sleep(POLL_SECONDS)
            self.look()
