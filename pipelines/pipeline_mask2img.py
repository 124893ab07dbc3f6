"""Mask2Img: a segmentation map and a caption become an image that fits them (SegGen, arXiv:2311.03355)."""

import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLControlNetPipeline, UNet2DConditionModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from .seggen_mask2img import Mask2ImgMixin, Mask2ImgOutput
from .seggen_pipeline import encode_condition


class Mask2ImgPipeline(Mask2ImgMixin, StableDiffusionXLControlNetPipeline):
    """A ControlNet on SDXL, conditioned on color maps, with the codec that paints them.

    Args: those of `StableDiffusionXLControlNetPipeline`, with one ControlNet and without watermarker, and
        colormap (`dict`): `to_dict()` of the `ColormapCodec` or `PanopticCodec` that painted the training maps, and
            the height and width of the training, if known; `conditioning`, if the ControlNet is shown more than RGB;
            `image_gamma`, if the training's images had another gamma than their own.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        scheduler: KarrasDiffusionSchedulers,
        force_zeros_for_empty_prompt: bool = True,
        feature_extractor: CLIPImageProcessor = None,
        image_encoder: CLIPVisionModelWithProjection = None,
        colormap: dict | None = None,
    ):
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
            add_watermarker=False,  # images are training data: nothing may be written into them
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        self.register_to_config(colormap=colormap)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        segmentation_map=None,
        *,
        height: int | None = None,
        width: int | None = None,
        segments_info: list | None = None,
        max_color_distance: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        **kwargs,
    ) -> Mask2ImgOutput | tuple:
        """Draw images that fit segmentation maps.

        Args:
            prompt (`str` or list of `str`): captions; `prompt_embeds` and its companions may stand for them.
            segmentation_map: one map, or as many as captions: a list, a `(B, H, W)` batch, or a `(H, W)` map, of
                - label ids: integer numpy arrays or tensors, PIL images of mode L, P (palette images: their indices),
                  I or I;16, or LA or PA (without their alpha);
                - color maps in this pipeline's colors: PIL RGB or RGBA (without its alpha), uint8 arrays
                  `(H, W, 3)` or `(B, H, W, 3)`, tensors `(3, H, W)` or `(B, 3, H, W)`, uint8 (what `codec.encode`
                  makes of a tensor) or floats in [0, 1].
            segments_info (list, optional): of a panoptic pipeline: then `segmentation_map` holds segment ids (integers
                `(H, W)`, 0 for void), and this `id` and `category_id` of each segment; a list of such lists for
                several maps. Label ids without segments have the first color of their label.
            height, width (`int`, optional): of the images, multiples of the VAE's factor. Those of the first map,
                rounded down, if not given, so that images fit their maps, which are resized by nearest neighbour.
            max_color_distance (`float`): how far (0-255 RGB units) the pixels of color maps may lie from the palette.
                0 demands exact colors; above, further pixels become `ignore_index`.
            output_type (`str`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            kwargs: every other argument of `StableDiffusionXLControlNetPipeline.__call__`, but `image`:
                num_inference_steps, guidance_scale, controlnet_conditioning_scale, generator, num_images_per_prompt,
                latents, callback_on_step_end, ...
        Returns: `Mask2ImgOutput`, or a tuple of its field.
        Raises: `ValueError` for ids that are no labels, color maps of another palette, maps of another rank, other
            numbers of maps than of captions, sizes that the VAE cannot make, a pipeline without codec; `TypeError` for
            an argument that the stock pipeline lacks, guidance_rescale too.
        """
        # 1. Refuse what is no map of this pipeline's labels before a denoising step is paid for.
        self.check_call_arguments(StableDiffusionXLControlNetPipeline, kwargs, taken=("image",))
        maps = self.read_conditions(segmentation_map, segments_info, max_color_distance)
        self.check_count(maps, prompt, kwargs.get("prompt_embeds"))
        height, width = self.choose_size(maps, height, width)

        # 2. The condition, painted as in training.
        codec = self.panoptic_codec or self.codec
        condition = encode_condition(codec, maps, height, width, self.conditioning)  # (B, channels, H, W) in [0, 1]

        # 3. The stock loop.
        images = super().__call__(
            prompt,
            image=condition,
            height=height,
            width=width,
            output_type=self.drawn_type(output_type),
            return_dict=False,
            **kwargs,
        )[0]
        images = self.undo_gamma(images, output_type)
        return Mask2ImgOutput(images=images) if return_dict else (images,)
