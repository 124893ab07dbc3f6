"""What the trainings of Mask2Img share, whatever way the base is shown the map: conditions, validation, scores."""

from pathlib import Path
from typing import Any

import numpy as np

from seggen_hf.pipelines import PanopticCodec, encode_condition

from ..config import Mask2ImgConfig
from ..labels import LabelSet
from ..metrics import MeanIoU
from ..networks.modules import move
from ..segmenter.build import load_segmenter
from ..segmenter.inference import predict_semantic, without_windows
from .families.family import Family
from .generator import GeneratorTask


class PaintedMapTask(GeneratorTask):
    """Trains a base to draw images that fit their maps; subclasses say how it is shown them."""

    config: Mask2ImgConfig
    needs_image = True

    def __init__(
        self,
        family: Family,
        config: Mask2ImgConfig,
        records,
        labels: LabelSet,
        panoptic_codec: PanopticCodec | None = None,
    ):
        super().__init__(family, config, records, labels, panoptic_codec)
        self.labels = labels
        self.segmenter = None
        if config.validation_segmenter:
            self.segmenter = load_segmenter(config.validation_segmenter, labels)

    def to_pipeline(self) -> Any:
        """The Mask2Img pipeline of the current weights; its modules are the task's."""
        raise NotImplementedError

    def collate(self, samples: list[dict]) -> dict:
        batch = super().collate(samples)
        maps = np.stack([sample["segmentation_map"] for sample in samples])
        codec = self.panoptic_codec or self.codec
        batch["condition"] = encode_condition(codec, maps, *self.size, self.config.conditioning)
        return batch

    @property
    def image_gamma(self) -> float:
        return self.config.image_gamma

    @property
    def colormap(self) -> dict:
        conditioning, gamma = self.config.conditioning, self.image_gamma
        facts = {"conditioning": conditioning} if conditioning != "rgb" else {}
        return super().colormap | facts | ({"image_gamma": gamma} if gamma != 1 else {})

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Draw images of fixed maps and captions with fixed seeds into `folder/step-XXXXXXXX.png`.

        Rows of the picture: the map, the image drawn from it, the record's own image.

        Returns: with a validation segmenter `alignment_pixel_accuracy` and `alignment_mIoU` of its prediction on the
        drawn images against their maps, and the same of the real images (`real_...`) to compare with;
        nothing without validation images.
        """
        indices = self.validation_indices()
        if not indices:
            return {}
        maps = [self.views.resized_map(i) for i in indices]
        painted = [self.codec.encode(m) for m in maps]
        outputs = self.draw_validation(self.to_pipeline(), indices, segmentation_map=painted)
        drawn = [image for output in outputs for image in np.rint(output.images * 255).astype(np.uint8)]
        real = [self.views.resized_image(i) for i in indices]
        self.write_validation([painted, drawn, real], indices, step, folder)
        return self._alignment(drawn, maps, "alignment") | self._alignment(real, maps, "real")

    def _alignment(self, images: list[np.ndarray], maps: list[np.ndarray], name: str) -> dict[str, float]:
        if self.segmenter is None:
            return {}
        model, processor = self.segmenter
        move(model, self.device)
        score = MeanIoU(self.labels.num_labels, self.labels.ignore_index)
        for predicted, drawn_map in zip(
            predict_semantic(model, without_windows(processor), images), maps, strict=True
        ):
            score.update(predicted, self._label_map(drawn_map))
        move(model, "cpu")
        found = score.compute()
        return {f"{name}_pixel_accuracy": found["pixel_accuracy"], f"{name}_mIoU": found["mIoU"]}

    def _label_map(self, ids: np.ndarray) -> np.ndarray:
        """Label ids of what `codec` paints."""
        if self.panoptic_codec is None:
            return ids
        is_void = ids == self.codec.ignore_index
        labels = self.panoptic_codec.label_of_color[np.where(is_void, 0, ids)]
        return np.where(is_void, self.labels.ignore_index, labels)
