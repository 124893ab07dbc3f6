"""Mask2Former for this project: built from a size, a Hub id or a config, and run at the images' own size.

`transformers` resizes every output to 384 x 384 and ignores padding; `predict_semantic` enlarges mask logits to the
input's size, cuts the padding off and resizes to the original, as the original code does.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import (
    AutoImageProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
)
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from .labels import LabelSet
from .segmenter_configs import SEGMENTER_NAMES, named_config

SCORES_BYTES = 256 * 2**20  # of enlarged masks and scores of one image held at once while it is predicted
SIZE_DIVISOR = 32  # coarsest feature level; inputs are padded to a multiple of it


def build_segmenter(
    name_or_path: str | Path,
    labels: LabelSet,
    revision: str | None = None,
    backbone_model: str | None = None,
    short_side: int | None = None,
    seed: int = 0,
):
    """Build a Mask2Former for `labels` and the processor that travels with it.

    Args:
        name_or_path: one of `SEGMENTER_NAMES` (random weights); a Hub id or folder with weights; a folder with
            nothing but a config.json, or a JSON file (random weights). A class head of another size is made anew.
        revision (`str`): commit, tag or branch of a Hub id.
        backbone_model (`str`): Hub id or folder whose weights the backbone takes (`microsoft/resnet-50`). A
            Mask2Former built from a config has a random backbone otherwise: transformers loads none.
        short_side (`int`): inference resizes the images' short side to it; by default as the loaded processor says,
            and not at all for random weights.
        seed (`int`): of all random weights; the global generator is left as it was.

    Returns: the model (float32, batch norm of a pretrained backbone frozen) and its image processor.
    Raises: `ValueError` if there is no Mask2Former under that name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config, weights = find_config(name_or_path, revision)
        # Without the auxiliary loss transformers 5.23 fails on a forward pass that does not ask for hidden states.
        config.use_auxiliary_loss = True
        config.id2label, config.label2id = labels.id2label, labels.label2id
        if weights:
            model = Mask2FormerForUniversalSegmentation.from_pretrained(
                name_or_path,
                revision=revision,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
            )
        else:
            model = Mask2FormerForUniversalSegmentation(config)
    if backbone_model is not None:
        _load_backbone(model, backbone_model)
    if weights or backbone_model is not None:
        freeze_batch_norm(model)
    processor = _build_processor(name_or_path if weights else None, revision, labels, short_side)
    return model, processor


def load_segmenter(name_or_path: str | Path, labels: LabelSet):
    """A trained segmenter that predicts `labels`, and its processor; for scoring, where a new head would be nonsense.

    Raises: `ValueError` if there is none, or it has other labels.
    """
    config, has_weights = find_config(name_or_path, None)
    if not has_weights:
        raise ValueError(f"{name_or_path} has no weights; name a trained segmenter.")
    if differences := differing_labels(config.id2label, labels):
        raise ValueError(f"The segmenter {name_or_path} and the records have other labels: {differences}.")
    return build_segmenter(name_or_path, labels)


def differing_labels(id2label: dict[int, str], labels: LabelSet, limit: int = 5) -> str:
    """`id: name of the segmenter / name of the records` of the first labels that differ; empty if none does."""
    theirs = {int(i): name for i, name in id2label.items()}
    ids = [i for i in sorted(theirs.keys() | labels.id2label.keys()) if theirs.get(i) != labels.id2label.get(i)]
    told = [f"{i}: {theirs.get(i, 'none')} / {labels.id2label.get(i, 'none')}" for i in ids[:limit]]
    return ", ".join(told) + (f" and {len(ids) - limit} more" if len(ids) > limit else "")


def find_config(name_or_path, revision) -> tuple[Mask2FormerConfig, bool]:
    """The configuration, and whether weights belong to it."""
    if str(name_or_path) in SEGMENTER_NAMES:
        return named_config(str(name_or_path)), False
    path = Path(name_or_path)
    if path.suffix == ".json" and path.is_file():
        return _checked(Mask2FormerConfig.from_dict(json.loads(path.read_text())), path), False
    try:
        config = Mask2FormerConfig.from_pretrained(name_or_path, revision=revision)
    except OSError as error:
        raise ValueError(
            f"There is no segmenter {str(name_or_path)!r}: {str(error).splitlines()[0]} Give --model a Hub id, a "
            f"folder or JSON file with a Mask2Former configuration, or one of {list(SEGMENTER_NAMES)}."
        ) from error
    has_weights = not path.is_dir() or any(path.glob("*.safetensors"))
    return _checked(config, name_or_path), has_weights


def _checked(config: Mask2FormerConfig, source) -> Mask2FormerConfig:
    if config.model_type != "mask2former":
        raise ValueError(f"{source} is a {config.model_type}; only Mask2Former can be trained here.")
    return config


def _load_backbone(model, backbone_model: str) -> None:
    """Copy the weights of `backbone_model` into the model's backbone, which must be of the same shape."""
    encoder = model.model.pixel_level_module.encoder
    # Not AutoBackbone, which in transformers 5.23 takes any path to a folder for a Hub id and refuses it.
    try:
        backbone, report = type(encoder).from_pretrained(
            backbone_model,
            config=encoder.config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except OSError as error:
        raise ValueError(f"There is no backbone {backbone_model!r}: {str(error).splitlines()[0]}") from error
    # A Swin classifier has no norms of its stages; Mask2Former trains those from scratch.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("hidden_states_norms."))
    missing += [name for name, *_ in sorted(report["mismatched_keys"])]
    if missing:
        raise ValueError(
            f"The weights of {backbone_model} do not fit the segmenter's {encoder.config.model_type} backbone: "
            f"{len(missing)} are missing or of another size, first {missing[0]}. Set backbone_config in the "
            "segmenter's config to that of the model."
        )
    encoder.load_state_dict(backbone.state_dict())


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that keeps its statistics and affine parameters, also in training mode (as detectron2 for R50)."""

    def train(self, mode: bool = True):
        return super().train(False)


def freeze_batch_norm(model: nn.Module) -> int:
    """Freeze all batch norms in place; the state dict keeps its names. Returns how many there are.

    Small batches would spoil pretrained statistics, and make the loss depend on how a batch is split over processes.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.__class__ = FrozenBatchNorm2d
        module.requires_grad_(False).eval()
    return len(norms)


def _build_processor(name_or_path, revision, labels: LabelSet, short_side: int | None):
    if name_or_path is None:
        processor = Mask2FormerImageProcessorPil(do_resize=False)
    else:
        try:
            processor = AutoImageProcessor.from_pretrained(name_or_path, revision=revision, backend="pil")
        except OSError:  # weights saved without a processor
            processor = Mask2FormerImageProcessorPil(do_resize=False)
    processor.ignore_index = labels.ignore_index
    processor.do_reduce_labels = False  # ids are ours, contiguous from 0
    processor.num_labels = labels.num_labels
    if short_side is not None:
        processor.do_resize = True
        processor.size = {"shortest_edge": short_side, "longest_edge": 4 * short_side}  # 512 and 2048 for ADE20K
    return processor


def normalize(images: np.ndarray, processor) -> torch.Tensor:
    """uint8 RGB `(..., height, width, 3)` -> float32 `(..., 3, height, width)`, scaled as the processor says."""
    mean = torch.tensor(processor.image_mean, dtype=torch.float32)
    std = torch.tensor(processor.image_std, dtype=torch.float32)
    pixels = torch.from_numpy(np.array(images)).float() * processor.rescale_factor
    return ((pixels - mean) / std).movedim(-1, -3).contiguous()


def inference_size(height: int, width: int, processor) -> tuple[int, int]:
    """Height and width at which the model sees an image, before padding: as the processor says, aspect kept."""
    size = processor.size
    if not processor.do_resize or not _get(size, "shortest_edge"):
        return height, width
    scale = _get(size, "shortest_edge") / min(height, width)
    if _get(size, "longest_edge"):
        scale = min(scale, _get(size, "longest_edge") / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _get(size, name: str):
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)


def describe_inference(processor) -> str:
    """One sentence on the resolution at which `predict_semantic` works, for reports."""
    if not processor.do_resize or not _get(processor.size, "shortest_edge"):
        seen = "Images enter the model at their own size"
    else:
        seen = (
            f"Images enter the model with a short side of {_get(processor.size, 'shortest_edge')} pixels "
            f"(long side at most {_get(processor.size, 'longest_edge')})"
        )
    return (
        f"{seen}, padded to a multiple of {SIZE_DIVISOR}; mask logits are enlarged to the input size, cropped, "
        "resized to the original size (bilinear) and scored there. One scale, no flip."
    )


@torch.no_grad()
def predict_semantic(
    model: nn.Module, processor, images: list, batch_size: int = 8, return_scores: bool = False
) -> list[np.ndarray]:
    """Predict the label of each pixel of `images`, at their original sizes.

    An image's result does not depend on the others: only images of one padded size share a batch.

    Args:
        images: PIL images or uint8 RGB arrays `(height, width, 3)`; sizes may differ.
        batch_size (`int`): images per forward pass.
        return_scores (`bool`): return the scores instead, float32 `(num_labels, height, width)`: probability-weighted
            sums of mask probabilities, as Mask2Former's semantic inference (not normalized to 1).

    Returns: one int32 map `(height, width)` per image, without `ignore_index`: each pixel gets a label.
    """
    arrays = [np.asarray(i.convert("RGB")) if isinstance(i, Image.Image) else np.asarray(i) for i in images]
    inputs, groups = [], {}
    for index, array in enumerate(arrays):
        height, width = inference_size(*array.shape[:2], processor)
        if (height, width) != array.shape[:2]:
            array = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))
        inputs.append(array)
        padded = tuple(-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (height, width))
        groups.setdefault(padded, []).append(index)

    device = next(model.parameters()).device
    dtype = next(model.parameters()).dtype
    results: list = [None] * len(arrays)
    was_training = model.training
    model.eval()
    try:
        for padded, members in groups.items():
            for start in range(0, len(members), batch_size):
                batch = members[start : start + batch_size]
                pixel_values = torch.zeros(len(batch), 3, *padded)
                for row, index in enumerate(batch):
                    pixels = normalize(inputs[index], processor)
                    pixel_values[row, :, : pixels.shape[1], : pixels.shape[2]] = pixels
                outputs = model(pixel_values=pixel_values.to(device, dtype))
                for row, index in enumerate(batch):
                    strips = semantic_scores(
                        outputs.class_queries_logits[row].float(),
                        outputs.masks_queries_logits[row].float(),
                        padded,
                        inputs[index].shape[:2],
                        arrays[index].shape[:2],
                    )
                    parts = [(strip if return_scores else strip.argmax(0).int()).cpu().numpy() for strip in strips]
                    results[index] = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)
    finally:
        model.train(was_training)
    return results


def semantic_scores(
    class_logits, mask_logits, padded_size, input_size, original_size, max_bytes: int = SCORES_BYTES
) -> Iterator[torch.Tensor]:
    """Scores `(num_labels, *original_size)` of one image from its queries: whole, or in strips of rows from the top.

    A 12-megapixel image with 100 queries and 150 labels would take 17 GB at once.

    Args:
        class_logits (`(queries, num_labels + 1)`), mask_logits (`(queries, h, w)`): as the model returns them.
        padded_size, input_size, original_size (height, width): of the model's input with and without padding, and of
            the image.
        max_bytes (`int`): what enlarged masks, their probabilities and the scores may take.
    """
    queries, num_labels = class_logits.shape[0], class_logits.shape[1] - 1
    weights = class_logits.softmax(-1)[:, :-1]
    height, width = original_size
    rows = max(1, max_bytes // (4 * (2 * queries + num_labels) * max(width, padded_size[1])))
    if rows < max(height, padded_size[0]):
        for start in range(0, height, rows):
            masks = _mask_rows(mask_logits, padded_size, input_size, (height, width), start, min(start + rows, height))
            yield torch.einsum("qc,qhw->chw", weights, masks.sigmoid())
        return
    masks = F.interpolate(mask_logits[None], size=padded_size, mode="bilinear", align_corners=False)
    masks = masks[..., : input_size[0], : input_size[1]]
    if tuple(original_size) != tuple(input_size):
        masks = F.interpolate(masks, size=tuple(original_size), mode="bilinear", align_corners=False)
    yield torch.einsum("qc,qhw->chw", weights, masks[0].sigmoid())


def _mask_rows(mask_logits, padded_size, input_size, original_size, start: int, stop: int) -> torch.Tensor:
    """Rows `start` to `stop` of the masks at the original size, `(queries, stop - start, width)`."""

    def input_rows(first: int, last: int) -> torch.Tensor:
        enlarged = _resize_rows(lambda a, b: mask_logits[:, a:b], mask_logits.shape[1], padded_size, first, last)
        return enlarged[..., : input_size[1]]

    if tuple(original_size) == tuple(input_size):
        return input_rows(start, stop)
    return _resize_rows(input_rows, input_size[0], original_size, start, stop)


def _resize_rows(source, height: int, size: tuple[int, int], start: int, stop: int) -> torch.Tensor:
    """Rows `start` to `stop` of a bilinear resize to `size` of maps with `height` rows; `source(a, b)` gives rows of
    those. `F.interpolate` does the same, but needs all rows."""
    places = ((torch.arange(start, stop, dtype=torch.float64) + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
    above = places.floor().long()
    below = (above + 1).clamp(max=height - 1)
    first = int(above[0])
    rows = source(first, int(below[-1]) + 1)
    share = (places - above).to(rows)[:, None]
    rows = torch.lerp(rows[:, (above - first).to(rows.device)], rows[:, (below - first).to(rows.device)], share)
    return F.interpolate(rows[None], size=(stop - start, size[1]), mode="bilinear", align_corners=False)[0]
