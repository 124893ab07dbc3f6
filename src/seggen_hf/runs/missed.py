"""Labels that a headline score hides: the mean over many labels hardly tells that one of them is never found."""

from collections.abc import Sequence

from ..tasks import task_of
from .verdict import BASELINE

FOUND = 5e-4  # a score below is shown as 0.0
NAMED = 5  # labels that a sentence names


def list_missed(rows: Sequence[dict]) -> dict[str, dict[str, list[str]]]:
    """`{test split: {arm: labels}}` that no seed of the arm scores on; labels without a score are not missed.

    Args:
        rows: of results.json.
    """
    missed: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        here = [name for name, score in row["per_label"].items() if score is not None and score < FOUND]
        by_arm = missed.setdefault(row["split"], {})
        by_arm[row["arm"]] = [name for name in by_arm.get(row["arm"], here) if name in here]
    return missed


def missed_by_all(rows: Sequence[dict]) -> dict[str, list[str]]:
    """`{test split: labels}` that every arm misses, where there are any."""
    found = {}
    for split, by_arm in list_missed(rows).items():
        first, *others = by_arm.values()
        if names := [name for name in first if all(name in other for other in others)]:
            found[split] = names
    return found


def tell_missed(rows: Sequence[dict]) -> str:
    """Of each split the labels that all arms miss, and those that an arm misses and the one of real records does not;
    empty if there are none."""
    metric = task_of(rows).class_metric_name
    told = [
        f" {metric} on {split} is 0.0 in every arm for {name_some(names)}."
        for split, names in missed_by_all(rows).items()
    ]
    for split, by_arm in list_missed(rows).items():
        for arm, names in by_arm.items():
            if lost := [name for name in names if name not in by_arm.get(BASELINE, names)]:
                told.append(f" On {split} `{arm}` lost {name_some(lost)} altogether.")
    return "".join(told)


def name_some(names: Sequence[str]) -> str:
    """All of a few names, or some and the number of the others: `a, b and 7 more labels`."""
    shown = [*names] if len(names) <= NAMED else [*names[: NAMED - 1], f"{len(names) - NAMED + 1} more labels"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
