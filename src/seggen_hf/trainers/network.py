"""A training of the base's own network, its whole or a LoRA of it: what Text2Mask and the adaptation to a domain
share, and Mask2Img where the base reads pictures."""

from pathlib import Path
from typing import Any

import torch

from ..storage.files import replace_folder
from .generator import GeneratorTask, load_network
from .lora import add_lora, cast_frozen, fuse_lora


class NetworkTask(GeneratorTask):
    """Trains `network`, the base's own, on noisy latents and captions."""

    def _build_trainable(self) -> torch.nn.Module:
        network = self.network
        if self.config.lora_rank:
            add_lora(network, self.config, self.family.lora_targets(self.config))
        else:
            network.requires_grad_(True)
        if self.config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        return network

    def _move_frozen(self) -> None:
        if self.config.lora_rank:
            cast_frozen(self.network, self.weight_dtype)
            self.network.to(self.device)

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        return self.family.predict(module, noisy, batch)

    def finished_network(self, folder: Path) -> Any:
        """Of a LoRA a float32 network with the LoRA added to its weights, which needs no peft; the adapter itself is
        written to `folder/lora`. None where the network has trained whole: it is that of the base."""
        if not self.config.lora_rank:
            return None
        replace_folder(folder / "lora", self.family.save_lora)
        # Frozen weights that were rounded for the training: the artefact gets the base's own.
        return fuse_lora(self.network, load_network(self.config) if self.weight_dtype != torch.float32 else None)
