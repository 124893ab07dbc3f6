"""Settings of the synthesis and of the filter behind it."""

from dataclasses import dataclass, field

from .values import POSITIVE, SHARE, about, check, check_fields

OFFLOADS = ("none", "model", "sequential")
VAE_PRECISIONS = ("float32", "same")
FILTER_RULES = ("absolute", "relative")
STYLE_ATTRIBUTES = ("light", "weather", "viewpoint", "material")
MIXED_PRECISION = ("no", "fp16", "bf16")


@dataclass(kw_only=True)
class SynthesisConfig:
    """How many samples MaskSyn and ImgSyn make, and how."""

    output_dir: str = field(
        default="runs/synthetic", metadata=about("Folder for the shards; `seggen run` sets it.", how_only=True)
    )
    text2mask_model: str | None = field(
        default=None, metadata=about("Folder or Hub id of a Text2Mask pipeline; a run takes its own.")
    )
    mask2img_model: str | None = field(
        default=None, metadata=about("Folder or Hub id of a Mask2Img pipeline; `seggen run` takes the one it trained.")
    )
    mixed_precision: str = field(
        default="no", metadata=about("Weights of the generators: no (fp32), fp16 or bf16.", one_of=MIXED_PRECISION)
    )
    masksyn_variants: int = field(default=1, metadata=about("MaskSyn samples per real caption."))
    imgsyn_variants: int = field(default=1, metadata=about("ImgSyn samples per real segmentation map."))
    rare_labels: float = field(
        default=0.0,
        metadata=about(
            "Records with rare labels are drawn from more often, the others less: in proportion to (1 / f) to this "
            "power, f the share of the records that show their rarest label (LVIS: 0.5). 0: all equally often.",
            within=SHARE,
        ),
    )
    seed: int = field(default=0, metadata=about("Each sample's own seed follows from it and the sample's id."))
    batch_size: int = field(default=4, metadata=about("Samples denoised together.", how_only=True, within=POSITIVE))
    shard_size: int = field(
        default=256,
        metadata=about("Samples per shard; a shard is the unit of resuming.", how_only=True, within=POSITIVE),
    )
    offload: str = field(
        default="none",
        metadata=about(
            "For small GPUs: `model` keeps one network of a pipeline there at a time, `sequential` one layer (slow).",
            how_only=True,
            one_of=OFFLOADS,
        ),
    )
    vae_slicing: bool = field(
        default=False,
        metadata=about("Decode a batch's latents one at a time: less memory, a little slower.", how_only=True),
    )
    vae_precision: str = field(
        default="float32",
        metadata=about(
            "How an autoencoder of float16 that may overflow decodes: cast to `float32`, or as it is (`same`), if the "
            "first batch shows no difference. Others decode as they are.",
            one_of=VAE_PRECISIONS,
        ),
    )
    text2mask_steps: int = field(
        default=200, metadata=about("Denoising steps of Text2Mask (paper: 200).", within=POSITIVE)
    )
    text2mask_guidance: float = field(default=5.0, metadata=about("Guidance scale of Text2Mask (not published)."))
    mask2img_steps: int = field(
        default=40, metadata=about("Denoising steps of Mask2Img (paper: 40).", within=POSITIVE)
    )
    mask2img_guidance: float = field(default=5.0, metadata=about("Guidance scale of Mask2Img (not published)."))
    conditioning_scale: float = field(default=1.0, metadata=about("Weight of the ControlNet's residuals."))
    max_color_distance: float = field(
        default=60.0,
        metadata=about(
            "Pixels further than this from every label's color become ignored (0-255 units).", within=POSITIVE
        ),
    )
    min_region_area: int = field(
        default=20, metadata=about("Smaller regions join their surroundings (JoDiffusion: 20).")
    )
    fill_distance: int = field(
        default=0,
        metadata=about(
            "Pixels that max_color_distance ignores take the nearest other label within this many pixels; 0: none."
        ),
    )
    max_ignored_share: float = field(
        default=0.3,
        metadata=about(
            "A generated map with a larger share of ignored pixels is dropped, with the reason.", within=SHARE
        ),
    )
    min_caption_agreement: float = field(
        default=0.0,
        metadata=about(
            "A generated map that shows a smaller share of the labels that its caption names is dropped.", within=SHARE
        ),
    )
    min_plausibility: float = field(
        default=0.0,
        metadata=about(
            "A generated map is dropped if less of it is as in real maps: the areas and heights of its labels, which "
            "of them touch, and the area and compactness of its things.",
            within=SHARE,
        ),
    )
    max_map_agreement: float = field(
        default=1.0,
        metadata=about(
            "A generated map with a larger share of pixels equal to those of one real map is dropped.", within=SHARE
        ),
    )
    caption_styles: list[str] = field(
        default_factory=list,
        metadata=about("Closing clauses to draw from; replaces the caption's own one of them, else is appended."),
    )
    caption_style_share: float = field(
        default=0.5, metadata=about("Share of the samples that get a drawn style.", within=SHARE)
    )
    caption_attributes: list[str] = field(
        default_factory=list,
        metadata=about(
            f"Of {', '.join(STYLE_ATTRIBUTES)}: clauses about these are drawn beside caption_styles; kept lists, or "
            "written by style_writer for the labels."
        ),
    )
    style_writer: str | None = field(
        default=None,
        metadata=about("Hub id or folder of a language model that writes the clauses of caption_attributes."),
    )
    density_share: float = field(
        default=0.0,
        metadata=about(
            "Share of MaskSyn's captions that ask for another number of things, where captions tell one "
            "(caption.attributes).",
            within=SHARE,
        ),
    )

    def __post_init__(self):
        check_fields(self)
        known = set(self.caption_attributes) <= set(STYLE_ATTRIBUTES)
        check(known, "caption_attributes", self.caption_attributes, f"taken from {STYLE_ATTRIBUTES}")
        if self.style_writer and not self.caption_attributes:
            raise ValueError(
                f"style_writer is set, and no caption_attributes for it to write of: {', '.join(STYLE_ATTRIBUTES)}."
            )
        fits = self.vae_precision == "float32" or self.offload != "sequential"
        check(fits, "vae_precision", self.vae_precision, "float32 with --offload sequential")


@dataclass(kw_only=True)
class FilterConfig:
    """What of synthetic records is left out because a segmenter of real records disagrees with it."""

    rule: str = field(
        default="absolute",
        metadata=about(
            "`absolute`: pixels of too large a loss are void (FreeMask). `relative`: of several images of one map, "
            "pixels in which the segmenter sees another label than in most of the others are void.",
            one_of=FILTER_RULES,
        ),
    )
    tolerance: float = field(
        default=1.25,
        metadata=about(
            "A pixel is made void above this many times the mean loss of its label (FreeMask: 1.25).", within=POSITIVE
        ),
    )
    min_alignment: float = field(
        default=0.0,
        metadata=about("Records that keep a smaller share of their labelled pixels are dropped.", within=SHARE),
    )
    pseudo_confidence: float = field(
        default=0.5,
        metadata=about(
            "Self-training: pixels of unlabelled images whose best label has a smaller share of the scores are void.",
            within=SHARE,
        ),
    )
    pseudo_map_variants: int | None = field(
        default=None,
        metadata=about(
            "Images of each map seen in an unlabelled one (arm pseudo-maps): as many as ImgSyn's if not given.",
            within=POSITIVE,
        ),
    )
    batch_size: int = field(default=16, metadata=about("Images per forward pass.", how_only=True, within=POSITIVE))

    def __post_init__(self):
        check_fields(self)
