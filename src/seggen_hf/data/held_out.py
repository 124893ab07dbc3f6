"""A part of the labelled records that is set apart to score on, where a data set has no split for it."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase

HELD_OUT = "held-out"  # the name of that part, as a test split
LEAST_GROUPS = 5


def draw_held_out(image_ids: Sequence[str], share: float, seed: int = 0) -> list[int]:
    """Indices of about `share` of the records, at least one and not all, rising.

    Images whose names begin alike but for a last number (`patient7_slice12`, `0001TP_006690`) are of one patient or
    one video: all or none of them are drawn, if there are at least five such groups. What is drawn follows from the
    names and the seed alone: more images change nothing for those that are there.

    Raises: `ValueError` for fewer than two records.
    """
    if len(image_ids) < 2:
        raise ValueError(f"{len(image_ids)} labelled record cannot be divided; data.held_out needs two or more.")
    groups = _groups(image_ids)
    order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    wanted = min(max(1, round(share * len(image_ids))), len(image_ids) - 1)
    chosen: list[int] = []
    for name in order:
        if len(chosen) + len(groups[name]) <= wanted:
            chosen += groups[name]
    return sorted(chosen or min(groups.values(), key=len))  # of groups that are all larger, the smallest


def find_held_out(image_ids: Sequence[str], patterns: Sequence[str]) -> list[int]:
    """Indices of the records whose id fits one of the shell patterns, rising; capitals count."""
    return [i for i, name in enumerate(image_ids) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def tell_groups(image_ids: Sequence[str]) -> int:
    """How many patients or videos the names tell of; 0 where they tell of none."""
    groups = _groups(image_ids)
    return len(groups) if len(groups) < len(image_ids) else 0


def _groups(image_ids: Sequence[str]) -> dict[str, list[int]]:
    """Indices by group; each image is a group of its own where names tell of none."""
    groups = defaultdict(list)
    for index, name in enumerate(image_ids):
        found = re.fullmatch(r"(.*[^\d])\d+", name)
        groups[found[1] if found else name].append(index)
    if LEAST_GROUPS <= len(groups) < len(image_ids):
        return dict(groups)
    return {name: [index] for index, name in enumerate(image_ids)}
