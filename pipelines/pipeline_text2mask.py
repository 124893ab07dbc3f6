"""Text2Mask: a caption becomes a color map, and the color map a segmentation map (SegGen, arXiv:2311.03355)."""

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from .seggen_text2mask import Text2MaskMixin, Text2MaskOutput


class Text2MaskPipeline(Text2MaskMixin, StableDiffusionXLPipeline):
    """SDXL fine-tuned on (caption, color map) pairs, with the codec that reads its color maps.

    Args: those of `StableDiffusionXLPipeline`, without watermarker, and
        colormap (`dict`): `to_dict()` of the `ColormapCodec` or `PanopticCodec` that painted the training maps, and
            the height and width of the training, if known.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        force_zeros_for_empty_prompt: bool = True,
        colormap: dict | None = None,
    ):
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=scheduler,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            add_watermarker=False,  # a watermark repaints labels
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
            prompt (`str` or list of `str`): captions; `prompt_embeds` and its companions may stand for them.
            height, width (`int`, optional): of the maps, multiples of 8; those of the training if not given.
            max_color_distance (`float`, optional): pixels further than this from every label's color become
                `ignore_index`; 0-255 RGB units; `None` always takes the nearest.
            min_region_area (`int`): smaller regions join their surroundings; 0 keeps all (of a panoptic pipeline all
                from 2 pixels at 64 x 64, and in proportion to the sides above).
            fill_distance (`int`): pixels that `max_color_distance` ignores take the label of the nearest other pixel
                within this many pixels; 0 leaves them ignored. A panoptic pipeline settles borders itself.
            output_type (`str`): `"pil"`, `"np"`, `"pt"`, or `"latent"`, which is not decoded.
            kwargs: every other argument of `StableDiffusionXLPipeline.__call__`: num_inference_steps, guidance_scale,
                guidance_rescale, generator, num_images_per_prompt, latents, callback_on_step_end, ...
        Returns: `Text2MaskOutput`, or the tuple of those of its fields that are not None. Pixels that are no numbers
            (the VAE overflowed in half precision) are `ignore_index`, at distance infinity, and black.
        Raises: `ValueError` for a pipeline without codec; `TypeError` for an argument that SDXL's pipeline lacks.
        """
        # 1. Refuse what cannot be decoded before a denoising step is paid for.
        self.check_decoding(max_color_distance, min_region_area, fill_distance, output_type)
        self.check_call_arguments(StableDiffusionXLPipeline, kwargs)

        # 2. The stock SDXL loop: it already knows guidance, offload, LoRA and callbacks.
        stock_type = "latent" if output_type == "latent" else "pt"
        trained_height, trained_width = self.trained_size
        rgb = super().__call__(
            prompt,
            height=height or trained_height,
            width=width or trained_width,
            output_type=stock_type,
            return_dict=False,
            **kwargs,
        )[0]  # (B, 3, H, W)
        if output_type == "latent":
            output = Text2MaskOutput(color_maps=rgb, segmentation_maps=None, distances=None)
            return output if return_dict else (rgb, None, None)

        # 3. Nearest palette color of each pixel, in the form that was asked for.
        output = self.read_color_maps(rgb, max_color_distance, min_region_area, fill_distance, output_type)
        return output if return_dict else output.to_tuple()
