"""A training of the base's U-Net, its whole or a LoRA of it: what Text2Mask and the adaptation to a domain share."""

from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft.utils import get_peft_model_state_dict

from ..storage.files import replace_folder
from .generator import GeneratorTask, load_unet
from .lora import add_lora, cast_frozen, fuse_lora


class UNetTask(GeneratorTask):
    """Trains `base.unet` on noisy latents and captions."""

    def _build_trainable(self) -> UNet2DConditionModel:
        unet = self.base.unet
        if self.config.lora_rank:
            add_lora(unet, self.config)
        else:
            unet.requires_grad_(True)
        if self.config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        return unet

    def _move_frozen(self) -> None:
        if self.config.lora_rank:
            cast_frozen(self.base.unet, self.weight_dtype)
            self.base.unet.to(self.device)

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        added = {"text_embeds": batch["pooled"], "time_ids": batch["time_ids"].to(noisy.dtype)}
        return module(noisy, batch["timestep"], batch["prompt_embeds"], added_cond_kwargs=added).sample

    def finished_unet(self, folder: Path) -> UNet2DConditionModel | None:
        """Of a LoRA a float32 U-Net with the LoRA added to its weights, which needs no peft; the adapter itself is
        written to `folder/lora`. None where the U-Net has trained whole: it is `base.unet`."""
        if not self.config.lora_rank:
            return None
        replace_folder(folder / "lora", self._save_lora)
        # Frozen weights that were rounded for the training: the artefact gets the base's own.
        return fuse_lora(self.base.unet, load_unet(self.config) if self.weight_dtype != torch.float32 else None)

    def _save_lora(self, folder: Path) -> None:
        StableDiffusionXLPipeline.save_lora_weights(
            folder,
            unet_lora_layers=dict(get_peft_model_state_dict(self.base.unet)),  # peft's names; diffusers reads them
            safe_serialization=True,
            unet_lora_adapter_metadata=self.base.unet.peft_config["default"].to_dict(),
        )
