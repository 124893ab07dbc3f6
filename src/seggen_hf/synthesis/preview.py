"""Contact sheets of a synthesis: one of each kind after its first shard, and one of all at the end."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets import Dataset

from ..pictures.contact_sheet import write_preview
from ..pictures.spacing import spread

logger = logging.getLogger(__name__)

PREVIEWED = 6  # samples of each kind


def preview_early(folder: Path, kind: str, rows: Sequence[dict], codec, records: Dataset) -> None:
    """Write preview-KIND.png of the rows of a kind's first shard, so that people need not wait for the end to look."""
    path = _early_path(folder, kind)
    if not path.exists():
        places = shown_places([row["scores"]["num_labels"] for row in rows])
        _write(path, [rows[place] for place in places], codec, records)


def preview(folder: Path, kinds: Iterable[str], samples: Dataset, codec, records: Dataset) -> None:
    """Write preview.png of samples of all kinds; the early ones go."""
    is_of, scores = (samples.data.column(name).to_pylist() for name in ("kind", "scores"))
    picks = []
    for kind in kinds:
        rows = [row for row, its_kind in enumerate(is_of) if its_kind == kind]
        picks += [samples[rows[place]] for place in shown_places([scores[row]["num_labels"] for row in rows])]
    _write(folder / "preview.png", picks, codec, records)
    for kind in kinds:
        _early_path(folder, kind).unlink(missing_ok=True)


def shown_places(num_labels: Sequence[float], number: int = PREVIEWED) -> list[int]:
    """Up to `number` evenly spread places of samples with so many labels each. Of one label alone there is little to
    see (tiles of nothing but background): they are shown where there are no others."""
    several = [place for place, count in enumerate(num_labels) if count > 1] or range(len(num_labels))
    return [several[i] for i in spread(len(several), number)]


def _early_path(folder: Path, kind: str) -> Path:
    return folder / f"preview-{kind}.png"


def _write(path: Path, rows: Sequence[dict], codec, records: Dataset) -> None:
    try:
        write_preview(path, rows, codec, records)
    except Exception as error:  # whatever it is: the samples are made, and a picture for people ends no synthesis
        logger.warning("There is no %s: %s: %s", path, type(error).__name__, error)
