"""A stage that is made anew: which others follow it, and where what they were goes."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..storage.files import write_json
from .folder import SCORES, RunFolder
from .stage_marker import SettingsChanged, check_stage, read_begun
from .stages import Stage


def has_other_data(stage: Stage, data: dict[str, str] | None) -> bool:
    """Whether a stage that reads the real data itself was made of other data than `data` has the digests of."""
    if stage.inputs or data is None:
        return False
    found = read_begun(stage.folder)
    return found is not None and found["data"] != data[stage.source]


def list_redone(stages: list[Stage], redo: Sequence[str], data: dict[str, str] | None = None) -> list[Stage]:
    """The stages of the kinds `redo`, all that read them, and what came after them from other data or settings."""
    found: list[Stage] = []
    for stage in stages:
        is_redone = stage.kind in redo or any(stage_input in found for stage_input in stage.inputs)
        if not is_redone and any(earlier in found for earlier in stage.after):
            try:
                check_stage(stage.folder, stage.settings, stage.fingerprint)
                is_redone = has_other_data(stage, data)
            except SettingsChanged:
                is_redone = True
        if is_redone:
            found.append(stage)
    return found


def begin_redo(
    out: str | os.PathLike, redo: Sequence[str], again: list[Stage], stages: list[Stage], digest: str
) -> Path | None:
    """Move what is to be made anew to `replaced/N`; the new place, if there was anything.

    The folders of `again` move, with results and report, which were gathered from them, and trainings of arms that
    the recipe no longer names. log/redo.json remembers it all: a call that is interrupted goes on with it.
    """
    run = RunFolder(out)
    paths = [stage.folder for stage in again if stage.folder.is_dir()]
    if paths:
        named = {stage.folder for stage in stages}
        paths += [path for path in run.list_segmenters() if path not in named]
        paths += [path for path in (run.results, run.report_text, run.report) if path.is_file()]
    if "evaluate" in redo:
        paths += [path / SCORES for path in run.list_segmenters() if (path / SCORES).is_file()]
    place = run.replaced / str(len(list(run.replaced.glob("*"))) + 1)
    entry = {"redo": sorted(redo), "recipe_hash": digest, "place": str(place.relative_to(run.path))}
    entry |= {"is_moved": False, "paths": [str(path.relative_to(run.path)) for path in paths]}
    write_json(run.redo, entry)
    finish_moves(run)
    return place if paths else None


def finish_moves(out: str | os.PathLike) -> dict | None:
    """What log/redo.json says of a redo that has begun, or None; its moves are finished if they were interrupted."""
    run = RunFolder(out)
    if not run.redo.is_file():
        return None
    entry = json.loads(run.redo.read_text())
    if not entry["is_moved"]:
        for name in (*entry["paths"], entry["place"]):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{run.redo} names {name!r}, which is not in the run folder; remove that file.")
        for name in entry["paths"]:
            if (run.path / name).exists():
                target = run.path / entry["place"] / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(run.path / name, target)
        entry["is_moved"] = True
        write_json(run.redo, entry)
    return entry
