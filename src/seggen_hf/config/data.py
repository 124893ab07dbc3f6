"""Settings of the data: where records come from, and how they get captions."""

from dataclasses import dataclass, field

from seggen_hf.pipelines.seggen_choices import CODINGS

from ..storage.names import check_name
from ..tasks import TASKS
from .values import AT_LEAST_ONE, AT_LEAST_TWO, PART, POSITIVE, SIDE, about, check, check_fields, check_unique

SCENES = "scenes"  # the data set that this package draws itself
LOOKS = ("light", "color", "density")  # what a template caption may say beside the classes


@dataclass(kw_only=True)
class DataConfig:
    """Where the real data is and which part of it each stage sees."""

    dataset_name: str = field(
        default=SCENES, metadata=about(f"Folder, Hub id, or `{SCENES}` for the built-in scenes.")
    )
    task: str = field(default="semantic", metadata=about("semantic, instance or panoptic.", one_of=tuple(TASKS)))
    train_split: str = field(default="train", metadata=about("Split with the labelled training records."))
    test_splits: list[str] = field(
        default_factory=lambda: ["test"],
        metadata=about("Splits that the report scores; never trained or tuned on."),
    )
    image_column: str | None = field(default=None, metadata=about("Image column; guessed when not given."))
    mask_column: str | None = field(default=None, metadata=about("Mask column; guessed when not given."))
    labels: str | None = field(
        default=None,
        metadata=about(
            "labels.json, classes.json, or `ade20k`, `coco`, `cityscapes`, `voc`; read from the source if absent."
        ),
    )
    zero_is_void: bool = field(
        default=False, metadata=about("Ids in the maps are 1..C and 0 is void (ADE20K's annotations on the Hub).")
    )
    void_ids: list[int] = field(
        default_factory=list, metadata=about("More ids of void in the masks, beside that of the label file.")
    )
    mask_suffix: str | None = field(
        default=None,
        metadata=about("What the names of masks have after those of their images, such as `_mask` or `_labelIds`."),
    )
    dataset_config_name: str | None = field(default=None, metadata=about("Config of a Hub data set with several."))
    dataset_revision: str | None = field(default=None, metadata=about("Commit, tag or branch of a Hub data set."))
    unlabelled: str | None = field(
        default=None,
        metadata=about(
            "More images of the same kind, without masks: a folder, a split of the data set, or a Hub id; with "
            "captions.json, captions.jsonl or metadata.jsonl beside them if they have captions."
        ),
    )
    max_unlabelled: int | None = field(
        default=None, metadata=about("Use only the first unlabelled images.", within=POSITIVE)
    )
    media_roots: list[str] = field(
        default_factory=list,
        metadata=about(
            "Folders beside the data set that its files may lie in; links and names that lead elsewhere are refused."
        ),
    )
    max_megapixels: float = field(
        default=179.0,
        metadata=about(
            "Larger pictures are refused: a small file may unfold to any size. Raise it for files that are trusted.",
            how_only=True,
            within=POSITIVE,
        ),
    )
    streaming: bool = field(
        default=False,
        metadata=about("Read data sets on the Hub (real, synthetic) as needed; no shard is downloaded whole."),
    )
    held_out: float = field(
        default=0.0,
        metadata=about(
            "Share of the training records that is set apart and scored, as the test split `held-out`, where the data "
            "set has no other split; images of one patient or video, by their names, stay together.",
            within=PART,
        ),
    )
    held_out_names: list[str] = field(
        default_factory=list,
        metadata=about(
            "In place of a share: patterns (`0001TP*`) of the ids of the images that are set apart, labelled or not: "
            "a video, a clinic, a season that nothing may have seen."
        ),
    )
    held_out_seed: int = field(default=0, metadata=about("Decides which records are held out."))
    max_train_records: int | None = field(default=None, metadata=about("Use only the first records (lack of labels)."))
    train_records_seed: int | None = field(
        default=None,
        metadata=about("Draw max_train_records among all by this seed, instead of the first: another lack of labels."),
    )
    max_test_records: int | None = field(default=None, metadata=about("Score only the first records of a test split."))
    panoptic_coding: str = field(
        default="shades",
        metadata=about(
            "Color maps tell instances apart by `shades` of their class, or `edges` around them (paper).",
            one_of=CODINGS,
        ),
    )
    palette: str = field(
        default="generated",
        metadata=about(
            "Colors of color maps: `generated`, as far apart as can be, or the labels' own, `dataset`.",
            one_of=("generated", "dataset"),
        ),
    )
    num_shades: int = field(
        default=4, metadata=about("Shades of each thing class; four suffice for any map.", within=AT_LEAST_TWO)
    )
    tiles: int = field(
        default=1,
        metadata=about(
            "Train on squares cut of each image, this many along its short side: for images with more segments than "
            "the segmenter has queries, and details too small for the generators. It then sees whole images through "
            "overlapping windows of that size, and is scored on whole images.",
            within=AT_LEAST_ONE,
        ),
    )
    height: int = field(default=64, metadata=about("Height in pixels at which the generators work.", within=SIDE))
    width: int = field(default=64, metadata=about("Width in pixels at which the generators work.", within=SIDE))

    def __post_init__(self):
        check_fields(self)
        if (self.held_out > 0 or self.held_out_names) and self.streaming:
            raise ValueError("--held_out goes through all names, which a stream does not know; drop --streaming.")
        check(not (self.held_out and self.held_out_names), "held_out", self.held_out, "0 beside held_out_names")
        if self.train_records_seed is not None:
            known = "a seed with max_train_records, and without streaming"
            fits = self.max_train_records is not None and not self.streaming
            check(fits, "train_records_seed", self.train_records_seed, known)
        if self.palette == "dataset" and self.task != "semantic":
            raise ValueError(
                f"--palette is 'dataset', one color a label; --task {self.task} needs more, to tell segments apart. "
                "Leave it generated."
            )
        check(self.tiles == 1 or not self.streaming, "tiles", self.tiles, "1 with --streaming")
        check(len(self.test_splits) > 0, "test_splits", self.test_splits, "at least one split")
        check_unique("test_splits", self.test_splits)
        for split in self.test_splits:  # a folder of predictions each
            check_name(split, "--test_splits")


@dataclass(kw_only=True)
class CaptionConfig:
    """How the caption column is made where the source brings none."""

    captioner: str = field(
        default="template",
        metadata=about("`template` (classes present, largest first), or the Hub id of a captioning model."),
    )
    attributes: list[str] = field(
        default_factory=list,
        metadata=about(
            f"What the template says beside the classes, out of {', '.join(LOOKS)}: how light a picture is, of which "
            "color, and in a word how many things of a class it has. For kinds of pictures that show the same classes."
        ),
    )
    caption_prompt: str | None = field(
        default=None, metadata=about("Question asked of a chat-style vision-language model.")
    )
    caption_batch_size: int = field(
        default=8, metadata=about("Images captioned at once.", how_only=True, within=POSITIVE)
    )
    max_new_tokens: int = field(default=40, metadata=about("Longest caption, in tokens.", within=POSITIVE))
    recaption: bool = field(default=False, metadata=about("Replace captions that the source already has."))

    def __post_init__(self):
        check_fields(self)
        check(set(self.attributes) <= set(LOOKS), "attributes", self.attributes, f"taken from {LOOKS}")
        check_unique("attributes", self.attributes)
