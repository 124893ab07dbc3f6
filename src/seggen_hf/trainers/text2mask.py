"""Text2Mask's training: caption -> color map, the base's whole network or a LoRA of it (SegGen, arXiv:2311.03355)."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..config import SynthesisConfig, Text2MaskConfig
from ..data.captions import simple_name
from .generator import save_pipeline
from .network import NetworkTask

# A pixel counts as decoded with confidence within the distance that synthesis accepts (0-255 RGB units).
_CONFIDENT_DISTANCE = SynthesisConfig().max_color_distance


def map_validity(segmentation_map: np.ndarray, caption: str, id2label: dict[int, str], ignore_index: int) -> dict:
    """How far a generated map says what its caption says.

    Returns: `valid_share`, of pixels with a label; `captioned_labels`, labels whose names the caption holds; `found`,
    those of them that cover a pixel.
    """
    present = set(np.unique(segmentation_map).tolist()) - {ignore_index}
    words = caption.lower()
    named = {i for i, name in id2label.items() if re.search(rf"\b{re.escape(simple_name(name))}(?:e?s)?\b", words)}
    return {
        "valid_share": float((segmentation_map != ignore_index).mean()),
        "captioned_labels": len(named),
        "found": len(named & present),
    }


class Text2MaskTask(NetworkTask):
    """Trains the base's network to draw the color map of a caption."""

    config: Text2MaskConfig

    def to_pipeline(self, network: Any = None) -> Any:
        """The Text2Mask pipeline of the base's family, of the current weights (or of `network`); its modules are the
        task's own."""
        return self.family.text2mask_class(**self.family.parts(network), colormap=self.colormap)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Draw the maps of fixed captions with fixed seeds into `folder/step-XXXXXXXX.png`, captions beside it.

        Rows of the picture: the record's map, what the model drew, and how that was read (void where no label's color
        is near).

        Returns: `decode_confidence` (share of pixels within 60 RGB units of a label's color), `decode_distance`
        (mean), `labels_per_map`, and where captions name labels `captioned_labels_found` (share of them drawn);
        nothing without validation images.
        """
        indices = self.validation_indices()
        if not indices:
            return {}
        pipeline = self.to_pipeline()
        maps, distances, drawn, read = [], [], [], []
        for output in self.draw_validation(pipeline, indices, max_color_distance=_CONFIDENT_DISTANCE):
            drawn += list(np.rint(output.color_maps * 255).astype(np.uint8))
            maps += list(output.segmentation_maps)
            if self.panoptic_codec:
                segments = zip(output.panoptic_maps, output.segments_infos, strict=True)
                read += [self.panoptic_codec.encode(*pair) for pair in segments]
            else:
                read += [self.codec.encode(m) for m in output.segmentation_maps]
            distances += list(output.distances)
        real = [self.codec.encode(self.views.resized_map(i)) for i in indices]
        self.write_validation([real, drawn, read], indices, step, folder)
        facts = [
            map_validity(m, self.captions[i], self.id2label, pipeline.codec.ignore_index)
            for m, i in zip(maps, indices, strict=True)
        ]
        numbers = {
            "decode_confidence": float(np.mean([f["valid_share"] for f in facts])),
            "decode_distance": float(np.mean(distances)),
            "labels_per_map": float(np.mean([len(set(np.unique(m)) - {pipeline.codec.ignore_index}) for m in maps])),
        }
        if named := sum(f["captioned_labels"] for f in facts):
            numbers["captioned_labels_found"] = sum(f["found"] for f in facts) / named
        return numbers

    def save(self, folder: Path) -> None:
        """Write the Text2Mask pipeline into `folder`, safetensors; of a LoRA also the adapter, in `folder/lora`.

        The pipeline of a LoRA holds the base's float32 network with the LoRA added to its weights: it needs no peft.
        """
        save_pipeline(self.to_pipeline(self.finished_network(folder)), folder)
