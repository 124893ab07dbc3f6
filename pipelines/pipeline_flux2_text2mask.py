"""Text2Mask on FLUX.2-klein: a caption becomes a color map, and the color map a segmentation map."""

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from .seggen_flux2 import Flux2Mixin
from .seggen_text2mask import Text2MaskMixin, Text2MaskOutput


class Flux2Text2MaskPipeline(Text2MaskMixin, Flux2Mixin, Flux2KleinPipeline):
    """FLUX.2-klein fine-tuned on (caption, color map) pairs, with the codec that reads its color maps.

    Args: those of `Flux2KleinPipeline`, and
        colormap (`dict`): `to_dict()` of the `ColormapCodec` or `PanopticCodec` that painted the training maps, and
            the height and width of the training, if known.
    """

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKLFlux2,
        text_encoder: Qwen3ForCausalLM,
        tokenizer: Qwen2Tokenizer,
        transformer: Flux2Transformer2DModel,
        is_distilled: bool = False,
        colormap: dict | None = None,
    ):
        super().__init__(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            is_distilled=is_distilled,
        )
        self.register_to_config(colormap=colormap)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        max_color_distance: float | None = 40.0,
        min_region_area: int = 0,
        fill_distance: int = 0,
        output_type: str = "pil",
        return_dict: bool = True,
        **kwargs,
    ) -> Text2MaskOutput | tuple:
        """Draw color maps and read them.

        Args:
            prompt (`str` or list of `str`): captions; `prompt_embeds` (and `negative_prompt_embeds`) may stand for
                them.
            height, width (`int`, optional): of the maps, multiples of 16; those of the training if not given.
            max_color_distance, min_region_area, fill_distance: how color maps are read, as in `Text2MaskPipeline`.
            output_type (`str`): `"pil"`, `"np"`, `"pt"`, or `"latent"`, which is not decoded.
            kwargs: every other argument of `Flux2KleinPipeline.__call__`, but `image`: num_inference_steps,
                guidance_scale, generator, num_images_per_prompt, latents, callback_on_step_end, ...
        Returns: `Text2MaskOutput`, or the tuple of those of its fields that are not None.
        Raises: `ValueError` for a pipeline without codec, and a size that the VAE cannot make; `TypeError` for an
            argument that FLUX.2's pipeline lacks.
        """
        # 1. Refuse what cannot be decoded before a denoising step is paid for.
        self.check_decoding(max_color_distance, min_region_area, fill_distance, output_type)
        self.check_call_arguments(Flux2KleinPipeline, kwargs, taken=("image",))
        trained_height, trained_width = self.trained_size
        height, width = height or trained_height, width or trained_width
        self.check_size(height, width)

        # 2. The stock loop: it already knows guidance, offload, LoRA and callbacks.
        rgb = super().__call__(
            prompt=prompt,
            height=height,
            width=width,
            output_type="latent" if output_type == "latent" else "pt",
            return_dict=False,
            **self.complete_prompt(kwargs),
        )[0]  # (B, 3, H, W)
        if output_type == "latent":
            output = Text2MaskOutput(color_maps=rgb, segmentation_maps=None, distances=None)
            return output if return_dict else (rgb, None, None)

        # 3. Nearest palette color of each pixel, in the form that was asked for.
        output = self.read_color_maps(rgb, max_color_distance, min_region_area, fill_distance, output_type)
        return output if return_dict else output.to_tuple()
