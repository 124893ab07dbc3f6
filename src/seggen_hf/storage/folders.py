"""Whether a folder may be filled: a new or empty one, or one that the same kind of command began.

What a command fills holds a sign of its kind, written before anything else: a folder whose command was interrupted, at
any moment, is empty or bears it. Folders of versions that left no sign are known by what these wrote first.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import lock_descriptor

from .files import sync_file

SIGN = ".seggen.json"
STAGE_MARKERS = ("stage.json", "stage.started.json")  # the second is the first file of a stage in a run
# What operating systems and file browsers put into folders by themselves, and what keeps an empty one in git.
NOTHING = {SIGN + ".tmp", ".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", ".gitkeep", ".gitignore"}
LISTED = 3


@dataclass(frozen=True)
class Kind:
    """What a folder is filled with.

    Args:
        name: as it follows "the folder of".
        option: of the command, to name another folder with.
        is_known: whether the folder was begun by a version that left no sign.
    """

    name: str
    option: str
    is_known: Callable[[Path], bool]


def _read(path: Path) -> dict:
    """A JSON file's object; an empty one if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_stage(folder: Path, names: str) -> bool:
    """Whether `folder` is that of a run's stage with such a name."""
    stages = [_read(folder / marker).get("stage") for marker in STAGE_MARKERS]
    return any(isinstance(stage, str) and re.fullmatch(names, stage) for stage in stages)


def _is_run(folder: Path) -> bool:
    # Names of its own, though a run's are told in runs/folder.py: that stands far above, and these are never changed.
    if (folder / "log" / ".lock").is_file():
        return True
    if not (folder / "recipe.yaml").is_file():
        return False
    # A copy without hidden files, or of a part. The recipe alone may be the user's own.
    places = [f"{place}/{marker}" for place in ("*", "segmenter-*/seed-*") for marker in STAGE_MARKERS]
    return any(next(folder.glob(place), None) for place in ("log/run.log", *places))


def _is_captions(folder: Path) -> bool:
    names = set(_names(folder))
    own = re.compile(r"progress\.jsonl|\.saving|\.cache|(dataset_info|labels|id2label)\.json|data-.*\.arrow")
    return bool(names & {"progress.jsonl", ".saving"}) and all(own.fullmatch(name) for name in names)


def _is_synthesis(folder: Path) -> bool:
    if _is_stage(folder, "synthetic|repainted"):
        return True
    manifest = _read(folder / "manifest.json")
    return {"shards", "fingerprint"} <= set(manifest) and "class_losses" not in manifest


def _is_filtered(folder: Path) -> bool:
    return _is_stage(folder, "filtered") or {"shards", "class_losses"} <= set(_read(folder / "manifest.json"))


def _is_decisions(folder: Path) -> bool:
    shards = _names(folder / "data")
    own = all(re.fullmatch(r"train-masksyn-\d{20}\.parquet(\.tmp)?", shard) for shard in shards)
    return own and set(_names(folder)) - {"data"} == {"labels.json", "id2label.json"}


def _is_training(folder: Path) -> bool:
    if _is_stage(folder, r"adapted|text2mask|mask2img|segmenter-.*"):
        return True
    # Captions of a model are made before the cache of latents, and that before run_config.json.
    begun = bool(_read(folder / "cache" / "facts.json")) or _names(folder) == ["captions.jsonl"]
    return begun or "max_train_steps" in _read(folder / "run_config.json")


def _is_base(folder: Path) -> bool:
    return any(_is_training(folder / name) for name in ("decoder", "prior")) or _names(folder) == ["cache"]


RUN = Kind("a run", "--out", _is_run)
CAPTIONS = Kind("records with captions", "OUT", _is_captions)
SYNTHESIS = Kind("a synthesis", "--output_dir (OUT of `seggen synthesize`)", _is_synthesis)
FILTERED = Kind("filtered records", "--out", _is_filtered)
DECISIONS = Kind("what is kept and rejected in the demo", "--out", _is_decisions)
PREDICTIONS = Kind("predictions", "OUT", lambda folder: False)
EXPORT = Kind("an export", "OUT", lambda folder: False)
TRAINING = Kind("a training", "--output_dir", _is_training)
REPOSITORY = Kind("a repository to push", "--name of `seggen push`", lambda folder: False)
BASE = Kind("a miniature base", "--output_dir", _is_base)


def check_folder(folder: str | os.PathLike, kind: Kind) -> bool:
    """Whether `folder` was begun as one of `kind`; False where it is absent or empty. Nothing is written.

    Raises: `ValueError` with what was found if it is a file, another kind's, or holds things that are not this
        project's; or cannot be read.
    """
    folder = Path(folder)
    remedy = f"give a new or empty folder as {kind.option}."
    if folder.is_symlink() and not folder.exists():
        raise ValueError(f"{folder} is a link to nothing; {remedy}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; {remedy}")
    try:
        names = [name for name in _names(folder) if name not in NOTHING]
    except OSError as error:
        raise ValueError(f"The output folder {folder} cannot be read: {error.strerror}; {remedy}") from error
    if not names:
        return False
    # Asked after the listing: another process of the same launch may have begun meanwhile, with the sign.
    if (folder / SIGN).is_file():
        theirs = _read(folder / SIGN).get("kind")
        if theirs == kind.name:
            return True
        raise ValueError(f"{folder} is the folder of {theirs or 'something else'}, not of {kind.name}; {remedy}")
    if kind.is_known(folder):
        return True
    found = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    raise ValueError(
        f"{folder} holds {found}, and was not begun as the folder of {kind.name}; nothing in it is touched: {remedy}"
    )


def claim_folder(folder: str | os.PathLike, kind: Kind, is_main: bool = True) -> None:
    """Make `folder` if it is absent, with the sign of `kind` in it if it was not begun.

    Args:
        is_main: of several processes that fill it together, one writes; the others only look.
    Raises: `ValueError` as `check_folder` does, and where the folder cannot be made or written to.
    """
    folder = Path(folder)
    if check_folder(folder, kind):
        _check_writable(folder, kind)
        return
    if not is_main:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder {folder} cannot be made: {error.strerror}. Name another with {kind.option}."
        ) from error
    _check_writable(folder, kind)
    _write_sign(folder, kind)


@contextlib.contextmanager
def hold_folder(folder: str | os.PathLike, kind: Kind) -> Iterator[None]:
    """Keep other processes out of a claimed folder while the block runs; the system frees the lock of one that dies.

    Raises: `ValueError` if another process has it.
    """
    folder = Path(folder)
    if not (folder / SIGN).is_file():  # begun by a version that left none
        _write_sign(folder, kind)
    with open(folder / SIGN, "r+", encoding="utf-8") as sign:
        if not lock_descriptor(sign.fileno(), blocking=False):
            raise ValueError(
                f"{folder} is in use by another process. Wait for it, or name another with {kind.option}."
            )
        yield


def _write_sign(folder: Path, kind: Kind) -> None:
    """Never over another process's: who locks the one would not see the lock of the other."""
    temporary = folder / f"{SIGN}.tmp"
    temporary.write_text(json.dumps({"kind": kind.name}, indent=2) + "\n", encoding="utf-8")
    sync_file(temporary)
    try:
        os.link(temporary, folder / SIGN)
    except FileExistsError:
        pass
    except OSError:  # no links on this file system, or another process was here first
        if temporary.is_file():
            os.replace(temporary, folder / SIGN)
    temporary.unlink(missing_ok=True)


def _check_writable(folder: Path, kind: Kind) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"The output folder {folder} cannot be written to. Name another with {kind.option}.")


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []
