"""The smallest task of the loop: fits y = w x, with every draw from the sample's own generator."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from seggen_hf.config import TrainingConfig


class ToyTask:
    """`poison` makes the loss NaN from that step on; `seen` collects the record of every sample drawn."""

    def __init__(self, num_records: int = 6, poison: int | None = None, poison_gradient: bool = False):
        self.num_records, self.poison, self.poison_gradient = num_records, poison, poison_gradient
        torch.manual_seed(0)
        self.trainable = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
        self.seen: list[int] = []
        self.validated: list[int] = []

    def facts(self):
        return {"records": self.num_records}

    def parameter_groups(self):
        return [{"params": list(self.trainable.parameters())}]

    def sample(self, index, rng, step):
        self.seen.append(index)
        poisoned = self.poison is not None and step >= self.poison
        return {"x": torch.from_numpy(rng.standard_normal(3, dtype="float32")) + index, "poisoned": poisoned}

    def collate(self, samples):
        return {"x": torch.stack([s["x"] for s in samples]), "poisoned": any(s["poisoned"] for s in samples)}

    def loss(self, module, batch):
        prediction = module(batch["x"])
        loss = (prediction - batch["x"].sum(1, keepdim=True)).square().mean()
        if batch["poisoned"]:
            # sqrt at 0 has a finite value and an infinite slope.
            loss = loss + (0 * prediction.sum()).sqrt() if self.poison_gradient else loss * float("nan")
        return loss, {"largest": prediction.abs().max()}

    def validate(self, step, folder):
        self.validated.append(step)
        return {"weight": float(self.trainable[0].weight.sum())}

    def save(self, folder: Path):
        save_file({k: v.clone() for k, v in self.trainable.state_dict().items()}, folder / "toy.safetensors")

    def to(self, device, dtype):
        pass


def settings(folder, **changes) -> TrainingConfig:
    defaults = {
        "learning_rate": 1e-2,
        "train_batch_size": 2,
        "logging_steps": 1,
        "max_train_steps": 4,
        "checkpointing_steps": 2,
        "ema_decay": 0.9,
    }
    return TrainingConfig(output_dir=str(folder), **(defaults | changes))
