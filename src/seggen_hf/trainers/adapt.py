"""The base learns a domain's look: captions -> the images themselves, before the generators start from it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ..config import AdaptConfig
from .encoding import Encoders
from .families.family import Family
from .generator import save_pipeline
from .network import NetworkTask


class CaptionedNetwork(torch.nn.Module):
    """A base's network and its text encoders as one module, for trainings of both (one forward pass for DDP to
    follow)."""

    def __init__(self, family: Family, encoders: Encoders):
        super().__init__()
        self.network, self.text_encoders = family.network, encoders.train_text_encoders()
        self._family, self._encoders = family, encoders

    def forward(self, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        """What the network answers to noisy latents with `batch["captions"]`, of which None are dropped."""
        embeddings = self._encoders.encode_kept(batch["captions"], self._encoders.encode_null())
        batch = batch | dict(zip(self._encoders.arrays, embeddings, strict=True))
        return self._family.predict(self.network, noisy, batch)


class AdaptTask(NetworkTask):
    """Trains the base to draw the image of a caption: its own task, on images of one domain, without masks.

    Without a caption an image teaches what the domain looks like whatever is asked for.
    """

    config: AdaptConfig
    needs_image, needs_map = True, False

    @property
    def image_gamma(self) -> float:
        return self.config.image_gamma

    @property
    def trains_text_encoders(self) -> bool:
        return self.config.train_text_encoders

    def _build_trainable(self) -> torch.nn.Module:
        network = super()._build_trainable()
        if not self.trains_text_encoders:
            return network
        module = CaptionedNetwork(self.family, self.encoders)
        if self.config.gradient_checkpointing:
            encoder: Any  # of transformers
            for encoder in module.text_encoders.values():
                encoder.train().activation_checkpointing_enable()  # only then does it recompute; it has no dropout
        return module

    def _move_frozen(self) -> None:
        super()._move_frozen()
        if self.trains_text_encoders:
            self.encoders.move_text_encoders(self.device)

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        return module(noisy, batch) if self.trains_text_encoders else super().predict(module, noisy, batch)

    def to_pipeline(self, network: Any = None) -> DiffusionPipeline:
        """The base with the current weights, or with `network`; its modules are the task's own.

        It draws images of the training's `image_gamma`: a base's configuration has no place for it.
        """
        return self.family.to_base(network)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Draw the images of fixed captions with fixed seeds into `folder/step-XXXXXXXX.png`, below the real ones."""
        indices = self.validation_indices()
        if not indices:
            return {}
        outputs = self.draw_validation(self.to_pipeline(), indices)
        drawn = [
            image
            for output in outputs
            for image in np.rint(output.images ** (1 / self.image_gamma) * 255).astype(np.uint8)
        ]
        real = [self.views.resized_image(i) for i in indices]
        self.write_validation([real, drawn], indices, step, folder)
        return {}

    def save(self, folder: Path) -> None:
        """Write the base into `folder`, safetensors; of a LoRA also the adapter, in `folder/lora`."""
        save_pipeline(self.to_pipeline(self.finished_network(folder)), folder)
