"""Settings of the comparison."""

from dataclasses import dataclass, field

from .values import POSITIVE, SHARE, about, check, check_fields, check_unique

# What each is, is in `arms.py`, which knows more than settings.
ARM_NAMES = (
    "real", "imgsyn", "masksyn", "synthetic", "synthetic-copy-paste", "imgsyn-copy-paste", "filtered",
    "synthetic-only", "self-training", "pseudo-maps", "copy-paste", "style-augmentation", "renderer",
)  # fmt: skip


@dataclass(kw_only=True)
class EvaluationConfig:
    """How segmenters are scored and which arms are compared."""

    eval_batch_size: int = field(default=8, metadata=about("Images per forward pass.", how_only=True, within=POSITIVE))
    object_threshold: float = field(
        default=0.8, metadata=about("Panoptic: least class probability of a segment (Mask2Former: 0.8).", within=SHARE)
    )
    overlap_threshold: float = field(
        default=0.8,
        metadata=about("Panoptic: share of its mask that a segment must keep (Mask2Former: 0.8).", within=SHARE),
    )
    max_detections: int = field(
        default=100,
        metadata=about(
            "Instances of an image that count for AP, the best of all classes (COCO: 100).", within=POSITIVE
        ),
    )
    arms: list[str] = field(
        default_factory=lambda: ["real", "synthetic"],
        metadata=about(
            "Trainings compared: real, imgsyn, masksyn, synthetic (both), synthetic-copy-paste (both, and copy-paste "
            "on the real records), imgsyn-copy-paste (ImgSyn, and the same), filtered (both, without what the "
            "segmenter of real records disagrees with), synthetic-only (both, no real records), self-training (on "
            "unlabelled images), pseudo-maps (images drawn for the maps that self-training learns), and the controls "
            "copy-paste, style-augmentation and renderer."
        ),
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata=about("Seeds of the segmenter trainings."))
    jobs: int = field(
        default=1,
        metadata=about(
            "Stages of a run at a time, trainings and scorings above all, each with its share of the CPU's threads "
            "and a GPU of its own where there are several. Small models on a CPU gain from two or more.",
            how_only=True,
            within=POSITIVE,
        ),
    )
    keep_checkpoints: bool = field(
        default=False,
        metadata=about(
            "Keep checkpoints and caches of finished trainings: several times the size of what they made.",
            how_only=True,
        ),
    )

    def __post_init__(self):
        check_fields(self)
        unknown = sorted(set(self.arms) - set(ARM_NAMES))
        check(not unknown, "arms", self.arms, f"taken from {sorted(ARM_NAMES)}")
        check(len(self.arms) > 0, "arms", self.arms, "at least one arm")
        check_unique("arms", self.arms)
        check(len(self.seeds) > 0, "seeds", self.seeds, "at least one seed")
        check_unique("seeds", self.seeds)
