"""What the pipelines share: the codecs in their config, conditions, and how their repositories load."""

import inspect
from typing import Any

import numpy as np
import torch

from .seggen_choices import CONDITIONINGS
from .seggen_colormap import ColormapCodec
from .seggen_panoptic import PanopticCodec


def resize_nearest(segmentation_map, height: int, width: int):
    """Resize label ids `(..., H, W)` to the ids of the nearest pixel centers (as PIL's NEAREST); never mixes ids."""
    rows = (np.arange(height) * 2 + 1) * segmentation_map.shape[-2] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * segmentation_map.shape[-1] // (2 * width)
    return segmentation_map[..., rows[:, None], columns]


def condition_channels(conditioning: str, num_labels: int) -> int:
    """Channels of what `encode_condition` makes: ControlNet's `conditioning_channels`."""
    if conditioning not in CONDITIONINGS:
        raise ValueError(f"There is no conditioning {conditioning!r}; there are {', '.join(CONDITIONINGS)}.")
    return {"rgb": 3, "rgb_edges": 4, "bits": num_labels.bit_length() + 1}[conditioning]


def encode_condition(
    codec: ColormapCodec | PanopticCodec, segmentation_maps, height: int, width: int, conditioning: str = "rgb"
) -> torch.Tensor:
    """The condition of Mask2Img, in training and inference alike.

    Args:
        codec: of label ids, or of segments.
        segmentation_maps: label ids, or color indices of a `PanopticCodec`; `(H, W)`, `(B, H, W)` or a list of
            `(H, W)` of any sizes; numpy, torch or PIL.
        conditioning: `rgb`, the color map alone, as in the paper; `rgb_edges`, with a fourth channel that is 1 where
            a pixel touches one of another color, so along both sides of every border of segments; `bits`, those edges
            and the binary digits of the label id + 1 (0 is void), which are equally far from each other however many
            labels there are.
    Returns: `torch.Tensor` `(B, channels, height, width)`, float32 in [0, 1], on the CPU.
    """
    if isinstance(segmentation_maps, (list, tuple)):
        maps = list(segmentation_maps)
    else:
        maps = [segmentation_maps] if len(np.shape(segmentation_maps)) == 2 else list(segmentation_maps)
    maps = [m.cpu().numpy() if isinstance(m, torch.Tensor) else np.asarray(m) for m in maps]
    ids = np.stack([resize_nearest(m, height, width) for m in maps])
    colors = codec.colors if isinstance(codec, PanopticCodec) else codec
    num_channels = condition_channels(conditioning, codec.num_labels)
    if conditioning == "bits":
        is_void = ids == colors.ignore_index
        labels = np.where(is_void, 0, ids).astype(np.int64)
        labels = codec.label_of_color[labels] if isinstance(codec, PanopticCodec) else labels
        # Outlines have no label: they are void, and an edge.
        places = np.where(is_void, 0, labels + 1)[:, None] >> np.arange(num_channels - 1)[:, None, None]
        planes = (places & 1).astype(np.float32)
    else:
        planes = np.moveaxis(colors.encode(ids), -1, 1).astype(np.float32) / 255
    if conditioning != "rgb":
        planes = np.concatenate([planes, _touches_another(ids)[:, None]], axis=1)
    return torch.from_numpy(planes)  # (B, channels, height, width)


def _touches_another(ids: np.ndarray) -> np.ndarray:
    """1 where one of a pixel's four neighbours has another id, float32 `(B, H, W)`."""
    found = np.zeros(ids.shape, bool)
    for here, there in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        differ = ids[here] != ids[there]
        found[here] |= differ
        found[there] |= differ
    return found.astype(np.float32)


class ColormapPipelineMixin:
    """What all pipelines share: codecs that live in the config (`colormap`), and loading our own repositories."""

    # Of the diffusers pipeline that this is mixed into.
    config: Any
    unet: Any
    vae_scale_factor: int
    encode_prompt: Any
    _execution_device: torch.device

    @property
    def codec(self) -> ColormapCodec:
        """The codec of label ids; of a panoptic pipeline the one that paints each label with its first color."""
        return self._codecs[0]

    @property
    def panoptic_codec(self) -> PanopticCodec | None:
        """The codec of segments, if the pipeline was trained for panoptic or instance segmentation."""
        return self._codecs[1]

    @property
    def color_codec(self) -> ColormapCodec:
        """The codec of all colors that the pipeline's maps hold: `codec`, or that of the color indices of segments."""
        return self.panoptic_codec.colors if self.panoptic_codec else self.codec

    @property
    def conditioning(self) -> str:
        """What Mask2Img's ControlNet is shown of a map; one of `CONDITIONINGS`."""
        return (self.config.colormap or {}).get("conditioning", "rgb")

    @property
    def _codecs(self) -> tuple[ColormapCodec, PanopticCodec | None]:
        colormap = self.config.colormap
        if not colormap:
            raise ValueError(
                f"This {type(self).__name__} has no color map description. Pass colormap=codec.to_dict(), of the "
                f"codec that it was trained with, to {type(self).__name__}(...) or to from_pretrained."
            )
        cached = self.__dict__.get("_codec")
        if cached is None or cached[0] is not colormap:
            panoptic = PanopticCodec.from_dict(colormap) if "panoptic" in colormap else None
            cached = (colormap, (panoptic.plain if panoptic else ColormapCodec.from_dict(colormap), panoptic))
            self.__dict__["_codec"] = cached  # diffusers' __setattr__ looks every name up in the config
        return cached[1]

    @property
    def trained_size(self) -> tuple[int, int]:
        """Height and width that the training had; the base's own where `colormap` does not tell."""
        colormap, stock = self.config.colormap or {}, self.stock_size
        return colormap.get("height") or stock, colormap.get("width") or stock

    # SDXL's; pipelines of other bases have their own.

    @property
    def stock_size(self) -> int:
        """Height and width that the base was trained for."""
        return self.unet.config.sample_size * self.vae_scale_factor

    @property
    def size_factor(self) -> int:
        """What heights and widths are multiples of."""
        return self.vae_scale_factor

    @torch.no_grad()
    def encode_guided(self, captions: list[str]) -> dict[str, torch.Tensor]:
        """The arguments of a call that stand for `captions` under guidance, a row each."""
        encoded = self.encode_prompt(captions, device=self._execution_device, do_classifier_free_guidance=True)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return dict(zip(names, encoded, strict=True))

    def check_size(self, height: int, width: int) -> None:
        """Refuse sizes that the VAE cannot make: images and maps would differ in size."""
        factor = self.size_factor
        if height < 1 or width < 1 or height % factor or width % factor:
            raise ValueError(
                f"height and width are {height} and {width}; {type(self).__name__} makes multiples of {factor}."
            )

    @staticmethod
    def check_call_arguments(stock_class, arguments, taken=()) -> None:
        """Refuse arguments that the stock `__call__` lacks: it would swallow a misspelt one without a word."""
        known = set(inspect.signature(stock_class.__call__).parameters) - {"self", "kwargs", *taken}
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise TypeError(f"There is no argument {', '.join(unknown)}; {stock_class.__name__} has {sorted(known)}.")

    @classmethod
    def _dict_from_json_file(cls, json_file, **kwargs):
        """Our repositories name their class as [file, class], for `trust_remote_code`; an installed class needs none.

        diffusers reads model_index.json here, and would else ask even this class to run the repository's code.
        """
        stock: Any = super()  # of the diffusers pipeline that this is mixed into
        config = stock._dict_from_json_file(json_file, **kwargs)
        name = config.get("_class_name")
        if isinstance(name, list) and name[-1] == cls.__name__:
            config["_class_name"] = cls.__name__
        return config

    @classmethod
    def from_pipe(cls, pipeline, **kwargs):
        """As in diffusers, but keeps the components' dtype: its default casts those of `pipeline` to float32 too."""
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", pipeline.dtype)
        stock: Any = super()
        return stock.from_pipe(pipeline, **kwargs)
