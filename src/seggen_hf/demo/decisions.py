"""The data set of what people kept and rejected: one shard a sample, written when they decide."""

import time
from collections.abc import Mapping
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.schema import encode_image, encode_map, encode_panoptic
from ..labels import LabelSet
from ..storage.files import replacing
from ..storage.folders import DECISIONS, claim_folder
from ..synthesis.shards import DECISION, KEEP, REJECT, SAMPLE_SCORES, data_path, reviewed_features
from .drawing import Drawing


class Decisions:
    """A folder that `datasets.load_dataset` reads, and `load_synthetic` too, which leaves out what was rejected.

    Args:
        folder: made if absent; samples of earlier days stay.
        panoptic (`bool`): whether the samples have segments.
    Raises: `ValueError` if other things lie there, samples of other labels, or some with segments beside others
        without.
    """

    def __init__(self, folder: str | Path, labels: LabelSet, panoptic: bool = False):
        self.folder, self.labels, self.panoptic = Path(folder), labels, panoptic
        claim_folder(self.folder, DECISIONS)
        if (self.folder / "labels.json").is_file():
            if not labels.fits(LabelSet.from_file(self.folder)):
                raise ValueError(f"{self.folder} holds samples with other labels; give another --out.")
            shard = next((self.folder / "data").glob("*.parquet"), None)
            if shard is not None and ("panoptic_map" in pq.read_schema(shard).names) != panoptic:
                held, made = ("labels alone", "segments") if panoptic else ("segments", "labels alone")
                raise ValueError(f"{self.folder} holds samples with {held}, not {made}; give another --out.")
        else:
            labels.save(self.folder)

    @staticmethod
    def new_id() -> str:
        """A name for a sample, later ones behind earlier ones."""
        return f"demo-{time.time_ns():020d}"

    def save(
        self,
        sample_id: str,
        decision: str,
        image: PIL.Image.Image,
        drawing: Drawing,
        caption: str,
        seed: int,
        scores: Mapping[str, float],
        repainted: bool,
    ) -> Path:
        """Write one sample; deciding on it again replaces the decision.

        Args:
            sample_id: of `new_id`.
            decision: `keep` or `reject`.
            drawing: the map, with segments if this is a data set of such.
            scores: those that are known of `SAMPLE_SCORES`; the others are null.
            repainted (`bool`): whether a person changed the map, which caption and seed do not make again then.
        """
        if decision not in (KEEP, REJECT):
            raise ValueError(f"A decision is {KEEP} or {REJECT}, not {decision!r}.")
        row = {
            "image": encode_image(image, sample_id),
            "segmentation_map": encode_map(drawing.labels, self.labels.num_labels, sample_id),
            "caption": caption,
            "image_id": sample_id,
            "kind": "masksyn",
            "source_id": None,  # the caption is no real record's
            "variant": 0,
            "seed": seed,
            "scores": {name: scores.get(name) for name in SAMPLE_SCORES},
            DECISION: decision,
            "repainted": repainted,
        }
        if self.panoptic:
            row |= {"panoptic_map": encode_panoptic(drawing.ids, sample_id), "segments_info": drawing.segments}
        path = data_path(self.folder, f"masksyn-{sample_id.removeprefix('demo-')}")
        with replacing(path) as temporary:
            table = pa.Table.from_pylist([row], schema=reviewed_features(self.panoptic).arrow_schema)
            pq.write_table(table, temporary)
        return path

    def counts(self) -> dict[str, int]:
        """How many samples were kept and rejected, by all who decided in this folder."""
        counts = {KEEP: 0, REJECT: 0}
        for file in sorted((self.folder / "data").glob("*.parquet")):
            for decision in pq.read_table(file, columns=[DECISION])[DECISION].to_pylist():
                counts[decision] += 1
        return counts
