"""The stream of a training's samples: which process sees which of them in which step.

Every random draw of a sample follows from its place in the stream: place `p` draws from
`np.random.default_rng([seed, p])`. So one process, many processes and a resumed run see the same samples, and a
checkpoint carries no random state.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..config import TrainingConfig
from ..process.stopping import outlive_first_signal


class SampleStream(Dataset):
    """Sample number `position` of the endless, shuffled stream over a task's records."""

    def __init__(self, task, seed: int, samples_per_step: int):
        self.task, self.seed, self.samples_per_step = task, seed, samples_per_step
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def record_index(self, position: int) -> int:
        epoch, place = divmod(position, self.task.num_records)
        if epoch != self._epoch:
            self._epoch = epoch
            rng = np.random.default_rng([self.seed, 2**32, epoch])
            order = getattr(self.task, "epoch_order", None)
            self._permutation = order(rng) if order else rng.permutation(self.task.num_records)
        return int(self._permutation[place])

    def __getitem__(self, position: int) -> dict:
        rng = np.random.default_rng([self.seed, position])
        return self.task.sample(self.record_index(position), rng, position // self.samples_per_step)


class RankBatches(Sampler):
    """Stream positions of one rank's batches, from `first_step` on: ranks lie side by side in each batch."""

    def __init__(
        self, first_step: int, last_step: int, accumulation: int, batch_size: int, rank: int, world_size: int
    ):
        self.steps, self.accumulation, self.batch_size = range(first_step, last_step), accumulation, batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for micro in range(self.accumulation):
                batch = (step * self.accumulation + micro) * self.world_size + self.rank
                yield list(range(batch * self.batch_size, (batch + 1) * self.batch_size))


def build_loader(
    task, collate: Callable, config: TrainingConfig, first_step: int, rank: int, world_size: int, pin_memory: bool
) -> DataLoader:
    """The batches of one rank, from `first_step` to the last step."""
    accumulation, batch_size = config.gradient_accumulation_steps, config.train_batch_size
    return DataLoader(
        SampleStream(task, config.seed, batch_size * accumulation * world_size),
        batch_sampler=RankBatches(first_step, config.max_train_steps, accumulation, batch_size, rank, world_size),
        collate_fn=collate,
        num_workers=config.dataloader_num_workers,
        # Python 3.14 would send them the task, networks and all; forked ones have it, and none of them uses a GPU.
        multiprocessing_context="fork" if config.dataloader_num_workers and sys.platform == "linux" else None,
        worker_init_fn=outlive_first_signal,
        pin_memory=pin_memory,
    )


def draw_batches(task, config: TrainingConfig, first_step: int, rank: int, world_size: int) -> Iterator[dict]:
    """The same of a task that draws whole batches itself, where its data is: batch `n` of the training from `n`."""
    batches = config.max_train_steps * config.gradient_accumulation_steps
    for batch in range(first_step * config.gradient_accumulation_steps, batches):
        yield task.draw(batch * world_size + rank)


def to_device(batch, device: torch.device):
    """The batch with its tensors on `device`; of pinned ones the copy does not hold up the caller."""
    if torch.is_tensor(batch):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {k: to_device(v, device) for k, v in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [to_device(v, device) for v in batch]
    return batch
