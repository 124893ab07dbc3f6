"""What every Mask2Img pipeline does with the maps that it is given: they are read, whichever form they have."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

from .seggen_pipeline import ColormapPipelineMixin


@dataclass
class Mask2ImgOutput(BaseOutput):
    """
    Args:
        images: list of PIL images, `(B, H, W, 3)` array or `(B, 3, H, W)` tensor in [0, 1], as `output_type` asks; the
            latents for `output_type="latent"`.
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor


class Mask2ImgMixin(ColormapPipelineMixin):
    """Reads segmentation maps with the codec in a diffusers pipeline's config, and undoes its images' gamma."""

    # Of the diffusers pipeline that this is mixed into.
    image_processor: Any

    @property
    def image_gamma(self) -> float:
        """The power that the training raised images, in [0, 1], to; below 1 brightens."""
        return (self.config.colormap or {}).get("image_gamma", 1.0)

    def drawn_type(self, output_type: str) -> str:
        """What to ask the stock loop for: floats, where `undo_gamma` changes them before they are rounded."""
        return output_type if output_type == "latent" or self.image_gamma == 1 else "pt"

    def undo_gamma(self, images, output_type: str):
        """Images of this output type from those of `drawn_type`, as dark or bright as the training's own."""
        if output_type == "latent" or self.image_gamma == 1:
            return images
        images = images.float() ** (1 / self.image_gamma)
        return self.image_processor.postprocess(images, output_type, do_denormalize=[False] * len(images))

    def choose_size(self, maps: list[np.ndarray], height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of the images: as given, else those of the first map, rounded down.

        Raises: `ValueError` for maps of several sizes, and a size that the VAE cannot make.
        """
        if (height is None or width is None) and len({m.shape for m in maps}) > 1:
            raise ValueError(
                f"The maps have sizes {sorted({m.shape for m in maps})}; give the height and width to draw."
            )
        factor = self.size_factor
        height = height or int(maps[0].shape[0]) // factor * factor
        width = width or int(maps[0].shape[1]) // factor * factor
        self.check_size(height, width)
        return height, width

    def read_conditions(self, segmentation_map, segments_info=None, max_color_distance=0.0) -> list[np.ndarray]:
        """What `color_codec` paints, `(H, W)` each: label ids, or color indices of a panoptic pipeline."""
        if segments_info is None:
            return self.read_segmentation_maps(segmentation_map, max_color_distance)
        if self.panoptic_codec is None:
            raise ValueError("segments_info is given, but this pipeline was trained without segments; leave it out.")
        maps = [m for item in _as_list(segmentation_map) for m in _as_list(_read_values(item)[0], rank=2)]
        infos = [segments_info] if segments_info and isinstance(segments_info[0], dict) else list(segments_info)
        if len(maps) != len(infos):
            raise ValueError(f"There are {len(maps)} maps and {len(infos)} lists of segments; give one for each map.")
        return [self.panoptic_codec.index(m, info) for m, info in zip(maps, infos, strict=True)]

    def read_segmentation_maps(self, segmentation_map, max_color_distance: float = 0.0) -> list[np.ndarray]:
        """Ids `(H, W)` of each given map, whichever form it has, as `color_codec` paints them; see `__call__`."""
        if segmentation_map is None:
            raise ValueError("Mask2Img needs segmentation_map: label ids or color maps, one for each caption.")
        if isinstance(segmentation_map, (list, tuple)):
            if len(segmentation_map) == 0:
                raise ValueError("segmentation_map is an empty list; give one map, or as many as captions.")
            return [m for item in segmentation_map for m in self.read_segmentation_maps(item, max_color_distance)]

        values, is_color = _read_values(segmentation_map)
        if not is_color:
            if values.ndim not in (2, 3) or not np.issubdtype(values.dtype, np.integer):
                raise ValueError(
                    f"A segmentation_map of shape {values.shape} and type {values.dtype} is neither label ids, "
                    f"integers (H, W) or (B, H, W), nor an RGB color map."
                )
            maps = list(values) if values.ndim == 3 else [values]
            return [self.panoptic_codec.index_labels(m) for m in maps] if self.panoptic_codec else maps

        maps, distances = self.color_codec.decode(values, max_distance=max_color_distance or None)
        if not max_color_distance and distances.max() > 0:
            share = float((distances > 0).mean())
            raise ValueError(
                f"{share:.1%} of the color map's pixels have none of this pipeline's colors (the furthest is "
                f"{distances.max():.0f} RGB units away). Paint it with pipe.codec.encode(segmentation_map), pass the "
                f"segmentation_map itself (three maps of label ids as a list: uint8 tensors (3, H, W) are read as "
                f"color), or allow noise with max_color_distance."
            )
        return list(maps) if maps.ndim == 3 else [maps]

    @staticmethod
    def check_count(maps, prompt, prompt_embeds) -> None:
        if prompt is None and prompt_embeds is None:
            return  # the stock loop's own check tells
        captions = [prompt] if isinstance(prompt, str) else prompt if prompt is not None else prompt_embeds
        if len(maps) not in (1, len(captions)):
            raise ValueError(f"There are {len(maps)} maps for {len(captions)} captions; give one, or one for each.")


def _as_list(given, rank: int | None = None) -> list:
    """A list of maps as it is, a batch taken apart, one map alone."""
    if isinstance(given, (list, tuple)):
        return list(given)
    return list(given) if rank is not None and given.ndim == rank + 1 else [given]


def _read_values(given) -> tuple[np.ndarray, bool]:
    """The numbers of a map, channels last, and whether they are colors."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        # Three channels of uint8 are what `codec.encode` makes of a tensor.
        is_encoded = given.ndim == 3 and given.shape[0] == 3 and given.dtype == torch.uint8
        is_color = given.is_floating_point() or given.ndim == 4 or is_encoded
        values = (given.float() if given.is_floating_point() else given).numpy()
        return (np.moveaxis(values, -3, -1) if is_color and values.ndim in (3, 4) else values), is_color
    if isinstance(given, PIL.Image.Image):
        if given.mode not in ("L", "P", "I", "RGB", "RGBA", "LA", "PA") and not given.mode.startswith("I;16"):
            raise ValueError(
                f"A segmentation_map of PIL mode {given.mode} is neither label ids (L, P, I, I;16) nor an RGB color "
                f"map."
            )
        values = np.asarray(given)  # palette images give their indices
        if given.mode in ("LA", "PA"):
            return values[..., 0], False
        return values[..., :3] if values.ndim == 3 else values, values.ndim == 3
    values = np.asarray(given)
    return values, values.ndim == 4 or (values.ndim == 3 and values.shape[-1] == 3)
