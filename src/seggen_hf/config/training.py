"""Settings of trainings: what all share, the generators, and the segmenter."""

from dataclasses import dataclass, field

from seggen_hf.pipelines.seggen_choices import CONDITIONINGS

from .synthesis import MIXED_PRECISION
from .values import about, check, check_numbers

SYNTHETIC_MODES = ("replace", "pretrain", "joint", "only")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial", "multistep")
SCALE_REFERENCES = ("cover", "fit")
OPTIMIZERS = ("adamw", "adamw_8bit")


@dataclass(kw_only=True)
class TrainingConfig:
    """What every training shares: optimizer, schedule, checkpoints, trackers."""

    output_dir: str = field(
        default="runs/training", metadata=about("Folder for the result and its checkpoints.", how_only=True)
    )
    seed: int = field(default=0, metadata=about("Every random draw of the training follows from it."))
    max_train_steps: int = field(default=30_000, metadata=about("Optimizer steps."))
    train_batch_size: int = field(default=4, metadata=about("Samples per process and forward pass."))
    gradient_accumulation_steps: int = field(default=1, metadata=about("Forward passes per optimizer step."))
    gradient_checkpointing: bool = field(
        default=False, metadata=about("Recompute activations to save memory.", how_only=True)
    )
    mixed_precision: str = field(default="no", metadata=about("no, fp16 or bf16."))
    learning_rate: float = field(default=1e-5, metadata=about("Peak learning rate."))
    lr_scheduler: str = field(default="constant_with_warmup", metadata=about("One of: " + ", ".join(LR_SCHEDULES)))
    lr_warmup_steps: int = field(default=0, metadata=about("Steps of linear warm-up."))
    lr_power: float = field(default=0.9, metadata=about("Exponent of the polynomial schedule."))
    lr_milestones: list[int] = field(
        default_factory=list,
        metadata=about("Multistep schedule: steps at each of which the rate falls to a tenth."),
    )
    optimizer: str = field(
        default="adamw",
        metadata=about("adamw, or adamw_8bit, whose moments take a quarter of the memory (needs bitsandbytes)."),
    )
    adam_beta1: float = field(default=0.9, metadata=about("AdamW beta 1."))
    adam_beta2: float = field(default=0.999, metadata=about("AdamW beta 2."))
    adam_epsilon: float = field(default=1e-8, metadata=about("AdamW epsilon."))
    weight_decay: float = field(default=0.01, metadata=about("AdamW weight decay."))
    max_grad_norm: float = field(default=1.0, metadata=about("Gradient clipping norm; 0 turns it off."))
    ema_decay: float = field(default=0.0, metadata=about("Decay of the weight average that is kept; 0 turns it off."))
    ema_update_steps: int = field(
        default=1, metadata=about("Steps between updates of the weight average; it remembers as long with more.")
    )
    checkpointing_steps: int = field(
        default=500, metadata=about("Steps between checkpoints; 0 writes only the last.", how_only=True)
    )
    checkpoints_total_limit: int = field(
        default=2, metadata=about("Checkpoints kept; older ones are removed.", how_only=True)
    )
    resume: bool = field(
        default=True, metadata=about("Continue from the newest whole checkpoint in output_dir.", how_only=True)
    )
    validation_steps: int = field(
        default=0, metadata=about("Steps between validations; 0 validates once, at the end.", how_only=True)
    )
    logging_steps: int = field(default=10, metadata=about("Steps between log lines.", how_only=True))
    report_to: str = field(
        default="none", metadata=about("Accelerate tracker: none, tensorboard, wandb, ...", how_only=True)
    )
    dataloader_num_workers: int = field(
        default=0, metadata=about("Worker processes that prepare samples.", how_only=True)
    )
    dry_run: bool = field(
        default=False,
        metadata=about("Build everything on the meta device, print sizes and memory, and stop.", how_only=True),
    )

    def __post_init__(self):
        check_numbers(self)
        for name in (
            "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "learning_rate", "logging_steps",
        ):  # fmt: skip
            check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        check(self.lr_scheduler in LR_SCHEDULES, "lr_scheduler", self.lr_scheduler, f"one of {LR_SCHEDULES}")
        steps = [0, *self.lr_milestones, self.max_train_steps]
        rises = all(a < b for a, b in zip(steps, steps[1:], strict=False))
        check(rises, "lr_milestones", self.lr_milestones, f"rising steps below max_train_steps {steps[-1]}")
        if (self.lr_scheduler == "multistep") != bool(self.lr_milestones):
            raise ValueError("--lr_milestones and --lr_scheduler multistep go together; one of them is missing.")
        check(
            self.mixed_precision in MIXED_PRECISION,
            "mixed_precision",
            self.mixed_precision,
            f"one of {MIXED_PRECISION}",
        )
        check(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, f"one of {OPTIMIZERS}")
        check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")
        check(self.ema_update_steps >= 1, "ema_update_steps", self.ema_update_steps, "at least 1")
        check(self.checkpoints_total_limit >= 1, "checkpoints_total_limit", self.checkpoints_total_limit, "at least 1")


@dataclass(kw_only=True)
class GeneratorConfig(TrainingConfig):
    """What Text2Mask and Mask2Img trainings share."""

    base_model: str = field(
        default="miniature",
        metadata=about("Hub id or folder of an SDXL pipeline, or `miniature` (ships with the package)."),
    )
    revision: str | None = field(default=None, metadata=about("Commit, tag or branch of base_model."))
    height: int = field(default=768, metadata=about("Training height in pixels."))
    width: int = field(default=768, metadata=about("Training width in pixels."))
    cache_latents: bool = field(default=True, metadata=about("Encode images and captions once, before training."))
    cache_variants: int = field(default=4, metadata=about("Random flips and crops cached of each record."))
    cache_max_gb: float = field(
        default=50.0, metadata=about("Refuse to write a larger cache than this.", how_only=True)
    )
    random_flip: bool = field(default=True, metadata=about("Mirror image and map together, half of the time."))
    max_crop_zoom: float = field(
        default=1.0, metadata=about("Largest zoom of the paired random crop; 1 turns it off.")
    )
    size_conditioning: str = field(
        default="true",
        metadata=about(
            "What SDXL is told of sizes: `true` (each record's size and crop), or `target` (as if all had been made "
            "at the training size, as pipelines assume when they are not told otherwise; for small bases)."
        ),
    )
    caption_dropout: float = field(default=0.1, metadata=about("Share of captions emptied, so guidance has a null."))
    snr_gamma: float = field(default=0.0, metadata=about("Min-SNR loss weighting (arXiv:2303.09556); 0 turns it off."))
    torch_compile: bool = field(
        default=False,
        metadata=about(
            "Compile the transformer blocks of the networks: minutes at first, then faster steps.", how_only=True
        ),
    )
    num_validation_images: int = field(default=4, metadata=about("Images drawn at each validation.", how_only=True))
    validation_inference_steps: int = field(
        default=20, metadata=about("Denoising steps of validation images.", how_only=True)
    )
    validation_guidance_scale: float = field(
        default=5.0, metadata=about("Guidance scale of validation images.", how_only=True)
    )

    lora_rank: int = field(default=0, metadata=about("0 trains all weights; otherwise the rank of a LoRA."))
    lora_alpha: int | None = field(default=None, metadata=about("LoRA alpha; the rank if not given."))
    lora_targets: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"], metadata=about("Layers that get a LoRA.")
    )

    def __post_init__(self):
        super().__post_init__()
        check(
            0 <= self.caption_dropout < 1,
            "caption_dropout",
            self.caption_dropout,
            "a share of the captions, in [0, 1)",
        )
        sizes = ("true", "target")
        check(self.size_conditioning in sizes, "size_conditioning", self.size_conditioning, f"one of {sizes}")
        check(self.max_crop_zoom >= 1, "max_crop_zoom", self.max_crop_zoom, "at least 1")
        check(self.cache_variants >= 1, "cache_variants", self.cache_variants, "at least 1")
        steps = self.validation_inference_steps
        check(steps > 0, "validation_inference_steps", steps, "positive")
        for name in ("height", "width"):
            value = getattr(self, name)
            check(value >= 16 and value % 8 == 0, name, value, "a multiple of 8, at least 16")


@dataclass(kw_only=True)
class AdaptConfig(GeneratorConfig):
    """Caption -> image: the base learns the domain of `data.unlabelled` before the generators start from it.

    In a recipe, settings that it does not give are those of `text2mask`.
    """

    enabled: bool = field(
        default=True, metadata=about("Off: unlabelled images are for self-training alone, and no base is adapted.")
    )


@dataclass(kw_only=True)
class Text2MaskConfig(GeneratorConfig):
    """Caption -> color map: the base's U-Net, fully fine-tuned or through LoRA."""


@dataclass(kw_only=True)
class Mask2ImgConfig(GeneratorConfig):
    """Color map + caption -> image: a ControlNet on the frozen base."""

    controlnet_model: str | None = field(
        default=None, metadata=about("ControlNet to start from; a copy of the base's encoder if not given.")
    )
    conditioning: str = field(
        default="rgb",
        metadata=about(
            "What the ControlNet is shown: `rgb`, the color map (paper); `rgb_edges`, with a channel of the segments' "
            "borders; `bits`, those and the digits of the label id."
        ),
    )
    train_base: bool = field(
        default=False, metadata=about("Also train the base's U-Net (departs from the paper, which freezes it).")
    )
    validation_segmenter: str | None = field(
        default=None,
        metadata=about("Segmenter that measures how well validation images follow their maps.", how_only=True),
    )

    def __post_init__(self):
        super().__post_init__()
        check(self.conditioning in CONDITIONINGS, "conditioning", self.conditioning, f"one of {CONDITIONINGS}")
        rule = "0, or without --train_base: a LoRA leaves the base as it is"
        check(not self.lora_rank or not self.train_base, "lora_rank", self.lora_rank, rule)


@dataclass(kw_only=True)
class SegmenterConfig(TrainingConfig):
    """Mask2Former with the paper's optimizer; real data, synthetic data, or a mixture."""

    learning_rate: float = field(default=1e-4, metadata=about("Peak learning rate."))
    lr_scheduler: str = field(default="polynomial", metadata=about("One of: " + ", ".join(LR_SCHEDULES)))
    weight_decay: float = field(default=0.05, metadata=about("AdamW weight decay."))
    max_grad_norm: float = field(default=0.01, metadata=about("Gradient clipping norm; 0 turns it off."))
    max_train_steps: int = field(default=160_000, metadata=about("Optimizer steps."))
    train_batch_size: int = field(default=16, metadata=about("Samples per process and forward pass."))
    total_batch_size: int | None = field(
        default=None,
        metadata=about(
            "Samples per optimizer step that the settings are meant for; another number is warned of.", how_only=True
        ),
    )
    model: str = field(
        default="miniature",
        metadata=about(
            "Hub id or folder of a Mask2Former (weights or config); or a size with random weights: miniature, "
            "resnet-50, swin-tiny, swin-small, swin-base, swin-large."
        ),
    )
    model_revision: str | None = field(default=None, metadata=about("Commit, tag or branch of model."))
    backbone_model: str | None = field(
        default=None, metadata=about("Hub id or folder whose weights a backbone built from a config takes (R50).")
    )
    num_queries: int | None = field(
        default=None,
        metadata=about("Queries of the segmenter, more than an image has segments; those of model if not given."),
    )
    backbone_lr_multiplier: float = field(default=0.1, metadata=about("Learning rate factor of the backbone."))
    crop_height: int = field(default=512, metadata=about("Height of training crops in pixels."))
    crop_width: int = field(default=512, metadata=about("Width of training crops in pixels."))
    inference_size: int | None = field(
        default=None,
        metadata=about("Short side of images at inference, in pixels; the crop's shorter side if not given."),
    )
    scale_reference: str = field(
        default="cover",
        metadata=about(
            "Scale 1 of large-scale jitter: images `cover` the crop (Mask2Former on ADE20K), or `fit` into it (COCO)."
        ),
    )
    min_scale: float = field(default=0.5, metadata=about("Smallest factor of large-scale jitter."))
    max_scale: float = field(default=2.0, metadata=about("Largest factor of large-scale jitter."))
    random_flip: bool = field(default=True, metadata=about("Mirror image and map together, half of the time."))
    color_jitter: float = field(default=0.5, metadata=about("Strength of photometric augmentation, 0 to 1."))
    style_augmentation: bool = field(
        default=False,
        metadata=about("Hand-made night, fog and tint augmentation: the control for synthetic styles."),
    )
    copy_paste: float = field(
        default=0.0,
        metadata=about(
            "Share of the real samples onto which things of another real record are pasted (arXiv:2012.07177); of "
            "labels where there are no things (ClassMix)."
        ),
    )
    synthetic_dataset: str | None = field(
        default=None, metadata=about("Synthetic data: folder(s, comma-separated) or Hub id.")
    )
    synthetic_config_name: str | None = field(
        default=None, metadata=about("Config of a published synthetic_dataset; its newest round if not given.")
    )
    synthetic_revision: str | None = field(
        default=None, metadata=about("Commit, tag or branch of a published synthetic_dataset.")
    )
    synthetic_mode: str = field(default="replace", metadata=about("One of: " + ", ".join(SYNTHETIC_MODES)))
    p_aug: float = field(
        default=0.6,
        metadata=about("Probability that a synthetic sample takes a real one's place (paper, ADE20K: 0.6)."),
    )
    synthetic_until: float = field(
        default=1.0,
        metadata=about("Share of the steps in which synthetic samples are drawn; then real data only."),
    )

    def __post_init__(self):
        super().__post_init__()
        check(
            self.synthetic_mode in SYNTHETIC_MODES, "synthetic_mode", self.synthetic_mode, f"one of {SYNTHETIC_MODES}"
        )
        check(0 <= self.p_aug <= 1, "p_aug", self.p_aug, "a probability, in [0, 1]")
        check(
            0 <= self.synthetic_until <= 1, "synthetic_until", self.synthetic_until, "a share of the steps, in [0, 1]"
        )
        check(0 <= self.copy_paste <= 1, "copy_paste", self.copy_paste, "a share of the samples, in [0, 1]")
        known = f"one of {SCALE_REFERENCES}"
        check(self.scale_reference in SCALE_REFERENCES, "scale_reference", self.scale_reference, known)
        check(0 < self.min_scale <= self.max_scale, "min_scale", self.min_scale, "positive and at most max_scale")
        for name in ("crop_height", "crop_width", "num_queries", "inference_size"):
            value = getattr(self, name)
            check(value is None or value > 0, name, value, "positive")
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
