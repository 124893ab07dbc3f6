"""The base learns a domain's look: captions -> the images themselves, before the generators start from it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from ..config import AdaptConfig
from ..pictures.grid import save_grid
from .generator import VALIDATION_BATCH, save_pipeline
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
        pipeline: Any = self.to_pipeline()
        pipeline.set_progress_bar_config(disable=True)
        drawn: list[np.ndarray] = []
        with self.sampling([self.captions[i] for i in indices]) as prompts:
            for start in range(0, len(indices), VALIDATION_BATCH):
                part = slice(start, start + VALIDATION_BATCH)
                output = pipeline(
                    **{name: rows[part] for name, rows in prompts.items()},
                    height=self.size[0],
                    width=self.size[1],
                    num_inference_steps=self.config.validation_inference_steps,
                    guidance_scale=self.config.validation_guidance_scale,
                    generator=[torch.Generator().manual_seed(self.config.seed + i) for i in indices[part]],
                    output_type="np",
                )
                drawn += list(np.rint(output.images * 255).astype(np.uint8))
        save_grid([[self.views.resized_image(i) for i in indices], drawn], folder / f"step-{step:08d}.png")
        (folder / "captions.txt").write_text("".join(f"{self.captions[i]}\n" for i in indices))
        return {}

    def save(self, folder: Path) -> None:
        """Write the base as a `StableDiffusionXLPipeline` into `folder`, safetensors; of a LoRA also the adapter, in
        `folder/lora`."""
        save_pipeline(self.to_pipeline(self.finished_unet(folder)), folder)
