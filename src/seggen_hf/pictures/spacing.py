"""Even spacing: which of many are looked at, chosen by their place and nothing else."""

import numpy as np


def spread(length: int, count: int) -> list[int]:
    """Up to `count` evenly spread indices of 0 .. `length` - 1, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int)).tolist()
