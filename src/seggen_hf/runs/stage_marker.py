"""Which stages of a run folder are done, with which settings, in how many seconds: stage.json, written last.

A stage writes `stage.started.json` before its first file and `stage.json` after its last one. Both hold the settings,
so that a call with others is refused before it can mix two runs in one folder.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from ..config import DEFAULTS
from ..provenance import library_versions
from ..storage.digests import json_digest
from ..storage.files import write_json
from ..storage.folders import STAGE_MARKERS

DONE, STARTED = STAGE_MARKERS


class SettingsChanged(ValueError):
    """A finished or begun stage was made with other settings."""


class InputsChanged(SettingsChanged):
    """Its own settings are the same, but those of what it read are not."""


def fingerprint(settings: dict, inputs: dict[str, str]) -> str:
    """16 hex digits that follow from a stage's settings and the fingerprints of what it reads.

    Settings at their defaults leave no trace: one that a later version adds changes no fingerprint.
    """
    missing = object()
    settings = {name: value for name, value in settings.items() if value != DEFAULTS.get(name, missing)}
    return json_digest([settings, inputs])


def read_marker(folder: Path, name: str = DONE) -> dict | None:
    """The marker in `folder`, or None."""
    path = Path(folder) / name
    return json.loads(path.read_text()) if path.is_file() else None


def finished_marker(folder: Path) -> dict:
    """The marker in `folder`. Raises: `ValueError` if its stage is not finished."""
    marker = read_marker(folder)
    if marker is None:
        raise ValueError(f"{folder} is not finished; run its stage first.")
    return marker


def read_begun(folder: Path) -> dict | None:
    """The marker of a stage that is done, or has begun and written a file."""
    folder = Path(folder)
    if done := read_marker(folder):
        return done
    begun = read_marker(folder, STARTED)
    return begun if any(path.is_file() and path.name != STARTED for path in folder.rglob("*")) else None


def list_changes(before: dict, now: dict) -> list[str]:
    """`name: old -> new` of every setting in `now` that differs; one that `before` lacks had its default."""
    missing = object()
    lines = []
    for name, new in sorted(now.items()):
        old = before.get(name, DEFAULTS.get(name, missing))
        if old != new:
            lines.append(f"{name}: {'absent' if old is missing else old} -> {new}")
    return lines


def check_stage(folder: Path, settings: dict, made_from: str) -> None:
    """Refuse a stage that is done, or begun, otherwise than it would be now. Nothing is written.

    Raises: `SettingsChanged`, listing the changes, if it has other settings, or was made of other inputs.
    """
    found = read_begun(folder)
    if found and (changes := list_changes(found["settings"], json.loads(json.dumps(settings)))):
        state = "was made" if read_marker(folder) else "was begun"
        raise SettingsChanged(f"{folder} {state} with other settings ({'; '.join(changes)}).")
    if found and found["fingerprint"] != made_from:
        raise InputsChanged(f"{folder} was made from inputs that have other settings now.")


@contextlib.contextmanager
def mark_stage(
    folder: Path, name: str, settings: dict, made_from: str, command: str | None = None, data: str | None = None
) -> Iterator[dict]:
    """Measure the block and mark `folder` as done after it; the yielded dict takes further facts for the marker.

    The marker also holds the versions of the libraries, the command, and the digest of the real data if it is given.
    An interrupted stage keeps the seconds that it had taken in `stage.started.json`, unless the process was killed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begun_before = read_marker(folder, STARTED)
    marker = {"stage": name, "fingerprint": made_from, "settings": settings}
    marker |= {"versions": library_versions(), "command": command, "data": data}
    spent = begun_before["seconds"] if begun_before else 0.0
    write_json(folder / STARTED, marker | {"seconds": spent})
    facts: dict = {}
    reset_peak_memory()
    begun = time.monotonic()
    try:
        yield facts
    except BaseException:
        write_json(folder / STARTED, marker | {"seconds": spent + time.monotonic() - begun})
        raise
    seconds = max(spent + time.monotonic() - begun, facts.pop("seconds", 0.0))
    cost = {"seconds": round(seconds, 2), "resumed": begun_before is not None} | peak_memory()
    write_json(folder / DONE, marker | cost | {"facts": facts})
    (folder / STARTED).unlink()


def reset_peak_memory() -> None:
    """Start a new high-water mark of this process (Linux; elsewhere it is that of the process so far)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, float]:
    """`peak_memory_gb`, resident, of this process; with a GPU also `peak_gpu_memory_gb`, allocated by torch."""
    found = {"peak_memory_gb": round(_peak_resident() / 1e9, 3)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["peak_gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
    return found


def _peak_resident() -> int:
    """Bytes. psutil knows the high-water mark on Windows alone, where Python has no `resource`."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
