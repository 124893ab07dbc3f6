"""The base learns a domain's look: captions -> the images themselves, before the generators start from it."""

from pathlib import Path
from typing import Any

import numpy as np
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from ..config import AdaptConfig
from .generator import save_pipeline
from .unet import UNetTask


class AdaptTask(UNetTask):
    """Trains `base.unet` to draw the image of a caption: SDXL's own task, on images of one domain, without masks.

    Without a caption an image teaches what the domain looks like whatever is asked for.
    """

    config: AdaptConfig
    needs_image, needs_map = True, False

    def to_pipeline(self, unet: UNet2DConditionModel | None = None) -> StableDiffusionXLPipeline:
        """The base with the current weights, or with `unet`; its modules are the task's own."""
        components: dict[str, Any] = dict(self.base.components) | ({"unet": unet} if unet is not None else {})
        forced = self.base.config["force_zeros_for_empty_prompt"]
        return StableDiffusionXLPipeline(**components, force_zeros_for_empty_prompt=forced, add_watermarker=False)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Draw the images of fixed captions with fixed seeds into `folder/step-XXXXXXXX.png`, below the real ones."""
        indices = self.validation_indices()
        if not indices:
            return {}
        outputs = self.draw_validation(self.to_pipeline(), indices)
        drawn = [image for output in outputs for image in np.rint(output.images * 255).astype(np.uint8)]
        real = [self.views.resized_image(i) for i in indices]
        self.write_validation([real, drawn], indices, step, folder)
        return {}

    def save(self, folder: Path) -> None:
        """Write the base as a `StableDiffusionXLPipeline` into `folder`, safetensors; of a LoRA also the adapter, in
        `folder/lora`."""
        save_pipeline(self.to_pipeline(self.finished_unet(folder)), folder)
