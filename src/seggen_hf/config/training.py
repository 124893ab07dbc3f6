"""Settings of trainings: what all share, the generators, and the segmenter."""

from dataclasses import dataclass, field

from seggen_hf.pipelines.seggen_choices import CONDITIONINGS

from .synthesis import MIXED_PRECISION
from .values import AT_LEAST_ONE, PART, POSITIVE, SHARE, SIDE, about, check, check_fields

SYNTHETIC_MODES = ("replace", "pretrain", "joint", "only")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial", "multistep")
SCALE_REFERENCES = ("cover", "fit")
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
OPTIMIZERS = ("adamw", "adamw_8bit")


@dataclass(kw_only=True)
class TrainingConfig:
    """What every training shares: optimizer, schedule, checkpoints, trackers."""

    output_dir: str = field(
        default="runs/training", metadata=about("Folder for the result and its checkpoints.", how_only=True)
    )
    seed: int = field(default=0, metadata=about("Every random draw of the training follows from it."))
    max_train_steps: int = field(default=30_000, metadata=about("Optimizer steps.", within=POSITIVE))
    train_batch_size: int = field(default=4, metadata=about("Samples per process and forward pass.", within=POSITIVE))
    gradient_accumulation_steps: int = field(
        default=1, metadata=about("Forward passes per optimizer step.", within=POSITIVE)
    )
    gradient_checkpointing: bool = field(
        default=False, metadata=about("Recompute activations to save memory.", how_only=True)
    )
    mixed_precision: str = field(default="no", metadata=about("no, fp16 or bf16.", one_of=MIXED_PRECISION))
    learning_rate: float = field(default=1e-5, metadata=about("Peak learning rate.", within=POSITIVE))
    lr_scheduler: str = field(
        default="constant_with_warmup", metadata=about("One of: " + ", ".join(LR_SCHEDULES), one_of=LR_SCHEDULES)
    )
    lr_warmup_steps: int = field(default=0, metadata=about("Steps of linear warm-up."))
    lr_power: float = field(default=0.9, metadata=about("Exponent of the polynomial schedule."))
    lr_milestones: list[int] = field(
        default_factory=list,
        metadata=about("Multistep schedule: steps at each of which the rate falls to a tenth."),
    )
    optimizer: str = field(
        default="adamw",
        metadata=about(
            "adamw, or adamw_8bit, whose moments take a quarter of the memory (needs bitsandbytes).", one_of=OPTIMIZERS
        ),
    )
    adam_beta1: float = field(default=0.9, metadata=about("AdamW beta 1."))
    adam_beta2: float = field(default=0.999, metadata=about("AdamW beta 2."))
    adam_epsilon: float = field(default=1e-8, metadata=about("AdamW epsilon."))
    weight_decay: float = field(default=0.01, metadata=about("AdamW weight decay."))
    max_grad_norm: float = field(default=1.0, metadata=about("Gradient clipping norm; 0 turns it off."))
    ema_decay: float = field(
        default=0.0, metadata=about("Decay of the weight average that is kept; 0 turns it off.", within=PART)
    )
    ema_update_steps: int = field(
        default=1,
        metadata=about(
            "Steps between updates of the weight average; it remembers as long with more.", within=AT_LEAST_ONE
        ),
    )
    checkpointing_steps: int = field(
        default=500, metadata=about("Steps between checkpoints; 0 writes only the last.", how_only=True)
    )
    checkpoints_total_limit: int = field(
        default=2, metadata=about("Checkpoints kept; older ones are removed.", how_only=True, within=AT_LEAST_ONE)
    )
    resume: bool = field(
        default=True, metadata=about("Continue from the newest whole checkpoint in output_dir.", how_only=True)
    )
    validation_steps: int = field(
        default=0, metadata=about("Steps between validations; 0 validates once, at the end.", how_only=True)
    )
    logging_steps: int = field(default=10, metadata=about("Steps between log lines.", how_only=True, within=POSITIVE))
    report_to: str = field(
        default="none",
        metadata=about(
            "Trackers of losses, validation pictures and scores: none, or some of tensorboard, trackio, wandb and "
            "what else accelerate knows, such as `tensorboard,trackio`. Those three keep all on this machine, unless "
            "WANDB_MODE=online, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set.",
            how_only=True,
        ),
    )
    dataloader_num_workers: int = field(
        default=0, metadata=about("Worker processes that prepare samples.", how_only=True)
    )
    dry_run: bool = field(
        default=False,
        metadata=about("Build everything on the meta device, print sizes and memory, and stop.", how_only=True),
    )

    def __post_init__(self):
        check_fields(self)
        steps = [0, *self.lr_milestones, self.max_train_steps]
        rises = all(a < b for a, b in zip(steps, steps[1:], strict=False))
        check(rises, "lr_milestones", self.lr_milestones, f"rising steps below max_train_steps {steps[-1]}")
        if (self.lr_scheduler == "multistep") != bool(self.lr_milestones):
            raise ValueError("--lr_milestones and --lr_scheduler multistep go together; one of them is missing.")


@dataclass(kw_only=True)
class GeneratorConfig(TrainingConfig):
    """What the trainings of the base, of Text2Mask and of Mask2Img share."""

    base_model: str = field(
        default="miniature",
        metadata=about(
            "Hub id or folder of an SDXL or FLUX.2-klein pipeline, or `miniature` (ships with the package)."
        ),
    )
    revision: str | None = field(default=None, metadata=about("Commit, tag or branch of base_model."))
    height: int = field(default=768, metadata=about("Training height in pixels.", within=SIDE))
    width: int = field(default=768, metadata=about("Training width in pixels.", within=SIDE))
    cache_latents: bool = field(default=True, metadata=about("Encode images and captions once, before training."))
    cache_variants: int = field(
        default=4, metadata=about("Random flips and crops cached of each record.", within=AT_LEAST_ONE)
    )
    cache_max_gb: float = field(
        default=50.0, metadata=about("Refuse to write a larger cache than this.", how_only=True)
    )
    random_flip: bool = field(default=True, metadata=about("Mirror image and map together, half of the time."))
    max_crop_zoom: float = field(
        default=1.0, metadata=about("Largest zoom of the paired random crop; 1 turns it off.", within=AT_LEAST_ONE)
    )
    size_conditioning: str = field(
        default="true",
        metadata=about(
            "What SDXL is told of sizes: `true` (each record's size and crop), or `target` (as if all had been made "
            "at the training size, as pipelines assume when they are not told otherwise; for small bases).",
            one_of=("true", "target"),
        ),
    )
    caption_dropout: float = field(
        default=0.1, metadata=about("Share of captions emptied, so guidance has a null.", within=PART)
    )
    snr_gamma: float = field(default=0.0, metadata=about("Min-SNR loss weighting (arXiv:2303.09556); 0 turns it off."))
    torch_compile: bool = field(
        default=False,
        metadata=about(
            "Compile the transformer blocks of the networks: minutes at first, then faster steps.", how_only=True
        ),
    )
    num_validation_images: int = field(default=4, metadata=about("Images drawn at each validation.", how_only=True))
    validation_inference_steps: int = field(
        default=20, metadata=about("Denoising steps of validation images.", how_only=True, within=POSITIVE)
    )
    validation_guidance_scale: float = field(
        default=5.0, metadata=about("Guidance scale of validation images.", how_only=True)
    )

    lora_rank: int = field(default=0, metadata=about("0 trains all weights; otherwise the rank of a LoRA."))
    lora_alpha: int | None = field(default=None, metadata=about("LoRA alpha; the rank if not given."))
    lora_targets: list[str] = field(
        default_factory=lambda: list(LORA_TARGETS),
        metadata=about("Layers that get a LoRA; by default those of attention, of FLUX.2 in its single blocks too."),
    )


@dataclass(kw_only=True)
class ImageGeneratorConfig(GeneratorConfig):
    """Of what learns to draw images: the base itself, and Mask2Img."""

    image_gamma: float = field(
        default=1.0,
        metadata=about(
            "Images in [0, 1] are raised to this power before the autoencoder reads them, and what is drawn to its "
            "inverse. Below 1 for dark images (fluorescence, night), whose dim parts an autoencoder of photographs "
            "loses.",
            within=POSITIVE,
        ),
    )


@dataclass(kw_only=True)
class AdaptConfig(ImageGeneratorConfig):
    """Caption -> image: the base learns the domain of `data.unlabelled` before the generators start from it.

    In a recipe, settings that it does not give are those of `text2mask`.
    """

    enabled: bool = field(
        default=True, metadata=about("Off: unlabelled images are for self-training alone, and no base is adapted.")
    )
    train_text_encoders: bool = field(
        default=False,
        metadata=about(
            "Also train SDXL's text encoders, for captions with words that the base does not know: it takes memory "
            "and time. Text2Mask and Mask2Img read captions by them then, and leave them as they are."
        ),
    )

    def __post_init__(self):
        super().__post_init__()
        rule = "false, or lora_rank 0: a LoRA leaves the text encoders as they are"
        check(not self.lora_rank or not self.train_text_encoders, "train_text_encoders", True, rule)


@dataclass(kw_only=True)
class Text2MaskConfig(GeneratorConfig):
    """Caption -> color map: the base's network, fully fine-tuned or through LoRA."""


@dataclass(kw_only=True)
class Mask2ImgConfig(ImageGeneratorConfig):
    """Color map + caption -> image: a ControlNet on the frozen base, or FLUX.2 itself, which is shown the map."""

    controlnet_model: str | None = field(
        default=None, metadata=about("ControlNet to start from; a copy of the base's encoder if not given.")
    )
    conditioning: str = field(
        default="rgb",
        metadata=about(
            "What the ControlNet is shown: `rgb`, the color map (paper); `rgb_edges`, with a channel of the segments' "
            "borders; `bits`, those and the digits of the label id.",
            one_of=CONDITIONINGS,
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
        rule = "0, or without --train_base: a LoRA leaves the base as it is"
        check(not self.lora_rank or not self.train_base, "lora_rank", self.lora_rank, rule)


@dataclass(kw_only=True)
class SegmenterConfig(TrainingConfig):
    """Mask2Former with the paper's optimizer; real data, synthetic data, or a mixture."""

    learning_rate: float = field(default=1e-4, metadata=about("Peak learning rate.", within=POSITIVE))
    lr_scheduler: str = field(
        default="polynomial", metadata=about("One of: " + ", ".join(LR_SCHEDULES), one_of=LR_SCHEDULES)
    )
    weight_decay: float = field(default=0.05, metadata=about("AdamW weight decay."))
    max_grad_norm: float = field(default=0.01, metadata=about("Gradient clipping norm; 0 turns it off."))
    max_train_steps: int = field(default=160_000, metadata=about("Optimizer steps.", within=POSITIVE))
    train_batch_size: int = field(default=16, metadata=about("Samples per process and forward pass.", within=POSITIVE))
    total_batch_size: int | None = field(
        default=None,
        metadata=about(
            "Samples per optimizer step that the settings are meant for; another number is warned of.", how_only=True
        ),
    )
    model: str = field(
        default="miniature",
        metadata=about(
            "Hub id or folder of a Mask2Former, MaskFormer or EoMT (weights or config); or a size with random "
            "weights: miniature, resnet-50, swin-tiny, swin-small, swin-base, swin-large, eomt-miniature; "
            "or mask2former or eomt, around backbone_model; or miniature-scenes, the miniature with weights that know "
            "drawn scenes."
        ),
    )
    model_revision: str | None = field(default=None, metadata=about("Commit, tag or branch of model."))
    backbone_model: str | None = field(
        default=None,
        metadata=about("Hub id or folder whose weights a backbone built from a config takes (R50, ConvNeXt, ...)."),
    )
    num_queries: int | None = field(
        default=None,
        metadata=about(
            "Queries of the segmenter, more than an image has segments; those of model if not given.", within=POSITIVE
        ),
    )
    backbone_lr_multiplier: float = field(
        default=0.1,
        metadata=about("Learning rate factor of the backbone; of an EoMT's first block, growing to 1 at its last."),
    )
    crop_height: int = field(default=512, metadata=about("Height of training crops in pixels.", within=POSITIVE))
    crop_width: int = field(default=512, metadata=about("Width of training crops in pixels.", within=POSITIVE))
    inference_size: int | None = field(
        default=None,
        metadata=about(
            "Short side of images at inference, in pixels; the crop's shorter side if not given.", within=POSITIVE
        ),
    )
    scale_reference: str = field(
        default="cover",
        metadata=about(
            "Scale 1 of large-scale jitter: images `cover` the crop (Mask2Former on ADE20K), or `fit` into it (COCO).",
            one_of=SCALE_REFERENCES,
        ),
    )
    min_scale: float = field(default=0.5, metadata=about("Smallest factor of large-scale jitter.", within=POSITIVE))
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
            "labels where there are no things (ClassMix).",
            within=SHARE,
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
    synthetic_mode: str = field(
        default="replace", metadata=about("One of: " + ", ".join(SYNTHETIC_MODES), one_of=SYNTHETIC_MODES)
    )
    p_aug: float = field(
        default=0.6,
        metadata=about(
            "Probability that a synthetic sample takes a real one's place (paper, ADE20K: 0.6).", within=SHARE
        ),
    )
    synthetic_until: float = field(
        default=1.0,
        metadata=about("Share of the steps in which synthetic samples are drawn; then real data only.", within=SHARE),
    )
    synthetic_dice: float = field(
        default=1.0, metadata=about("Factor of the Dice loss on synthetic samples; SENSE leaves it out.", within=SHARE)
    )
    pixel_mixing: float = field(
        default=0.0,
        metadata=about(
            "Share of the ImgSyn samples whose image is mixed with the real one of the same map, the more of it the "
            "later the step.",
            within=SHARE,
        ),
    )
    hard_records: float = field(
        default=0.0,
        metadata=about(
            "Synthetic records of which the filter kept less are seen more often: in proportion to their rank to "
            "this power (FreeMask: 1). Of the arm `filtered`, where synthetic_mode draws at random.",
            within=SHARE,
        ),
    )
    soft_labels: float = field(
        default=0.0,
        metadata=about(
            "Share of the label of a synthetic pixel that is what teacher sees there; the rest is what the map says.",
            within=SHARE,
        ),
    )
    teacher: str | None = field(
        default=None,
        metadata=about(
            "Folder or Hub id of a segmenter trained on real records, for soft_labels; a run takes its own.",
            how_only=True,
        ),
    )

    def __post_init__(self):
        super().__post_init__()
        check(0 < self.min_scale <= self.max_scale, "min_scale", self.min_scale, "positive and at most max_scale")
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
