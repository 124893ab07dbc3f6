"""What is to make, in which order and by whom; and whether a folder may be continued with these settings.

Nothing here depends on batch size, number of processes or restarts: a sample follows from the settings and its source
record alone.
"""

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import SynthesisConfig
from ..data.looks import COUNTS
from ..provenance import public_value
from ..storage.files import write_json
from .rarity import share_out

COUNTED = re.compile(rf"\(({'|'.join(word for _, word in COUNTS)})\)")  # how many things, in a template's caption
KINDS = ("imgsyn", "masksyn")  # alphabetical, so that a plain listing of the shards is in the order of the plan
MANIFEST = "manifest.json"
# Where files lie, where weights wait, and how many samples are denoised or decoded at once changes no sample.
_NOT_IN_FINGERPRINT = ("output_dir", "text2mask_model", "mask2img_model", "batch_size", "offload", "vae_slicing")
_WITHOUT_TRACE = {
    "vae_precision": "float32",
    "fill_distance": 0,
    "rare_labels": 0.0,
    "min_caption_agreement": 0.0,
    "min_plausibility": 0.0,
    "max_map_agreement": 1.0,
    "caption_attributes": [],
    "style_writer": None,
    "density_share": 0.0,
}  # left out where they have this value: manifests may be older than they
_OF_KIND = {  # what decides samples of that kind only
    "imgsyn": ("imgsyn_variants",),
    "masksyn": (
        "masksyn_variants", "text2mask_steps", "text2mask_guidance", "max_color_distance", "min_region_area",
        "fill_distance", "max_ignored_share", "min_caption_agreement", "min_plausibility", "max_map_agreement",
        "density_share",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PlannedSample:
    """One sample to make: `kind`, the row `record` and id of its source, the seed of its noise, and its captions.

    `caption` may have a drawn style and is the image's; `map_caption` is the record's own, for Text2Mask: it was
    trained on captions of labelled records only, and paints "at night" as a darker color map, of other labels. Both
    may ask for another number of things than the record shows.
    """

    kind: str
    record: int
    source_id: str
    variant: int
    seed: int
    caption: str
    map_caption: str

    @property
    def image_id(self) -> str:
        return f"{self.source_id}-{self.kind}-{self.variant:03d}"


@dataclass(frozen=True)
class Shard:
    """Samples `start` to `stop` of one kind; `number` counts the kind's shards, `index` those of the whole plan."""

    kind: str
    number: int
    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number:05d}"

    def __len__(self) -> int:
        return self.stop - self.start


class SynthesisPlan:
    """Every sample of a synthesis, computed when asked for: a million of them take no memory.

    The variants of a record follow one another, so that its caption is encoded once.

    Args:
        source_ids, captions: of the real records.
        kinds: out of `KINDS`; those with no variants in `config` are left out.
        weights: of the records: each kind's samples are shared out in proportion; equally if not given.
    Raises: `ValueError` for records without id or caption, ids that repeat, and a plan without samples.
    """

    def __init__(
        self,
        source_ids: Sequence[str],
        captions: Sequence[str],
        config: SynthesisConfig,
        kinds: Sequence[str] = KINDS,
        weights: Sequence[float] | np.ndarray | None = None,
    ):
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"There is no kind {unknown[0]!r} of synthetic samples; there are {', '.join(KINDS)}.")
        _check_records(source_ids, captions)
        self.source_ids, self.captions, self.config = source_ids, captions, config
        variants = {kind: getattr(config, f"{kind}_variants") for kind in KINDS if kind in kinds}
        self.variants = {kind: number for kind, number in variants.items() if number > 0}
        if not self.variants:
            raise ValueError(
                f"There is nothing to make: {' and '.join(f'--{kind}_variants' for kind in kinds) or 'kinds'} "
                f"must be 1 or more."
            )
        is_varied = config.density_share > 0 and "masksyn" in self.variants
        self.density_words = density_words(captions) if is_varied else []
        if is_varied and not self.density_words:
            raise ValueError(
                "synthesis.density_share asks for other numbers of things, and no caption tells one; set "
                "caption.attributes=[density] for things in segments, or leave it out."
            )
        # Of each kind and record the number of its first sample.
        self.starts: dict[str, np.ndarray] = {}
        if weights is not None:
            for kind in self.variants:
                counts = share_out(self.num_samples(kind), weights)
                self.starts[kind] = np.cumsum([0, *counts[:-1]])
        self.shards: list[Shard] = []
        for kind in self.variants:
            starts = range(0, self.num_samples(kind), config.shard_size)
            for number, start in enumerate(starts):
                stop = min(start + config.shard_size, self.num_samples(kind))
                self.shards.append(Shard(kind, number, len(self.shards), start, stop))

    @property
    def kinds(self) -> list[str]:
        return list(self.variants)

    def num_samples(self, kind: str) -> int:
        return len(self.source_ids) * self.variants[kind]

    def __len__(self) -> int:
        return sum(self.num_samples(kind) for kind in self.variants)

    def sample(self, kind: str, index: int) -> PlannedSample:
        """Sample number `index` of a kind."""
        record, variant = self._source(kind, index)
        source_id = self.source_ids[record]
        seed = derive_seed(self.config.seed, kind, source_id, variant)
        config, own = self.config, self.captions[record]
        if kind == "masksyn":
            own = draw_density(own, self.density_words, config.density_share, seed)
        caption = draw_caption(own, config.caption_styles, config.caption_style_share, seed)
        return PlannedSample(kind, record, source_id, variant, seed, caption, own)

    def _source(self, kind: str, index: int) -> tuple[int, int]:
        """Record and variant of a sample."""
        if kind not in self.starts:
            return divmod(index, self.variants[kind])
        starts = self.starts[kind]
        record = int(np.searchsorted(starts, index, side="right")) - 1  # of records without samples the one behind
        return record, index - int(starts[record])

    def samples(self, shard: Shard) -> list[PlannedSample]:
        return [self.sample(shard.kind, index) for index in range(shard.start, shard.stop)]

    def shards_of(self, rank: int, world_size: int) -> list[Shard]:
        """The shards that one process makes."""
        return [shard for shard in self.shards if shard.index % world_size == rank]

    def fingerprint(self, height: int, width: int, labels: dict, digests: dict[str, str]) -> dict:
        """All that decides the samples and how they lie in shards, as plain JSON.

        Args:
            digests: `{name: digest}` of what the plan does not hold: the generators' weights and the records' maps.
        """
        settings = dataclasses.asdict(self.config)
        for name in (*_NOT_IN_FINGERPRINT, *(n for kind in KINDS if kind not in self.kinds for n in _OF_KIND[kind])):
            settings.pop(name)
        settings["style_writer"] = public_value(settings["style_writer"])
        missing = object()
        settings = {name: value for name, value in settings.items() if _WITHOUT_TRACE.get(name, missing) != value}
        return settings | {
            "kinds": self.kinds,
            "height": height,
            "width": width,
            "num_records": len(self.source_ids),
            "image_ids": _digest(self.source_ids),
            "captions": _digest(self.captions),
            "labels": _digest([json.dumps(labels, sort_keys=True)]),
            **digests,
        }


def _check_records(source_ids: Sequence[str], captions: Sequence[str]) -> None:
    if len(source_ids) == 0:
        raise ValueError("There are no records to start from.")
    empty = [id for id, caption in zip(source_ids, captions, strict=True) if not (caption and caption.strip())]
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(source_ids)} records have no caption, first {empty[0]!r}. Add captions with "
            f"`seggen caption` or seggen_hf.data.captions.add_captions."
        )
    seen = set()
    for id in source_ids:
        if not id or id in seen:
            raise ValueError(f"The image_id {id!r} is {'given twice' if id else 'empty'}; each record needs its own.")
        seen.add(id)


def derive_seed(seed: int, kind: str, source_id: str, variant: int) -> int:
    """A sample's own seed, in [0, 2^63)."""
    text = json.dumps([seed, kind, source_id, variant])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def draw_caption(caption: str, styles: Sequence[str], share: float, seed: int) -> str:
    """The caption, in a share of the samples with another closing clause: "a street, noon" -> "a street, night".

    Args:
        styles: clauses to draw from. One that already closes the caption is replaced, otherwise it is appended.
        share: of the samples that get a drawn style; the others keep their caption.
    """
    rng = random.Random(seed)  # its random() is the same in every version of Python
    if not styles or rng.random() >= share:
        return caption
    drawn = styles[int(rng.random() * len(styles))]
    own = [style for style in styles if caption.endswith(f", {style}")]
    content = caption[: -len(max(own, key=len)) - 2] if own else caption
    return f"{content}, {drawn}"


def draw_density(caption: str, words: Sequence[str], share: float, seed: int) -> str:
    """The caption, in a share of the samples with another word for how many things there are: "car (one)" -> "car
    (many)".

    Args:
        words: to draw from, as often as they stand there.
    """
    rng = random.Random(f"density {seed}")
    if share <= 0 or not words or rng.random() >= share:
        return caption
    return COUNTED.sub(lambda _: f"({words[int(rng.random() * len(words))]})", caption)


def density_words(captions: Sequence[str]) -> list[str]:
    """All words for how many things there are, of all captions."""
    return [word for caption in captions for word in COUNTED.findall(caption or "")]


def _digest(texts: Sequence[str]) -> str:
    state = hashlib.sha256()
    for text in texts:
        state.update(json.dumps(text).encode() + b"\n")
    return state.hexdigest()[:16]


# The file


def check_manifest(folder: Path, fingerprint: dict) -> bool:
    """Whether `folder` has a manifest already.

    Raises: `ValueError` if it was begun with settings that make other samples.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return False
    begun = json.loads(path.read_text())["fingerprint"]
    names = sorted(begun.keys() | fingerprint.keys())
    changed = [name for name in names if begun.get(name) != fingerprint.get(name)]
    if changed:
        changes = ", ".join(f"{name} was {begun.get(name)!r} and is now {fingerprint.get(name)!r}" for name in changed)
        raise ValueError(
            f"{folder} was begun with other settings and cannot be continued: {changes}. Restore them, name another "
            f"--output_dir, or remove the folder to start again."
        )
    return True


def write_manifest(folder: Path, plan: SynthesisPlan, fingerprint: dict, provenance: dict) -> None:
    write_json(
        folder / MANIFEST,
        {
            "num_samples": {kind: plan.num_samples(kind) for kind in plan.kinds},
            "shards": [shard.name for shard in plan.shards],
            "fingerprint": fingerprint,
            "provenance": provenance,
        },
    )
