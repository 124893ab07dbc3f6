"""What every Text2Mask pipeline does with the color maps that its base draws: they become segmentation maps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput

from .seggen_pipeline import ColormapPipelineMixin


@dataclass
class Text2MaskOutput(BaseOutput):
    """
    Args:
        color_maps: what the model drew: list of PIL images, `(B, H, W, 3)` array or `(B, 3, H, W)` tensor in [0, 1],
            as `output_type` asks; the latents for `output_type="latent"`.
        segmentation_maps: label ids (int64) and `ignore_index`: list of `(H, W)` arrays, `(B, H, W)` array or tensor.
        distances: of each pixel to its label's color (float32, 0-255 RGB units), in the same form.
        panoptic_maps: of a panoptic pipeline: list of `(H, W)` int32 arrays of segment ids, 0 for void.
        segments_infos: of a panoptic pipeline: for each map a list of dicts, see `DecodedPanoptic`.
    """

    color_maps: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    segmentation_maps: list[np.ndarray] | np.ndarray | torch.Tensor | None
    distances: list[np.ndarray] | np.ndarray | torch.Tensor | None
    panoptic_maps: list[np.ndarray] | None = None
    segments_infos: list[list[dict]] | None = None


class Text2MaskMixin(ColormapPipelineMixin):
    """Reads what a diffusers pipeline draws with the codec in its config."""

    image_processor: Any

    def read_color_maps(
        self,
        rgb: torch.Tensor,
        max_color_distance: float | None,
        min_region_area: int,
        fill_distance: int,
        output_type: str,
    ) -> Text2MaskOutput:
        """Nearest palette color of each pixel, `ignore_index` where none is near.

        Args:
            rgb: `(B, 3, H, W)` in [0, 1]; pixels that are no numbers become `ignore_index`, at distance infinity.
            output_type: `pil`, `np` or `pt`, the form of the output.
        """
        broken = ~rgb.isfinite().all(dim=1)  # (B, H, W)
        rgb = rgb.nan_to_num(0.0)
        panoptic_maps = segments_infos = None
        maps: Any
        distances: Any
        if self.panoptic_codec:
            pixels = rgb.float().movedim(1, -1).cpu().numpy()
            read = [self.panoptic_codec.decode(p, max_color_distance, min_region_area or None) for p in pixels]
            panoptic_maps, segments_infos = [r.panoptic_map for r in read], [r.segments_info for r in read]
            maps, distances = (
                torch.from_numpy(np.stack(part)).to(rgb.device)
                for part in ([r.segmentation_map for r in read], [r.distance for r in read])
            )
        else:
            maps, distances = self.codec.decode(rgb, max_color_distance, min_region_area, fill_distance)  # (B, H, W)
        maps[broken], distances[broken] = self.codec.ignore_index, torch.inf

        # The form that was asked for.
        if output_type != "pt":
            rgb = self.image_processor.pt_to_numpy(rgb)  # (B, H, W, 3)
            maps, distances = maps.cpu().numpy(), distances.cpu().numpy()
        if output_type == "pil":
            rgb, maps, distances = self.image_processor.numpy_to_pil(rgb), list(maps), list(distances)
        return Text2MaskOutput(rgb, maps, distances, panoptic_maps, segments_infos)

    def check_decoding(self, max_color_distance, min_region_area, fill_distance, output_type) -> None:
        """Refuse a call whose result could not be read. `check_inputs` is the name of the stock loop's own check."""
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type is {output_type!r}; it must be pil, np, pt or latent.")
        if output_type != "latent":
            _ = self.codec
        if max_color_distance is not None and not max_color_distance >= 0:
            raise ValueError(f"max_color_distance is {max_color_distance}; it must be 0 or more, or None.")
        if min_region_area < 0:
            raise ValueError(f"min_region_area is {min_region_area}; it must be 0 (keep all regions) or more.")
        if fill_distance < 0:
            raise ValueError(f"fill_distance is {fill_distance}; it must be 0 (fill nothing) or more pixels.")
