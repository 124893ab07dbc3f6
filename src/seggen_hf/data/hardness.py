"""Which synthetic records are hard for a segmenter of real ones, and are drawn more often."""

import numpy as np
from datasets import Dataset

from .sources.streamed import StreamedRecords


def hardness_weights(synthetic: Dataset | StreamedRecords, power: float) -> np.ndarray:
    """How often each record is drawn, float64 `(N,)` with the sum 1: in proportion to (rank / N) ** `power`.

    The record of which the filter kept most has rank 1, that of which it kept least has rank N; equal ones share their
    mean rank. With `power` 1 it is FreeMask's share of a map by its hardness (arXiv:2310.15160), which there decides
    how many images are drawn for it; here it decides how often they are seen.

    Args:
        synthetic: records with `scores.alignment`, which `filter_records` measures.
    Raises: `ValueError` for records that are streamed, or were not filtered.
    """
    if isinstance(synthetic, StreamedRecords):
        raise ValueError("segmenter.hard_records ranks all records; drop --streaming, which leaves it out.")
    scores = synthetic["scores"][:] if "scores" in synthetic.column_names else []
    kept = np.array([row.get("alignment", np.nan) if row else np.nan for row in scores], np.float64)
    if len(kept) == 0 or np.isnan(kept).any():
        raise ValueError(
            "segmenter.hard_records needs records whose agreement with a segmenter is known: those of `seggen filter` "
            "or of the arm `filtered`."
        )
    _, inverse, counts = np.unique(-kept, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    weights = (ranks / len(kept)) ** power
    return weights / weights.sum()
