"""results.json read again: rows by arm, and their figures as text."""

import json
import os

from ..arms import list_folders, parse_segmenter_name
from ..config import Recipe
from ..tasks import task_of
from .folder import RunFolder


def read_results(run: str | os.PathLike) -> dict | None:
    """results.json of a run folder, or None."""
    path = RunFolder(run).results
    return json.loads(path.read_text()) if path.is_file() else None


def scores_by_arm(rows: list[dict], metric: str | None = None) -> dict[str, dict[str, dict[int, float]]]:
    """`{arm: {split: {seed: score}}}` of rows of results.json; scores that do not exist are left out.

    Args:
        metric: a key of the rows; by default the headline score of their task.
    """
    metric = metric or task_of(rows).metric
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        if row.get(metric) is not None:
            found.setdefault(row["arm"], {}).setdefault(row["split"], {})[row["seed"]] = row[metric]
    return found


def list_seeds(rows: list[dict]) -> dict[str, list[int]]:
    """`{arm: seeds that were scored}` of rows of results.json."""
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row["arm"], set()).add(row["seed"])
    return {arm: sorted(seeds) for arm, seeds in found.items()}


def list_unfinished(recipe: Recipe, run: RunFolder) -> list[str]:
    """Trainings of the segmenter that the recipe names and that are not finished."""
    return [name for name in list_folders(recipe) if parse_segmenter_name(name) and run.marker(name) is None]


def results_table(results: dict) -> str:
    """The headline score of each arm and test split as text: the mean over seeds, and their range where there are
    several."""
    scores = scores_by_arm(results["scores"])
    splits = list(dict.fromkeys(row["split"] for row in results["scores"]))
    lines = [[f"{task_of(results['scores']).metric_name}, %", *splits]]
    for arm, by_split in scores.items():
        cells = []
        for split in splits:
            values = list(by_split.get(split, {}).values())
            spread = f" (range {percent(max(values) - min(values))})" if len(values) > 1 else ""
            cells.append(f"{percent(sum(values) / len(values))}{spread}" if values else "–")
        lines.append([arm, *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def percent(value: float | None, signed: bool = False) -> str:
    """A share as a percentage with one decimal; a dash where there is none."""
    if value is None:
        return "–"
    rounded = round(100 * value, 1) + 0.0  # no minus zero
    return f"{rounded:+.1f}" if signed else f"{rounded:.1f}"
