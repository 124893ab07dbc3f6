"""Mask2Img's training on a base that reads pictures: the color map is shown to FLUX.2-klein as its reference."""

from pathlib import Path
from typing import Any

import torch

from seggen_hf.pipelines import Flux2Mask2ImgPipeline

from .generator import save_pipeline
from .network import NetworkTask
from .painted_map import PaintedMapTask


class ReferenceTask(PaintedMapTask, NetworkTask):
    """Trains the base, its whole or a LoRA of it, to draw images that fit the color maps beside them."""

    def _move_frozen(self) -> None:
        super()._move_frozen()
        # The map is encoded in every step: a hundredth of it, and a second array of latents is not stored.
        self.base.vae.to(self.device)

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        reference = self.encoders.encode_images(batch["condition"] * 2 - 1)
        return super().predict(module, noisy, batch | {"reference": reference})

    def to_pipeline(self, network: Any = None) -> Flux2Mask2ImgPipeline:
        """The pipeline of the current weights (or of `network`); its modules are the task's."""
        return Flux2Mask2ImgPipeline(**self.family.parts(network), colormap=self.colormap)

    def save(self, folder: Path) -> None:
        """Write the pipeline into `folder`, safetensors; of a LoRA also the adapter, in `folder/lora`."""
        save_pipeline(self.to_pipeline(self.finished_network(folder)), folder)
