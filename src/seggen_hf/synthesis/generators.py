"""The two pipelines as the engine uses them: checked, told apart, quiet, with each caption encoded once."""

import contextlib
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from seggen_hf.pipelines import (
    Flux2Mask2ImgPipeline,
    Flux2Text2MaskPipeline,
    Mask2ImgPipeline,
    Text2MaskPipeline,
)

from ..config import SynthesisConfig
from ..labels import LabelSet, differing_labels
from ..networks.pipeline_index import read_index
from ..networks.weights import check_pipeline
from ..storage.content_digests import weights_digest

logger = logging.getLogger(__name__)

MAX_VAE_DIFFERENCE = 2 / 255  # of colors in [0, 1] between an autoencoder's precisions
CACHED_CAPTIONS = 256  # SDXL: 0.3 MB each in fp16
CACHED_BYTES = 256e6  # FLUX.2: 7.9 MB each
TRAINED = ("conditioning", "image_gamma")  # what `colormap` tells of a Mask2Img that was trained in another way


# Of each kind of pipeline that of each family of bases; the first is SDXL's.
_CLASSES = ((Text2MaskPipeline, Flux2Text2MaskPipeline), (Mask2ImgPipeline, Flux2Mask2ImgPipeline))


def open_pipeline(pipeline_class: Any, name_or_path: str, config: SynthesisConfig) -> Any:
    """One of our pipelines from a folder or Hub id, safetensors only, in the precision that `config` names.

    Args:
        pipeline_class: `Text2MaskPipeline` or `Mask2ImgPipeline`; on another base than SDXL it is that one's class.
    Raises: `ValueError` if there is none of the kind.
    """
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(config.mixed_precision, torch.float32)
    try:
        name = read_index(name_or_path).get("_class_name")
        name = name[-1] if isinstance(name, list) else name
        kinds = next((classes for classes in _CLASSES if classes[0] is pipeline_class), (pipeline_class,))
        pipeline_class = next((kind for kind in kinds if kind.__name__ == name), pipeline_class)
        pipeline = pipeline_class.from_pretrained(name_or_path, use_safetensors=True, dtype=dtype)
        check_pipeline(name_or_path, pipeline)
        return pipeline
    except (OSError, ValueError) as error:
        raise ValueError(f"{name_or_path} cannot be read as a {pipeline_class.__name__}: {error}") from error


def check_labels(name: str, codec, labels: LabelSet) -> None:
    """Raise `ValueError` if the generator `name` was trained with other labels than the records have."""
    if differences := differing_labels(codec, labels):
        raise ValueError(
            f"{name} was trained with {codec.num_labels} labels and ignore_index {codec.ignore_index}; the records "
            f"have {labels.num_labels} and {labels.ignore_index}, with other ones: {differences}. "
            f"Use records with the labels of its training."
        )


def is_offloaded(pipeline) -> bool:
    """Whether the pipeline moves its components by itself."""
    hooked = any(hasattr(part, "_hf_hook") for part in pipeline.components.values())
    return hooked or getattr(pipeline, "hf_device_map", None) is not None


def place(pipeline, offload: str, device: torch.device) -> None:
    """Move `pipeline` to `device`, or let it move its parts there as they are used; one that does already, stays."""
    if is_offloaded(pipeline):
        return
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif pipeline.device != device:
        pipeline.to(device)


@contextlib.contextmanager
def decoding(pipelines: Iterable, config: SynthesisConfig):
    """With the autoencoders' slicing and precision that `config` names; both are put back."""
    vaes = [pipeline.vae for pipeline in pipelines]
    before = [(vae, vae.use_slicing, _upcasts(vae), vars(vae).get("decode")) for vae in vaes]
    for vae in vaes:
        vae.use_slicing = vae.use_slicing or config.vae_slicing
        if config.vae_precision == "same" and vae.dtype == torch.float16 and _upcasts(vae):
            _decode_as_it_is(vae)
    try:
        yield
    finally:
        for vae, sliced, force_upcast, decode in before:
            vae.use_slicing = sliced
            if _upcasts(vae) != force_upcast:
                vae.register_to_config(force_upcast=force_upcast)
            vars(vae).pop("decode", None)
            if decode is not None:  # somebody's own
                vae.decode = decode


def _upcasts(vae) -> bool:
    """Whether the stock pipeline decodes in float32 whatever the precision; FLUX.2's never does."""
    return vae.config.get("force_upcast", False)


def _decode_as_it_is(vae) -> None:
    """Decode in float16, unless the first batch differs from what float32 makes of it, or is not finite."""
    decode = vae.decode
    vae.register_to_config(force_upcast=False)  # what the stock pipelines ask before they decode

    def checked(latents, *args, **kwargs):
        vae.decode = decode  # of later batches
        half = decode(latents, return_dict=False)[0]
        vae.to(dtype=torch.float32)
        full = decode(latents.float(), return_dict=False)[0]
        vae.to(dtype=torch.float16)  # every float16 is a float32: the weights are what they were
        # Colors lie in [-1, 1] here, and those beyond are cut off later.
        difference = ((half.float().clamp(-1, 1) - full.clamp(-1, 1)).abs().max() / 2).item()
        if half.isfinite().all() and difference <= MAX_VAE_DIFFERENCE:
            return (half,)
        vae.register_to_config(force_upcast=True)
        logger.warning(
            "The autoencoder decodes in float32: in float16 the first batch differs by %.3f (colors in [0, 1]), and "
            "--vae_precision same allows %.3f.", difference, MAX_VAE_DIFFERENCE,
        )  # fmt: skip
        return (full,)

    vae.decode = checked


@contextlib.contextmanager
def quiet(pipelines: Iterable):
    """Without the pipelines' own progress bars; their settings are put back."""
    before = [(pipeline, getattr(pipeline, "_progress_bar_config", None)) for pipeline in pipelines]
    for pipeline, settings in before:
        pipeline.set_progress_bar_config(**{**(settings or {}), "disable": True})
    try:
        yield
    finally:
        for pipeline, settings in before:
            pipeline.set_progress_bar_config(**(settings or {}))


def generator_digest(pipeline) -> str:
    """Tells generators apart: by their weights, and by the settings of scheduler and codec."""
    scheduler = {key: value for key, value in pipeline.scheduler.config.items() if not key.startswith("_")}
    trained = {name: value for name, value in pipeline.config.colormap.items() if name in TRAINED}
    colors = (pipeline.panoptic_codec or pipeline.codec).to_dict() | trained
    settings = [type(pipeline).__name__, colors, type(pipeline.scheduler).__name__, scheduler]
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    text = json.dumps([*settings, weights_digest(modules)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class PromptCache:
    """Embeddings of the captions used last, each computed once by the pipeline's own text encoders."""

    def __init__(self, pipeline, capacity: int = CACHED_CAPTIONS):
        self.pipeline, self.capacity = pipeline, capacity
        self.num_encoded = 0
        self._entries: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()
        self._negative: dict[str, torch.Tensor] = {}

    def __call__(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """The pipelines' arguments that stand for a batch of prompts, one row a caption."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._entries]
        if missing:
            encoded = self.pipeline.encode_guided(missing)
            self.num_encoded += len(missing)
            self._negative = {name: rows[:1] for name, rows in encoded.items() if name.startswith("negative")}
            kept = [name for name in encoded if name not in self._negative]
            self._entries |= {missing[i]: {name: encoded[name][i] for name in kept} for i in range(len(missing))}
        for caption in captions:
            self._entries.move_to_end(caption)
        chosen = [self._entries[caption] for caption in captions]
        size = sum(part.nbytes for part in chosen[0].values())
        while len(self._entries) > max(1, min(self.capacity, CACHED_BYTES // size)):
            self._entries.popitem(last=False)
        negative = {name: row.expand(len(chosen), *row.shape[1:]) for name, row in self._negative.items()}
        return {name: torch.stack([entry[name] for entry in chosen]) for name in chosen[0]} | negative
