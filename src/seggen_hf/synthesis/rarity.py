"""How often each real record is drawn from: more often where it shows labels that few records show."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.schema import read_map
from ..labels import LabelSet


def repeat_factors(records: Dataset, labels: LabelSet, power: float) -> np.ndarray:
    """Of each record (1 / f) ** `power`, f the share of the records that show its rarest label; float64 `(N,)`.

    With `power` 0.5 it is the repeat factor of LVIS (arXiv:1908.03195) up to its threshold. A record without a label
    counts as the most frequent one.
    """
    maps = records.select_columns("segmentation_map")
    shown = np.zeros((len(maps), labels.num_labels), bool)
    for row in tqdm(range(len(maps)), "Rare labels", unit="map", delay=2):
        ids = np.unique(read_map(maps[row]["segmentation_map"]))
        shown[row, ids[ids < labels.num_labels]] = True
    frequency = shown.mean(0)
    rarest = np.where(shown, frequency, 1.0).min(1)
    return rarest**-power


def share_out(total: int, weights: Sequence[float] | np.ndarray) -> list[int]:
    """Whole numbers in proportion to `weights` with the sum `total` (largest remainders, the first of equal ones)."""
    wanted = total * np.asarray(weights, np.float64) / np.sum(weights)
    counts = np.floor(wanted).astype(int)
    order = np.argsort(counts - wanted, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts.tolist()
