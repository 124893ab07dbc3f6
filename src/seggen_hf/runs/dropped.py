"""What of the synthetic samples was left out, why, and which arms are without a kind of them for that."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..arms import ARMS, DRAWN
from ..synthesis.quality import REASONS
from ..synthesis.shards import finished_shards, read_log
from .folder import RunFolder
from .stages import RECORDS_OF

NUM_EXAMPLES = 3  # of each reason
TITLES = {"imgsyn": "ImgSyn", "masksyn": "MaskSyn"}
OF_STAGE = {"filtered": ", filtered", "repainted": " of pseudo-labels"}


@dataclass(frozen=True)
class Made:
    """The samples of one kind in a folder of a synthesis.

    Attributes:
        stage: `synthetic`, `filtered` or `repainted`; kind: `imgsyn` or `masksyn`.
        made: all that were drawn; kept: those that a training sees.
        reasons: `{reason: number of those left out}`, the most frequent first.
        examples: `{reason: captions of some of them}`.
    """

    stage: str
    kind: str
    made: int
    kept: int
    reasons: dict[str, int]
    examples: dict[str, list[str]]

    @property
    def title(self) -> str:
        return TITLES.get(self.kind, self.kind) + OF_STAGE.get(self.stage, "")

    @property
    def share_dropped(self) -> float:
        return 1 - self.kept / self.made if self.made else 0.0

    def to_rows(self) -> list[dict]:
        """A row a reason, for the report: `text` says what it means."""
        return [
            {
                "title": self.title,
                "count": count,
                "share": count / self.made,
                "text": REASONS.get(reason, reason),
                "examples": self.examples[reason],
            }
            for reason, count in self.reasons.items()
        ]


def count_made(run: RunFolder) -> list[Made]:
    """Of each kind what the synthesis made and kept, and what the filter kept of that, as far as they are finished."""
    found = []
    for reads, stage in RECORDS_OF.items():
        if reads in DRAWN and run.marker(stage):
            found += _count_folder(run.stage(stage), stage)
    return found


def absent_kinds(made: list[Made], arms: list[str]) -> dict[str, list[str]]:
    """`{arm: kinds of which it got no sample, though it is there for them}`."""
    kept = {(entry.stage, entry.kind): entry.kept for entry in made}
    absent = {}
    for name in arms:
        arm = ARMS[name]
        if arm.reads in DRAWN:
            kinds = [kind for kind in arm.kinds if kept.get((RECORDS_OF[arm.reads], kind)) == 0]
            if kinds:
                absent[name] = kinds
    return absent


def describe_arms(made: list[Made], arms: list[str]) -> dict[str, str]:
    """`{arm: what it is}`, and what it got nothing of: an arm must not be named after what it has not seen."""
    absent = absent_kinds(made, arms)
    return {
        name: ARMS[name].description
        + (f" (no sample of {' and '.join(TITLES[k] for k in absent[name])} was kept)" if name in absent else "")
        for name in arms
    }


def _count_folder(folder: Path, stage: str) -> list[Made]:
    logs: dict[str, list[dict]] = {}
    for name in sorted(finished_shards(folder)):
        logs.setdefault(name.rsplit("-", 1)[0], []).append(read_log(folder, name))
    found = []
    for kind, shards in sorted(logs.items()):
        dropped = [sample for log in shards for sample in log["dropped"]]
        reasons = Counter(sample["reason"] for sample in dropped)
        examples = {
            reason: [s["caption"] for s in dropped if s["reason"] == reason][:NUM_EXAMPLES] for reason in reasons
        }
        made, kept = (sum(log[count] for log in shards) for count in ("num_samples", "num_kept"))
        found.append(Made(stage, kind, made, kept, dict(reasons.most_common()), examples))
    return found
