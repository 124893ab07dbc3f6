"""A segmenter for this project: built from a size, a Hub id or a config, with the processor that travels with it."""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoImageProcessor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from ..labels import LabelSet, differing_labels
from ..networks.weights import check_loaded
from .architectures import find_backbone, prepare_config, resize_queries, segmenter_class, set_num_queries
from .eomt import at_side, check_seen_size, fixed_side, side_of_crops
from .sizes import SEGMENTER_NAMES, backbone_config, named_config, read_backbone, resolve_segmenter
from .vits import config_around, load_vit

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def build_segmenter(
    name_or_path: str | Path,
    labels: LabelSet,
    revision: str | None = None,
    backbone_model: str | None = None,
    short_side: int | None = None,
    seed: int = 0,
    num_queries: int | None = None,
    tiles: int | None = None,
    is_whole: bool = False,
    crop_size: tuple[int, int] | None = None,
    task: str = "semantic",
):
    """Build a segmenter for `labels` and the processor that travels with it.

    Args:
        name_or_path: one of `SEGMENTER_NAMES` (random weights, but for `miniature-scenes`); a Hub id or folder with
            weights; a folder with nothing but a config.json, or a JSON file (random weights). The class is that of the
            config's `model_type` (`segmenter_class`). A class head of another size is made anew.
        revision (`str`): commit, tag or branch of a Hub id.
        backbone_model (`str`): Hub id or folder whose weights the backbone takes (`microsoft/resnet-50`). A
            Mask2Former built from a config has a random backbone otherwise: transformers loads none. The name
            `mask2former` takes the backbone's architecture from there, too, and `eomt` its ViT's (DINOv2, DINOv3).
        short_side (`int`): inference resizes the images' short side to it; by default as the loaded processor says,
            and not at all for random weights.
        num_queries (`int`): of the decoder, where it is to have another number; of a checkpoint's the first are kept.
        tiles (`int`): inference sees images through windows, this many along their short side, since the segmenter is
            trained on images cut like that; by default as the loaded processor says, and whole for random weights.
        seed (`int`): of all random weights; the global generator is left as it was.
        is_whole (`bool`): every tensor must come from the weights, the class head's too.
        crop_size (height, width): of the images that it will be trained on. An EoMT, which sees squares of one size,
            is built for that one; by default for the size of its config.
        task (`str`): with `short_side` an EoMT sees images of another shape than a square through windows if it is
            `semantic`, and whole, their long side at most `short_side`, otherwise: as it was published.

    Returns: the model (float32, batch norm of a pretrained backbone frozen) and its image processor.
    Raises: `ValueError` if there is no segmenter under that name, or it cannot see such crops.
    """
    name_or_path = resolve_segmenter(name_or_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config, weights = find_config(name_or_path, revision, backbone_model)
        found_class = segmenter_class(config)
        prepare_config(config)
        if not weights:
            set_num_queries(config, num_queries)
        side = side_of_crops(config, crop_size) if crop_size else None
        config.id2label, config.label2id = labels.id2label, labels.label2id
        if weights:
            loaded: Any = found_class.from_pretrained(
                name_or_path,
                revision=revision,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            model, report = loaded
            if is_whole:
                check_loaded(str(name_or_path), model, report)
            model = at_side(model, side) if side else model
            resize_queries(model, num_queries)
        else:
            if side:
                config.image_size = side
            model = found_class(config)
    if backbone_model is not None:
        _load_backbone(model, backbone_model)
    if weights or backbone_model is not None:
        freeze_batch_norm(model)
    processor = _load_processor(config, name_or_path if weights else None, revision)
    _set_processor(processor, labels, short_side, tiles, fixed_side(model.config), task)
    return model, processor


def load_segmenter(name_or_path: str | Path, labels: LabelSet):
    """A trained segmenter that predicts `labels`, and its processor; for scoring, where a new head would be nonsense.

    Raises: `ValueError` if there is none, it has other labels, or its weights are not whole.
    """
    config, has_weights = find_config(name_or_path, None)
    if not has_weights:
        raise ValueError(f"{name_or_path} has no weights; name a trained segmenter.")
    if differences := differing_labels(config, labels):
        raise ValueError(f"The segmenter {name_or_path} and the records have other labels: {differences}.")
    return build_segmenter(name_or_path, labels, is_whole=True)


def find_config(name_or_path, revision, backbone_model: str | None = None) -> tuple[Any, bool]:
    """The configuration, of any class that can be a segmenter, and whether weights belong to it.

    Args:
        backbone_model: of `build_segmenter`; only the names `mask2former` and `eomt` need it here.
    """
    name_or_path = resolve_segmenter(name_or_path)
    if name_or_path in SEGMENTER_NAMES:
        if name_or_path == "eomt":
            return config_around(read_backbone("eomt", backbone_model), str(backbone_model)), False
        backbone = backbone_config(backbone_model) if name_or_path == "mask2former" else None
        return named_config(name_or_path, backbone), False
    path = Path(name_or_path)
    if path.suffix == ".json" and path.is_file():
        settings = json.loads(path.read_text())
        kind = settings.get("model_type", "mask2former")
        if kind not in CONFIG_MAPPING:
            raise ValueError(f"{path} has the model_type {kind!r}, which transformers does not know.")
        return _checked(CONFIG_MAPPING[kind].from_dict(settings), path), False
    try:
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:  # the second: a model_type that transformers does not know
        raise ValueError(
            f"There is no segmenter {str(name_or_path)!r}: {str(error).splitlines()[0]} Give --model a Hub id, a "
            f"folder or JSON file with a segmenter's configuration, or one of {list(SEGMENTER_NAMES)}."
        ) from error
    has_weights = not path.is_dir() or any(path.glob("*.safetensors"))
    others = [] if has_weights else [file.name for kind in PICKLES for file in sorted(path.glob(kind))]
    if others:
        raise ValueError(
            f"{name_or_path} has its weights in {others[0]}, a pickle, which can run any code and is not read; save "
            f"them as safetensors."
        )
    return _checked(config, name_or_path), has_weights


def _checked(config, source) -> Any:
    segmenter_class(config, source)
    return config


def _load_backbone(model, backbone_model: str) -> None:
    """Copy the weights of `backbone_model` into the model's backbone, which must be of the same shape."""
    if fixed_side(model.config):
        return load_vit(model, backbone_model)
    encoder: Any = find_backbone(model)
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


def _load_processor(config, name_or_path, revision) -> Any:
    """Of any class; random weights, and such as were saved without one, have that of their architecture."""
    if name_or_path is not None:
        with contextlib.suppress(OSError):
            return AutoImageProcessor.from_pretrained(name_or_path, revision=revision, backend="pil")
    default: Any = IMAGE_PROCESSOR_MAPPING[type(config)]
    return default["pil"](do_resize=False)


def _set_processor(
    processor, labels: LabelSet, short_side: int | None, tiles: int | None, side: int | None, task: str
) -> None:
    # An EoMT's takes 1 off each id where it has an ignore_index.
    processor.ignore_index = None if side else labels.ignore_index
    processor.do_reduce_labels = False  # ids are ours, contiguous from 0
    processor.num_labels = labels.num_labels
    if short_side is not None:
        processor.do_resize = True
        processor.size = {"shortest_edge": short_side, "longest_edge": 4 * short_side}  # 512 and 2048 for ADE20K
    if tiles is not None:
        processor.tiles = tiles
    if side is not None and short_side is not None:
        _fit_processor(processor, side, short_side, task)


def _fit_processor(processor, side: int, short_side: int, task: str) -> None:
    """What an EoMT's own processor asks for, so that it shows the model what this project does."""
    check_seen_size(side, short_side, task)
    sees_whole = task != "semantic"
    processor.do_pad, processor.do_split_image = sees_whole, not sees_whole
    if sees_whole:
        processor.size = {"shortest_edge": short_side, "longest_edge": short_side}
