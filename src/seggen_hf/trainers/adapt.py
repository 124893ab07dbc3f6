"""The base learns a domain's look: captions -> the images themselves, before the generators start from it."""

from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from ..config import AdaptConfig
from .generator import save_pipeline
from .network import NetworkTask


class AdaptTask(NetworkTask):
    """Trains the base to draw the image of a caption: its own task, on images of one domain, without masks.

    Without a caption an image teaches what the domain looks like whatever is asked for.
    """

    config: AdaptConfig
    needs_image, needs_map = True, False

    @property
    def image_gamma(self) -> float:
        return self.config.image_gamma

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
