"""Mask2Img on FLUX.2-klein: the color map of a segmentation map is the picture that the base refers to."""

import numpy as np
import PIL.Image
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from diffusers.utils.torch_utils import get_module_execution_device
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from .seggen_flux2 import Flux2Mixin
from .seggen_mask2img import Mask2ImgMixin, Mask2ImgOutput
from .seggen_pipeline import encode_condition

# What the stock pipeline takes for a reference as it is: smaller ones it refuses, larger ones it scales.
LEAST_SIDE, MOST_PIXELS, MOST_RATIO = 64, 1024 * 1024, 8


def check_reference_size(height: int, width: int) -> None:
    """Raise `ValueError` for a color map that could not be shown to FLUX.2 pixel by pixel."""
    ratio = max(height, width) / min(height, width)
    if min(height, width) < LEAST_SIDE or height * width > MOST_PIXELS or ratio > MOST_RATIO:
        raise ValueError(
            f"height and width are {height} and {width}; FLUX.2's reference pictures have sides of at least "
            f"{LEAST_SIDE} pixels, one at most {MOST_RATIO} times the other, and {MOST_PIXELS:,} pixels at most."
        )


class Flux2Mask2ImgPipeline(Mask2ImgMixin, Flux2Mixin, Flux2KleinPipeline):
    """FLUX.2-klein fine-tuned to follow color maps, with the codec that paints them.

    Args: those of `Flux2KleinPipeline`, and
        colormap (`dict`): `to_dict()` of the `ColormapCodec` or `PanopticCodec` that painted the training maps, and
            the height and width of the training, if known; `image_gamma`, if the training's images had another than
            their own.
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
        segmentation_map=None,
        *,
        height: int | None = None,
        width: int | None = None,
        segments_info: list | None = None,
        max_color_distance: float = 0.0,
        controlnet_conditioning_scale: float = 1.0,
        output_type: str = "pil",
        return_dict: bool = True,
        **kwargs,
    ) -> Mask2ImgOutput | tuple:
        """Draw images that fit segmentation maps.

        Args:
            prompt (`str` or list of `str`): captions; `prompt_embeds` (and `negative_prompt_embeds`) may stand for
                them.
            segmentation_map, segments_info, max_color_distance: the maps, in all forms that `Mask2ImgPipeline` takes.
            height, width (`int`, optional): of the images, multiples of 16, see `check_reference_size`. Those of the
                first map, rounded down, if not given.
            controlnet_conditioning_scale (`float`): 1, or the call is refused: there is no ControlNet here.
            output_type (`str`): `"pil"`, `"np"`, `"pt"` or `"latent"`.
            kwargs: every other argument of `Flux2KleinPipeline.__call__`, but `image`: num_inference_steps,
                guidance_scale, generator, num_images_per_prompt, latents, callback_on_step_end, ...
        Returns: `Mask2ImgOutput`, or a tuple of its field.
        Raises: `ValueError` for ids that are no labels, color maps of another palette, other numbers of maps than of
            captions, sizes that FLUX.2 cannot refer to, a pipeline without codec; `TypeError` for an argument that
            FLUX.2's pipeline lacks.
        """
        # 1. Refuse what is no map of this pipeline's labels before a denoising step is paid for.
        self.check_call_arguments(Flux2KleinPipeline, kwargs, taken=("image",))
        if controlnet_conditioning_scale != 1:
            raise ValueError(
                f"controlnet_conditioning_scale is {controlnet_conditioning_scale}; FLUX.2 is shown the map as a "
                f"picture, which has no scale: it must be 1."
            )
        maps = self.read_conditions(segmentation_map, segments_info, max_color_distance)
        self.check_count(maps, prompt, kwargs.get("prompt_embeds"))
        height, width = self.choose_size(maps, height, width)

        # 2. The condition, painted as in training.
        planes = encode_condition(self.panoptic_codec or self.codec, maps, height, width)  # (B, 3, H, W) in [0, 1]
        painted = np.rint(planes.movedim(1, -1).numpy() * 255).astype(np.uint8)

        # 3. The stock loop.
        images = super().__call__(
            image=[PIL.Image.fromarray(picture) for picture in painted],
            prompt=prompt,
            height=height,
            width=width,
            output_type=self.drawn_type(output_type),
            return_dict=False,
            **self.complete_prompt(kwargs),
        )[0]
        images = self.undo_gamma(images, output_type)
        return Mask2ImgOutput(images=images) if return_dict else (images,)

    def check_size(self, height: int, width: int) -> None:
        """Refuse sizes that the VAE cannot make, and those that FLUX.2 cannot refer to."""
        super().check_size(height, width)
        check_reference_size(height, width)

    def prepare_image_latents(self, images, batch_size, generator, device, dtype):
        """Each picture is the reference of its own captions; of the stock pipeline all would be that of every caption.

        Args:
            images: `(1, 3, H, W)` in [-1, 1] each; one, or as many as captions.
            batch_size: of captions and the images of each.
        Returns: latents `(batch_size, tokens, channels)`, and their places `(batch_size, tokens, 4)`.
        """
        place = get_module_execution_device(self.vae)
        with torch.autocast(torch.device(device).type, enabled=False):
            latents = [
                self._encode_vae_image(image=image.to(device=place, dtype=dtype), generator=generator)
                for image in images
            ]
        places = self._prepare_image_ids(latents[:1])
        packed = torch.cat([self._pack_latents(one) for one in latents])
        packed = packed.repeat_interleave(batch_size // len(latents), dim=0)
        return packed.to(device), places.repeat(batch_size, 1, 1).to(device)
