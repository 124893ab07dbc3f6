"""Mask2Img's training: color map + caption -> image, a ControlNet on the frozen base (SegGen, arXiv:2311.03355)."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from seggen_hf.pipelines import Mask2ImgPipeline, condition_channels

from ..config import Mask2ImgConfig
from ..storage.files import replace_folder
from .families.choice import read_family
from .families.sdxl import SDXL
from .generator import cast_weights, load_network, save_pipeline
from .lora import add_lora, cast_frozen, fuse_lora
from .painted_map import PaintedMapTask
from .reference import ReferenceTask

_EMBEDDING_CHANNELS = (16, 32, 96, 256)  # ControlNet's own, for the 8-fold reduction of SDXL's autoencoder


def embedding_channels(vae_scale_factor: int) -> tuple[int, ...]:
    """Widths of the condition's embedding, whose reduction 2^(len - 1) must be the autoencoder's.

    Raises: `ValueError` for a factor that is no power of two from 2 to 8.
    """
    length = round(math.log2(vae_scale_factor)) + 1
    if 2 ** (length - 1) != vae_scale_factor or not 2 <= length <= len(_EMBEDDING_CHANNELS):
        raise ValueError(f"No ControlNet condition fits an autoencoder with factor {vae_scale_factor}; 2, 4 and 8 do.")
    return _EMBEDDING_CHANNELS[:length]


def new_controlnet(
    unet: UNet2DConditionModel, conditioning: str, num_labels: int, vae_scale_factor: int, copies_weights: bool = True
) -> ControlNetModel:
    """A copy of `unet`'s encoder, for conditions of this kind; its embedding of them is random."""
    return ControlNetModel.from_unet(
        unet,
        conditioning_channels=condition_channels(conditioning, num_labels),
        conditioning_embedding_out_channels=embedding_channels(vae_scale_factor),
        load_weights_from_unet=copies_weights,
    )


def check_controlnet(
    controlnet: ControlNetModel, unet: UNet2DConditionModel, vae_scale_factor: int, num_channels: int | None = None
) -> None:
    """Raise `ValueError` if `controlnet` cannot steer `unet` on latents of this factor, or takes other conditions
    than those of `num_channels`."""
    theirs = controlnet.config["conditioning_channels"]
    if num_channels not in (None, theirs):
        raise ValueError(
            f"The ControlNet takes conditions of {theirs} channels (conditioning_channels), and --conditioning makes "
            f"{num_channels}; set it as in the ControlNet's own training."
        )
    reduction = 2 ** (len(controlnet.config["conditioning_embedding_out_channels"]) - 1)
    if reduction != vae_scale_factor:
        raise ValueError(
            f"The ControlNet reduces its condition {reduction}-fold (conditioning_embedding_out_channels "
            f"{tuple(controlnet.config['conditioning_embedding_out_channels'])}), the base's autoencoder "
            f"{vae_scale_factor}-fold: it must have {len(embedding_channels(vae_scale_factor))} channels."
        )
    for name in ("in_channels", "cross_attention_dim", "block_out_channels", "projection_class_embeddings_input_dim"):
        theirs, ours = (_plain(model.config.get(name)) for model in (controlnet, unet))
        if theirs != ours:
            raise ValueError(f"The ControlNet has {name} {theirs} and the base's U-Net {ours}: they do not fit.")


def set_trained(controlnet: ControlNetModel, unet: UNet2DConditionModel, config: Mask2ImgConfig) -> None:
    """Choose what trains, in place: the ControlNet, or a LoRA of it; with `train_base` the U-Net too.

    A new ControlNet ends in layers of zeros, which no LoRA on others gets past: those, and the condition's embedding,
    which is random, train whole beside the LoRA. They are small.
    """
    unet.requires_grad_(config.train_base)
    controlnet.requires_grad_(not config.lora_rank)
    if config.lora_rank:
        add_lora(controlnet, config)
        if config.controlnet_model is None:
            for name in ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"):
                getattr(controlnet, name).requires_grad_(True)


def _plain(value):
    return list(value) if isinstance(value, (list, tuple)) else value


class ControlledUNet(torch.nn.Module):
    """ControlNet and U-Net as one module, for trainings of both (one forward pass for DDP to follow)."""

    def __init__(self, controlnet: ControlNetModel, unet: UNet2DConditionModel):
        super().__init__()
        self.controlnet, self.unet = controlnet, unet

    def forward(self, noisy, timestep, embeds, added, condition):
        return denoise(self.controlnet, self.unet, noisy, timestep, embeds, added, condition)


def denoise(controlnet, unet, noisy, timestep, embeds, added, condition) -> torch.Tensor:
    """What `unet`, steered by `controlnet`, makes of noisy latents; see `GeneratorTask.predict`."""
    down, middle = controlnet(
        noisy,
        timestep,
        encoder_hidden_states=embeds,
        controlnet_cond=condition,
        added_cond_kwargs=added,
        return_dict=False,
    )
    dtype = unet.dtype
    # A frozen U-Net in half precision takes half-precision inputs; autocast is for float32 weights. Meta has none.
    is_on = noisy.device.type != "meta" and torch.is_autocast_enabled(noisy.device.type)
    with torch.autocast(noisy.device.type, enabled=False) if is_on and dtype != torch.float32 else nullcontext():
        return unet(
            noisy.to(dtype),
            timestep,
            encoder_hidden_states=embeds.to(dtype),
            # Sizes stay float32: bfloat16 would make 684 of 683.
            added_cond_kwargs=added | {"text_embeds": added["text_embeds"].to(dtype)},
            down_block_additional_residuals=[residual.to(dtype) for residual in down],
            mid_block_additional_residual=middle.to(dtype),
        ).sample


class Mask2ImgTask(PaintedMapTask):
    """Trains a ControlNet, and with `train_base` the U-Net too, to draw images that fit their maps."""

    @classmethod
    def from_config(cls, config: Mask2ImgConfig, records, labels, panoptic_codec=None) -> Any:
        """The task of the family of the base that `config` names: of SDXL this one, of FLUX.2 a `ReferenceTask`.

        Raises: `ValueError` for a base that cannot be loaded, and settings that its family has no use for.
        """
        if read_family(config) is SDXL:
            return super().from_config(config, records, labels, panoptic_codec)
        return ReferenceTask.from_config(config, records, labels, panoptic_codec)

    def _begin_controlnet(self, unet: UNet2DConditionModel) -> ControlNetModel:
        """The ControlNet that the training begins with: the one that the settings name, or a copy of `unet`'s encoder.

        Raises: `ValueError` if the named one cannot be loaded.
        """
        if self.config.controlnet_model:
            try:
                return ControlNetModel.from_pretrained(
                    self.config.controlnet_model, use_safetensors=True, dtype=torch.float32
                )
            except OSError as error:
                raise ValueError(
                    f"--controlnet_model {self.config.controlnet_model} cannot be loaded: {error}"
                ) from error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return new_controlnet(unet, self.config.conditioning, len(self.id2label), self.base.vae_scale_factor)

    def _build_trainable(self) -> torch.nn.Module:
        unet, factor = self.base.unet, self.base.vae_scale_factor
        controlnet = self._begin_controlnet(unet)
        check_controlnet(controlnet, unet, factor, condition_channels(self.config.conditioning, len(self.id2label)))
        self.controlnet = controlnet
        set_trained(controlnet, unet, self.config)
        if self.config.gradient_checkpointing:
            controlnet.enable_gradient_checkpointing()
            unet.enable_gradient_checkpointing()
            unet.train()  # it recomputes only in training mode; it has no dropout
        return ControlledUNet(controlnet, unet) if self.config.train_base else controlnet

    def _move_frozen(self) -> None:
        if self.config.lora_rank:
            cast_frozen(self.controlnet, self.weight_dtype)
        if not self.config.train_base:
            cast_weights(self.base.unet, self.weight_dtype)  # norms too: it runs without autocast
            self.base.unet.to(self.device)

    def predict(self, module: torch.nn.Module, noisy: torch.Tensor, batch: dict) -> torch.Tensor:
        added = {"text_embeds": batch["pooled"], "time_ids": batch["time_ids"].to(noisy.dtype)}
        inputs = (noisy, batch["timestep"], batch["prompt_embeds"], added, batch["condition"])
        return module(*inputs) if self.config.train_base else denoise(module, self.base.unet, *inputs)

    def to_pipeline(
        self, unet: UNet2DConditionModel | None = None, controlnet: ControlNetModel | None = None
    ) -> Mask2ImgPipeline:
        """The pipeline of the current weights (with these networks in their places); its modules are the task's."""
        return Mask2ImgPipeline(
            **self.family.parts(unet), controlnet=controlnet or self.controlnet, colormap=self.colormap
        )

    def save(self, folder: Path) -> None:
        """Write the `Mask2ImgPipeline` into `folder`, safetensors; a frozen U-Net as the base has it, in float32.

        Of a LoRA on a trained ControlNet also the adapter, in `folder/lora`, for the ControlNet that the training
        began with: `load_lora_adapter(folder, prefix=None, weight_name="pytorch_lora_weights.safetensors")`. The
        pipeline's own ControlNet has it added to its weights.
        """
        rounded = not self.config.train_base and self.weight_dtype != torch.float32
        unet = load_network(self.config) if rounded else None
        controlnet = None
        if self.config.lora_rank:
            if self.config.controlnet_model is not None:
                replace_folder(folder / "lora", self.controlnet.save_lora_adapter)
            controlnet = fuse_lora(self.controlnet, self._begin_controlnet(unet) if unet is not None else None)
        save_pipeline(self.to_pipeline(unet, controlnet), folder)
