"""The generators and the segmenter behind the page, checked against each other once."""

import contextlib
import os
import threading
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import PIL.Image
import torch

from seggen_hf.pipelines import ColormapCodec, Mask2ImgPipeline, Text2MaskPipeline

from ..arms import shown_arm
from ..config import SynthesisConfig
from ..data.schema import load_saved
from ..labels import LabelSet
from ..networks.modules import move
from ..runs.folder import RunFolder
from ..runs.stage_marker import read_marker
from ..segmenter.build import load_segmenter
from ..segmenter.inference import predict_panoptic, predict_semantic, without_windows
from ..synthesis.generators import check_labels, open_pipeline
from ..synthesis.quality import decode_scores, map_scores
from .drawing import Drawing


@dataclass(frozen=True, eq=False)
class DemoModels:
    """One visitor is served at a time.

    Args:
        config (`SynthesisConfig`): steps, guidance and decoding of both pipelines.
        segmenter: a Mask2Former and its processor, or None for a page without an answer.
    """

    text2mask: Text2MaskPipeline
    mask2img: Mask2ImgPipeline
    segmenter: tuple | None
    config: SynthesisConfig
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)

    @property
    def codec(self) -> ColormapCodec:
        return self.text2mask.codec

    @property
    def labels(self) -> LabelSet:
        return LabelSet.from_dict(self.codec.to_dict())

    @property
    def is_panoptic(self) -> bool:
        """Whether maps hold segments."""
        return self.text2mask.panoptic_codec is not None

    def draw_map(self, caption: str, seed: int, steps: int) -> tuple[Drawing, dict[str, float]]:
        """What Text2Mask draws for `caption`, and how clean it is (`decode_scores`)."""
        config = self.config
        with self._turn():
            output: Any = self.text2mask(
                caption,
                num_inference_steps=steps,
                guidance_scale=config.text2mask_guidance,
                max_color_distance=config.max_color_distance,
                min_region_area=config.min_region_area,
                fill_distance=config.fill_distance,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
                callback_on_step_end=self._stop_early,
            )
        labels, distance = output.segmentation_maps[0], output.distances[0]
        scores = decode_scores(labels, distance, config.max_color_distance, self.codec.ignore_index)
        if not self.is_panoptic:
            return Drawing(labels, self.codec), scores
        return self._drawing(output.panoptic_maps[0], output.segments_infos[0]), scores

    def draw_image(self, drawing: Drawing, caption: str, seed: int, steps: int) -> PIL.Image.Image:
        """The image that Mask2Img draws for a map and its caption, of the map's size."""
        with self._turn():
            output: Any = self.mask2img(
                caption,
                drawing.ids,
                segments_info=drawing.segments,
                num_inference_steps=steps,
                guidance_scale=self.config.mask2img_guidance,
                controlnet_conditioning_scale=self.config.conditioning_scale,
                generator=torch.Generator().manual_seed(seed),
                callback_on_step_end=self._stop_early,
            )
            return output.images[0]

    def answer(self, image: PIL.Image.Image) -> Drawing | None:
        """What the segmenter sees in `image`; None without one."""
        if self.segmenter is None:
            return None
        with self._turn():
            model, processor = self.segmenter
            if self.is_panoptic:
                return self._drawing(*predict_panoptic(model, processor, [image], self.codec.things)[0])
            return Drawing(predict_semantic(model, processor, [image])[0], self.codec)

    def _drawing(self, panoptic_map: np.ndarray, segments_info: list[dict]) -> Drawing:
        return Drawing(panoptic_map, self.codec, {s["id"]: s["category_id"] for s in segments_info})

    def scores(self, segmentation_map: np.ndarray) -> dict[str, float]:
        return map_scores(segmentation_map, self.codec.ignore_index)

    def close(self) -> None:
        """Stop after the denoising step that runs, and let nothing new begin: Python must not end under PyTorch."""
        self._closing.set()
        self._lock.acquire()

    @contextlib.contextmanager
    def _turn(self):
        with self._lock:
            if self._closing.is_set():
                raise RuntimeError("The demo is being stopped.")
            yield

    def _stop_early(self, pipeline, step, timestep, tensors: dict) -> dict:
        pipeline._interrupt = self._closing.is_set()
        return tensors


def models_of_run(run: str | os.PathLike) -> tuple[SynthesisConfig, str | None, str]:
    """The generators of a run with its recipe's sampling settings, its segmenter if there is one, and a caption.

    Generators that are not finished are None. Raises: `ValueError` for a folder that is no run.
    """
    run = RunFolder(run)
    recipe = run.recipe()
    config = recipe.synthesis
    trained = {}
    for name in ("text2mask", "mask2img"):
        own = str(run.stage(name)) if run.marker(name) else None
        trained[f"{name}_model"] = getattr(config, f"{name}_model") or own
    segmenter = run.segmenter(shown_arm(recipe), recipe.evaluation.seeds[0])
    caption = load_saved(run.captions)[0]["caption"] if run.marker("captions") else ""
    return replace(config, **trained), str(segmenter) if read_marker(segmenter) else None, caption


def load_models(config: SynthesisConfig, segmenter: str | None = None) -> DemoModels:
    """Load what `config.text2mask_model`, `config.mask2img_model` and `segmenter` name: folders or Hub ids.

    They go to the GPU if there is one. Raises: `ValueError` for one that cannot be read, and for other labels in
    Mask2Img or the segmenter than in Text2Mask.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not config.text2mask_model or not config.mask2img_model:
        raise ValueError("The demo needs a Text2Mask and a Mask2Img; name them with --text2mask and --mask2img.")
    text2mask = open_pipeline(Text2MaskPipeline, config.text2mask_model, config)
    mask2img = open_pipeline(Mask2ImgPipeline, config.mask2img_model, config)
    for pipeline in (text2mask, mask2img):
        pipeline.set_progress_bar_config(disable=True)  # the page has its own
    labels = LabelSet.from_dict(text2mask.codec.to_dict())
    check_labels(config.mask2img_model, mask2img.codec, labels)
    if (text2mask.panoptic_codec is None) != (mask2img.panoptic_codec is None):
        raise ValueError(
            f"One of {config.text2mask_model} and {config.mask2img_model} draws segments, and the other labels alone."
        )
    loaded = None
    if segmenter is not None:
        model, processor = load_segmenter(segmenter, labels)
        loaded = (move(model, device).eval(), without_windows(processor))  # drawn images have the size of tiles
    return DemoModels(text2mask.to(device), mask2img.to(device), loaded, config)
