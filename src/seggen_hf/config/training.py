"""One flat, checked dataclass per stage: the same names as flags, recipe keys and report entries."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..names import check_name
from .presets import apply_preset
from .values import build, find_recipe, nearest_name, read_yaml

SYNTHETIC_MODES = ("replace", "pretrain", "joint", "only")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TASKS = ("semantic", "instance", "panoptic")
LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial", "multistep")
OFFLOADS = ("none", "model", "sequential")
VAE_PRECISIONS = ("float32", "same")
SCALE_REFERENCES = ("cover", "fit")
MIXED_PRECISION = ("no", "fp16", "bf16")
OPTIMIZERS = ("adamw", "adamw_8bit")


def _help(text: str) -> dict:
    return {"help": text}


def _check(condition: bool, name: str, value, rule: str) -> None:
    if not condition:
        raise ValueError(f"--{name} is {value!r}; it must be {rule}.")


def _check_unique(name: str, values: list) -> None:
    _check(len(set(values)) == len(values), name, values, "without repetitions")


@dataclass(kw_only=True)
class DataConfig:
    """Where the real data is and which part of it each stage sees."""

    dataset_name: str = field(default="scenes", metadata=_help("Folder, Hub id, or `scenes` for the built-in scenes."))
    task: str = field(default="semantic", metadata=_help("semantic, instance or panoptic."))
    train_split: str = field(default="train", metadata=_help("Split with the labelled training records."))
    test_splits: list[str] = field(
        default_factory=lambda: ["test"], metadata=_help("Splits that the report scores; never trained or tuned on.")
    )
    image_column: str | None = field(default=None, metadata=_help("Image column; guessed when not given."))
    mask_column: str | None = field(default=None, metadata=_help("Mask column; guessed when not given."))
    labels: str | None = field(
        default=None,
        metadata=_help("labels.json, classes.json, or `ade20k` / `coco`; read from the source if absent."),
    )
    zero_is_void: bool = field(
        default=False, metadata=_help("Ids in the maps are 1..C and 0 is void (ADE20K's annotations on the Hub).")
    )
    dataset_config_name: str | None = field(default=None, metadata=_help("Config of a Hub data set with several."))
    dataset_revision: str | None = field(default=None, metadata=_help("Commit, tag or branch of a Hub data set."))
    media_roots: list[str] = field(
        default_factory=list,
        metadata=_help(
            "Folders beside the data set that its files may lie in; links and names that lead elsewhere are refused."
        ),
    )
    streaming: bool = field(
        default=False,
        metadata=_help("Read data sets on the Hub (real, synthetic) as needed; no shard is downloaded whole."),
    )
    max_train_records: int | None = field(default=None, metadata=_help("Use only the first records (lack of labels)."))
    max_test_records: int | None = field(default=None, metadata=_help("Score only the first records of a test split."))
    panoptic_coding: str = field(
        default="shades",
        metadata=_help("Color maps tell instances apart by `shades` of their class, or `edges` around them (paper)."),
    )
    num_shades: int = field(default=4, metadata=_help("Shades of each thing class; four suffice for any map."))
    tiles: int = field(
        default=1,
        metadata=_help(
            "Train on squares cut of each image, this many along its short side: for images with more segments than "
            "the segmenter has queries, and details too small for the generators. It then sees whole images through "
            "overlapping windows of that size, and is scored on whole images."
        ),
    )
    height: int = field(default=64, metadata=_help("Height in pixels at which the generators work."))
    width: int = field(default=64, metadata=_help("Width in pixels at which the generators work."))

    def __post_init__(self):
        _check(self.task in TASKS, "task", self.task, f"one of {TASKS}")
        codings = ("shades", "edges")
        _check(self.panoptic_coding in codings, "panoptic_coding", self.panoptic_coding, f"one of {codings}")
        _check(self.num_shades >= 2, "num_shades", self.num_shades, "at least 2")
        _check(self.tiles >= 1, "tiles", self.tiles, "1 (images whole) or more")
        _check(self.tiles == 1 or not self.streaming, "tiles", self.tiles, "1 with --streaming")
        for name in ("height", "width"):
            value = getattr(self, name)
            _check(value >= 16 and value % 8 == 0, name, value, "a multiple of 8, at least 16")
        _check(len(self.test_splits) > 0, "test_splits", self.test_splits, "at least one split")
        _check_unique("test_splits", self.test_splits)
        for split in self.test_splits:  # a folder of predictions each
            check_name(split, "--test_splits")


@dataclass(kw_only=True)
class CaptionConfig:
    """How the caption column is made where the source brings none."""

    captioner: str = field(
        default="template",
        metadata=_help("`template` (classes present, largest first), or the Hub id of a captioning model."),
    )
    caption_prompt: str | None = field(
        default=None, metadata=_help("Question asked of a chat-style vision-language model.")
    )
    caption_batch_size: int = field(default=8, metadata=_help("Images captioned at once."))
    max_new_tokens: int = field(default=40, metadata=_help("Longest caption, in tokens."))
    recaption: bool = field(default=False, metadata=_help("Replace captions that the source already has."))

    def __post_init__(self):
        for name in ("caption_batch_size", "max_new_tokens"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "positive")


@dataclass(kw_only=True)
class TrainingConfig:
    """What every training shares: optimizer, schedule, checkpoints, trackers."""

    output_dir: str = field(default="runs/training", metadata=_help("Folder for the result and its checkpoints."))
    seed: int = field(default=0, metadata=_help("Every random draw of the training follows from it."))
    max_train_steps: int = field(default=30_000, metadata=_help("Optimizer steps."))
    train_batch_size: int = field(default=4, metadata=_help("Samples per process and forward pass."))
    gradient_accumulation_steps: int = field(default=1, metadata=_help("Forward passes per optimizer step."))
    gradient_checkpointing: bool = field(default=False, metadata=_help("Recompute activations to save memory."))
    mixed_precision: str = field(default="no", metadata=_help("no, fp16 or bf16."))
    learning_rate: float = field(default=1e-5, metadata=_help("Peak learning rate."))
    lr_scheduler: str = field(default="constant_with_warmup", metadata=_help("One of: " + ", ".join(LR_SCHEDULES)))
    lr_warmup_steps: int = field(default=0, metadata=_help("Steps of linear warm-up."))
    lr_power: float = field(default=0.9, metadata=_help("Exponent of the polynomial schedule."))
    lr_milestones: list[int] = field(
        default_factory=list,
        metadata=_help("Multistep schedule: steps at each of which the rate falls to a tenth."),
    )
    optimizer: str = field(
        default="adamw",
        metadata=_help("adamw, or adamw_8bit, whose moments take a quarter of the memory (needs bitsandbytes)."),
    )
    adam_beta1: float = field(default=0.9, metadata=_help("AdamW beta 1."))
    adam_beta2: float = field(default=0.999, metadata=_help("AdamW beta 2."))
    adam_epsilon: float = field(default=1e-8, metadata=_help("AdamW epsilon."))
    weight_decay: float = field(default=0.01, metadata=_help("AdamW weight decay."))
    max_grad_norm: float = field(default=1.0, metadata=_help("Gradient clipping norm; 0 turns it off."))
    ema_decay: float = field(default=0.0, metadata=_help("Decay of the weight average that is kept; 0 turns it off."))
    ema_update_steps: int = field(
        default=1, metadata=_help("Steps between updates of the weight average; it remembers as long with more.")
    )
    checkpointing_steps: int = field(default=500, metadata=_help("Steps between checkpoints; 0 writes only the last."))
    checkpoints_total_limit: int = field(default=2, metadata=_help("Checkpoints kept; older ones are removed."))
    resume: bool = field(default=True, metadata=_help("Continue from the newest whole checkpoint in output_dir."))
    validation_steps: int = field(
        default=0, metadata=_help("Steps between validations; 0 validates once, at the end.")
    )
    logging_steps: int = field(default=10, metadata=_help("Steps between log lines."))
    report_to: str = field(default="none", metadata=_help("Accelerate tracker: none, tensorboard, wandb, ..."))
    dataloader_num_workers: int = field(default=0, metadata=_help("Worker processes that prepare samples."))
    dry_run: bool = field(
        default=False, metadata=_help("Build everything on the meta device, print sizes and memory, and stop.")
    )

    def __post_init__(self):
        for name in (
            "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "learning_rate", "logging_steps",
        ):  # fmt: skip
            _check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        _check(self.seed >= 0, "seed", self.seed, "0 or positive")
        _check(self.lr_scheduler in LR_SCHEDULES, "lr_scheduler", self.lr_scheduler, f"one of {LR_SCHEDULES}")
        steps = [0, *self.lr_milestones, self.max_train_steps]
        rises = all(a < b for a, b in zip(steps, steps[1:], strict=False))
        _check(rises, "lr_milestones", self.lr_milestones, f"rising steps below max_train_steps {steps[-1]}")
        if (self.lr_scheduler == "multistep") != bool(self.lr_milestones):
            raise ValueError("--lr_milestones and --lr_scheduler multistep go together; one of them is missing.")
        _check(
            self.mixed_precision in MIXED_PRECISION,
            "mixed_precision",
            self.mixed_precision,
            f"one of {MIXED_PRECISION}",
        )
        _check(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, f"one of {OPTIMIZERS}")
        _check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")
        fits = 1 <= self.ema_update_steps <= self.max_train_steps
        _check(fits, "ema_update_steps", self.ema_update_steps, f"from 1 to max_train_steps {self.max_train_steps}")
        _check(
            self.checkpoints_total_limit >= 1, "checkpoints_total_limit", self.checkpoints_total_limit, "at least 1"
        )


@dataclass(kw_only=True)
class GeneratorConfig(TrainingConfig):
    """What Text2Mask and Mask2Img trainings share."""

    base_model: str = field(
        default="miniature",
        metadata=_help("Hub id or folder of an SDXL pipeline, or `miniature` (ships with the package)."),
    )
    revision: str | None = field(default=None, metadata=_help("Commit, tag or branch of base_model."))
    height: int = field(default=768, metadata=_help("Training height in pixels."))
    width: int = field(default=768, metadata=_help("Training width in pixels."))
    cache_latents: bool = field(default=True, metadata=_help("Encode images and captions once, before training."))
    cache_variants: int = field(default=4, metadata=_help("Random flips and crops cached of each record."))
    cache_max_gb: float = field(default=50.0, metadata=_help("Refuse to write a larger cache than this."))
    random_flip: bool = field(default=True, metadata=_help("Mirror image and map together, half of the time."))
    max_crop_zoom: float = field(
        default=1.0, metadata=_help("Largest zoom of the paired random crop; 1 turns it off.")
    )
    size_conditioning: str = field(
        default="true",
        metadata=_help(
            "What SDXL is told of sizes: `true` (each record's size and crop), or `target` (as if all had been made "
            "at the training size, as pipelines assume when they are not told otherwise; for small bases)."
        ),
    )
    caption_dropout: float = field(default=0.1, metadata=_help("Share of captions emptied, so guidance has a null."))
    snr_gamma: float = field(default=0.0, metadata=_help("Min-SNR loss weighting (arXiv:2303.09556); 0 turns it off."))
    torch_compile: bool = field(
        default=False,
        metadata=_help("Compile the transformer blocks of the networks: minutes at first, then faster steps."),
    )
    num_validation_images: int = field(default=4, metadata=_help("Images drawn at each validation."))
    validation_inference_steps: int = field(default=20, metadata=_help("Denoising steps of validation images."))
    validation_guidance_scale: float = field(default=5.0, metadata=_help("Guidance scale of validation images."))

    lora_rank: int = field(default=0, metadata=_help("0 trains all weights; otherwise the rank of a LoRA."))
    lora_alpha: int | None = field(default=None, metadata=_help("LoRA alpha; the rank if not given."))
    lora_targets: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"], metadata=_help("Layers that get a LoRA.")
    )

    def __post_init__(self):
        super().__post_init__()
        _check(self.lora_rank >= 0, "lora_rank", self.lora_rank, "0 (all weights) or positive")
        _check(
            0 <= self.caption_dropout < 1,
            "caption_dropout",
            self.caption_dropout,
            "a share of the captions, in [0, 1)",
        )
        sizes = ("true", "target")
        _check(self.size_conditioning in sizes, "size_conditioning", self.size_conditioning, f"one of {sizes}")
        _check(self.max_crop_zoom >= 1, "max_crop_zoom", self.max_crop_zoom, "at least 1")
        _check(self.snr_gamma >= 0, "snr_gamma", self.snr_gamma, "0 (off) or positive")
        _check(self.cache_variants >= 1, "cache_variants", self.cache_variants, "at least 1")
        number, steps = self.num_validation_images, self.validation_inference_steps
        _check(number >= 0, "num_validation_images", number, "0 or positive")
        _check(steps > 0, "validation_inference_steps", steps, "positive")
        for name in ("height", "width"):
            value = getattr(self, name)
            _check(value >= 16 and value % 8 == 0, name, value, "a multiple of 8, at least 16")


@dataclass(kw_only=True)
class Text2MaskConfig(GeneratorConfig):
    """Caption -> color map: the base's U-Net, fully fine-tuned or through LoRA."""


@dataclass(kw_only=True)
class Mask2ImgConfig(GeneratorConfig):
    """Color map + caption -> image: a ControlNet on the frozen base."""

    controlnet_model: str | None = field(
        default=None, metadata=_help("ControlNet to start from; a copy of the base's encoder if not given.")
    )
    conditioning: str = field(
        default="rgb",
        metadata=_help(
            "What the ControlNet is shown: `rgb`, the color map (paper); `rgb_edges`, with a channel of the segments' "
            "borders; `bits`, those and the digits of the label id."
        ),
    )
    train_base: bool = field(
        default=False, metadata=_help("Also train the base's U-Net (departs from the paper, which freezes it).")
    )
    validation_segmenter: str | None = field(
        default=None, metadata=_help("Segmenter that measures how well validation images follow their maps.")
    )

    def __post_init__(self):
        super().__post_init__()
        conditionings = ("rgb", "rgb_edges", "bits")
        _check(self.conditioning in conditionings, "conditioning", self.conditioning, f"one of {conditionings}")
        rule = "0, or without --train_base: a LoRA leaves the base as it is"
        _check(not self.lora_rank or not self.train_base, "lora_rank", self.lora_rank, rule)


@dataclass(kw_only=True)
class SynthesisConfig:
    """How many samples MaskSyn and ImgSyn make, and how."""

    output_dir: str = field(default="runs/synthetic", metadata=_help("Folder for the shards; `seggen run` sets it."))
    text2mask_model: str | None = field(
        default=None, metadata=_help("Folder or Hub id of a Text2Mask pipeline; a run takes its own.")
    )
    mask2img_model: str | None = field(
        default=None, metadata=_help("Folder or Hub id of a Mask2Img pipeline; `seggen run` takes the one it trained.")
    )
    mixed_precision: str = field(default="no", metadata=_help("Weights of the generators: no (fp32), fp16 or bf16."))
    masksyn_variants: int = field(default=1, metadata=_help("MaskSyn samples per real caption."))
    imgsyn_variants: int = field(default=1, metadata=_help("ImgSyn samples per real segmentation map."))
    seed: int = field(default=0, metadata=_help("Each sample's own seed follows from it and the sample's id."))
    batch_size: int = field(default=4, metadata=_help("Samples denoised together."))
    shard_size: int = field(default=256, metadata=_help("Samples per shard; a shard is the unit of resuming."))
    offload: str = field(
        default="none",
        metadata=_help(
            "For small GPUs: `model` keeps one network of a pipeline there at a time, `sequential` one layer (slow)."
        ),
    )
    vae_slicing: bool = field(
        default=False, metadata=_help("Decode a batch's latents one at a time: less memory, a little slower.")
    )
    vae_precision: str = field(
        default="float32",
        metadata=_help(
            "How an autoencoder of float16 that may overflow decodes: cast to `float32`, or as it is (`same`), if the "
            "first batch shows no difference. Others decode as they are."
        ),
    )
    text2mask_steps: int = field(default=200, metadata=_help("Denoising steps of Text2Mask (paper: 200)."))
    text2mask_guidance: float = field(default=5.0, metadata=_help("Guidance scale of Text2Mask (not published)."))
    mask2img_steps: int = field(default=40, metadata=_help("Denoising steps of Mask2Img (paper: 40)."))
    mask2img_guidance: float = field(default=5.0, metadata=_help("Guidance scale of Mask2Img (not published)."))
    conditioning_scale: float = field(default=1.0, metadata=_help("Weight of the ControlNet's residuals."))
    max_color_distance: float = field(
        default=60.0, metadata=_help("Pixels further than this from every label's color become ignored (0-255 units).")
    )
    min_region_area: int = field(
        default=20, metadata=_help("Smaller regions join their surroundings (JoDiffusion: 20).")
    )
    max_ignored_share: float = field(
        default=0.3,
        metadata=_help("A generated map with a larger share of ignored pixels is dropped, with the reason."),
    )
    caption_styles: list[str] = field(
        default_factory=list,
        metadata=_help("Closing clauses to draw from; replaces the caption's own one of them, else is appended."),
    )
    caption_style_share: float = field(default=0.5, metadata=_help("Share of the samples that get a drawn style."))

    def __post_init__(self):
        precision = self.mixed_precision
        _check(precision in MIXED_PRECISION, "mixed_precision", precision, f"one of {MIXED_PRECISION}")
        _check(self.offload in OFFLOADS, "offload", self.offload, f"one of {OFFLOADS}")
        known = f"one of {VAE_PRECISIONS}"
        _check(self.vae_precision in VAE_PRECISIONS, "vae_precision", self.vae_precision, known)
        fits = self.vae_precision == "float32" or self.offload != "sequential"
        _check(fits, "vae_precision", self.vae_precision, "float32 with --offload sequential")
        for name in ("batch_size", "shard_size", "text2mask_steps", "mask2img_steps", "max_color_distance"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("masksyn_variants", "imgsyn_variants", "min_region_area", "seed"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "0 or positive")
        for name in ("caption_style_share", "max_ignored_share"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")


@dataclass(kw_only=True)
class SegmenterConfig(TrainingConfig):
    """Mask2Former with the paper's optimizer; real data, synthetic data, or a mixture."""

    learning_rate: float = field(default=1e-4, metadata=_help("Peak learning rate."))
    lr_scheduler: str = field(default="polynomial", metadata=_help("One of: " + ", ".join(LR_SCHEDULES)))
    weight_decay: float = field(default=0.05, metadata=_help("AdamW weight decay."))
    max_grad_norm: float = field(default=0.01, metadata=_help("Gradient clipping norm; 0 turns it off."))
    max_train_steps: int = field(default=160_000, metadata=_help("Optimizer steps."))
    train_batch_size: int = field(default=16, metadata=_help("Samples per process and forward pass."))
    total_batch_size: int | None = field(
        default=None,
        metadata=_help("Samples per optimizer step that the settings are meant for; another number is warned of."),
    )
    model: str = field(
        default="miniature",
        metadata=_help(
            "Hub id or folder of a Mask2Former (weights or config); or a size with random weights: miniature, "
            "resnet-50, swin-tiny, swin-small, swin-base, swin-large."
        ),
    )
    model_revision: str | None = field(default=None, metadata=_help("Commit, tag or branch of model."))
    backbone_model: str | None = field(
        default=None, metadata=_help("Hub id or folder whose weights a backbone built from a config takes (R50).")
    )
    num_queries: int | None = field(
        default=None,
        metadata=_help("Queries of the segmenter, more than an image has segments; those of model if not given."),
    )
    backbone_lr_multiplier: float = field(default=0.1, metadata=_help("Learning rate factor of the backbone."))
    crop_height: int = field(default=512, metadata=_help("Height of training crops in pixels."))
    crop_width: int = field(default=512, metadata=_help("Width of training crops in pixels."))
    inference_size: int | None = field(
        default=None,
        metadata=_help("Short side of images at inference, in pixels; the crop's shorter side if not given."),
    )
    scale_reference: str = field(
        default="cover",
        metadata=_help(
            "Scale 1 of large-scale jitter: images `cover` the crop (Mask2Former on ADE20K), or `fit` into it (COCO)."
        ),
    )
    min_scale: float = field(default=0.5, metadata=_help("Smallest factor of large-scale jitter."))
    max_scale: float = field(default=2.0, metadata=_help("Largest factor of large-scale jitter."))
    random_flip: bool = field(default=True, metadata=_help("Mirror image and map together, half of the time."))
    color_jitter: float = field(default=0.5, metadata=_help("Strength of photometric augmentation, 0 to 1."))
    style_augmentation: bool = field(
        default=False, metadata=_help("Hand-made night, fog and tint augmentation: the control for synthetic styles.")
    )
    synthetic_dataset: str | None = field(
        default=None, metadata=_help("Synthetic data: folder(s, comma-separated) or Hub id.")
    )
    synthetic_config_name: str | None = field(
        default=None, metadata=_help("Config of a published synthetic_dataset; its newest round if not given.")
    )
    synthetic_revision: str | None = field(
        default=None, metadata=_help("Commit, tag or branch of a published synthetic_dataset.")
    )
    synthetic_mode: str = field(default="replace", metadata=_help("One of: " + ", ".join(SYNTHETIC_MODES)))
    p_aug: float = field(
        default=0.6,
        metadata=_help("Probability that a synthetic sample takes a real one's place (paper, ADE20K: 0.6)."),
    )
    synthetic_until: float = field(
        default=1.0, metadata=_help("Share of the steps in which synthetic samples are drawn; then real data only.")
    )

    def __post_init__(self):
        super().__post_init__()
        _check(
            self.synthetic_mode in SYNTHETIC_MODES, "synthetic_mode", self.synthetic_mode, f"one of {SYNTHETIC_MODES}"
        )
        _check(0 <= self.p_aug <= 1, "p_aug", self.p_aug, "a probability, in [0, 1]")
        _check(
            0 <= self.synthetic_until <= 1, "synthetic_until", self.synthetic_until, "a share of the steps, in [0, 1]"
        )
        known = f"one of {SCALE_REFERENCES}"
        _check(self.scale_reference in SCALE_REFERENCES, "scale_reference", self.scale_reference, known)
        _check(0 < self.min_scale <= self.max_scale, "min_scale", self.min_scale, "positive and at most max_scale")
        for name in ("crop_height", "crop_width", "num_queries", "inference_size"):
            value = getattr(self, name)
            _check(value is None or value > 0, name, value, "positive")
        if self.synthetic_mode == "pretrain" and self.synthetic_until == 1:
            raise ValueError(
                "--synthetic_mode pretrain needs --synthetic_until below 1: the share of the steps after which "
                "training goes on with real data. For synthetic data alone use --synthetic_mode only."
            )

    def batch_warning(self, processes: int) -> str | None:
        """A line if an optimizer step sees another number of samples than `total_batch_size`, or None."""
        batch = self.train_batch_size * self.gradient_accumulation_steps * processes
        if self.total_batch_size in (None, batch):
            return None
        return (
            f"segmenter: train_batch_size {self.train_batch_size} x gradient_accumulation_steps "
            f"{self.gradient_accumulation_steps} x {processes} processes = {batch} samples a step; the other settings "
            f"are meant for total_batch_size {self.total_batch_size}"
        )


@dataclass(kw_only=True)
class EvaluationConfig:
    """How segmenters are scored and which arms are compared."""

    eval_batch_size: int = field(default=8, metadata=_help("Images per forward pass."))
    object_threshold: float = field(
        default=0.8, metadata=_help("Panoptic: least class probability of a segment (Mask2Former: 0.8).")
    )
    overlap_threshold: float = field(
        default=0.8, metadata=_help("Panoptic: share of its mask that a segment must keep (Mask2Former: 0.8).")
    )
    max_detections: int = field(
        default=100, metadata=_help("Instances of an image that count for AP, the best of all classes (COCO: 100).")
    )
    arms: list[str] = field(
        default_factory=lambda: ["real", "synthetic"],
        metadata=_help(
            "Trainings compared: real, imgsyn, masksyn, synthetic (both), filtered (both, without what the segmenter "
            "of real records disagrees with), synthetic-only (both, no real records), style-augmentation, renderer."
        ),
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata=_help("Seeds of the segmenter trainings."))
    jobs: int = field(
        default=1,
        metadata=_help(
            "Stages of a run at a time, trainings and scorings above all, each with its share of the CPU's threads "
            "and a GPU of its own where there are several. Small models on a CPU gain from two or more."
        ),
    )

    def __post_init__(self):
        known = {"real", "imgsyn", "masksyn", "synthetic", "filtered", "synthetic-only"}
        known |= {"style-augmentation", "renderer"}
        unknown = sorted(set(self.arms) - known)
        _check(not unknown, "arms", self.arms, f"taken from {sorted(known)}")
        _check(len(self.arms) > 0, "arms", self.arms, "at least one arm")
        _check_unique("arms", self.arms)
        _check(len(self.seeds) > 0, "seeds", self.seeds, "at least one seed")
        _check_unique("seeds", self.seeds)
        _check(min(self.seeds) >= 0, "seeds", self.seeds, "0 or positive, each")
        for name in ("object_threshold", "overlap_threshold"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        for name in ("eval_batch_size", "max_detections", "jobs"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "positive")


def save_config(config, folder: str | Path) -> None:
    """Write `config` as run_config.json beside what it made."""
    path = Path(folder) / "run_config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    os.replace(temporary, path)


@dataclass(kw_only=True)
class FilterConfig:
    """What of synthetic records is left out because a segmenter of real records disagrees with it."""

    tolerance: float = field(
        default=1.25,
        metadata=_help("A pixel is made void above this many times the mean loss of its label (FreeMask: 1.25)."),
    )
    min_alignment: float = field(
        default=0.0, metadata=_help("Records that keep a smaller share of their labelled pixels are dropped.")
    )
    batch_size: int = field(default=16, metadata=_help("Images per forward pass."))

    def __post_init__(self):
        _check(self.tolerance > 0, "tolerance", self.tolerance, "positive")
        _check(0 <= self.min_alignment <= 1, "min_alignment", self.min_alignment, "in [0, 1]")
        _check(self.batch_size > 0, "batch_size", self.batch_size, "positive")


# Sections of a recipe, in the order of a run. Each is one flat dataclass.
SECTIONS = {
    "data": DataConfig,
    "caption": CaptionConfig,
    "text2mask": Text2MaskConfig,
    "mask2img": Mask2ImgConfig,
    "synthesis": SynthesisConfig,
    "filter": FilterConfig,
    "segmenter": SegmenterConfig,
    "evaluation": EvaluationConfig,
}


def read_sections(
    path: str | os.PathLike, shared_size: bool = True, preset: str | None = None
) -> tuple[str, dict[str, dict]]:
    """Name and raw sections of a recipe file; absent sections are empty.

    Args:
        shared_size (`bool`): apply `share_size`.
        preset (`str`): laid over the sections; the file's own `preset:` if it is not given.

    Raises: `ValueError` for another top-level key, with the nearest known one, and for a preset that there is not.
    """
    content = read_yaml(path)
    for key in content:
        if key not in ("name", "preset") and key not in SECTIONS:
            known = [*SECTIONS, "name", "preset"]
            raise ValueError(f"{path} has no section {key!r}. {nearest_name(str(key), known)}")
    sections = {}
    for name in SECTIONS:
        section = {} if content.get(name) is None else content[name]
        if not isinstance(section, dict):
            raise ValueError(f"{path}, section {name}, holds {section!r}; it must be `name: value` lines.")
        sections[name] = dict(section)
    if preset := preset or content.get("preset"):
        apply_preset(str(preset), sections, SECTIONS)
    if shared_size:
        share_size(sections)
    return str(content.get("name", Path(path).stem)), sections


def share_size(sections: dict[str, dict]) -> None:
    """Give the generators' sections the height and width of `data` where they have none, in place."""
    for name in ("text2mask", "mask2img"):
        for side in ("height", "width"):
            if side in sections["data"]:
                sections[name].setdefault(side, sections["data"][side])


def parse_config(*classes, argv: Sequence[str] | None = None) -> tuple:
    """Instances of `classes` from the command line: a recipe (file or built-in name) if any, then `--name value`s.

    A flag that several of the classes have sets it in all of them. `--preset` lays one of `presets` over the recipe,
    and other flags over that. `--help` prints all names and leaves.

    Args:
        classes: dataclasses out of `SECTIONS`; each reads its own section of the recipe.
        argv (`Sequence[str]`): arguments without the program's name; those of the process if not given.

    Raises: `ValueError`, one clear line: unknown key or flag (with the nearest known one), wrong type, refused value.
    """
    from transformers import HfArgumentParser  # seconds to import, and only command lines need it

    class Parser(HfArgumentParser):
        def error(self, message):
            raise ValueError(message[:1].upper() + message[1:] + ".")

    argv = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(
        classes,
        conflict_handler="resolve",
        allow_abbrev=False,
        usage="%(prog)s [RECIPE] [--name value ...]",
    )
    if {"-h", "--help"} & set(argv):
        parser.parse_args(["--help"])
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # what was not said stays with the recipe, then with the dataclass
    path = find_recipe(argv.pop(0)) if argv and not argv[0].startswith("-") else None
    chooser = Parser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--preset")
    chosen, argv = chooser.parse_known_args(argv)
    sections = read_sections(path, preset=chosen.preset)[1] if path else {name: {} for name in SECTIONS}
    if chosen.preset and not path:
        apply_preset(chosen.preset, sections, SECTIONS)
    if not path:  # the built-in scenes are drawn, and trained on, at one size
        sections["data"] = {side: getattr(DataConfig, side) for side in ("height", "width")}
        share_size(sections)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings if "-" not in option[2:]]
        raise ValueError(f"There is no {unknown[0]}. {nearest_name(unknown[0].split('=')[0], flags, '`--help`')}")
    section_of = {cls: name for name, cls in SECTIONS.items()}
    built = []
    for cls in classes:
        names = {f.name for f in dataclasses.fields(cls)}
        flags = {name: value for name, value in vars(given).items() if name in names}
        where = f"{path}, section {section_of[cls]}" if path else "Command line"
        built.append(build(cls, sections[section_of[cls]] | flags, where))
    return tuple(built)


def parse_or_exit(*classes, argv: Sequence[str] | None = None) -> tuple:
    """`parse_config` for scripts: what the user got wrong becomes one line on stderr and exit status 2."""
    try:
        return parse_config(*classes, argv=argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
