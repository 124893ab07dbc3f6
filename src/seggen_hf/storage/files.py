"""Files and folders that are whole or absent: written under another name, brought to the disk, then renamed."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike, sync: bool = True) -> Iterator[Path]:
    """The name under which the block writes what is to become the file `path`; its folder is made.

    Args:
        sync (`bool`): wait until the disk has it. False for what is one of thousands and can be made again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    if sync:
        sync_file(temporary)
    os.replace(temporary, path)


def sync_file(path: Path) -> None:
    """Return when the disk has the file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | os.PathLike, data: bytes, sync: bool = True) -> None:
    """Write bytes; `sync` as in `replacing`."""
    with replacing(path, sync) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike, content, **options) -> None:
    """Write JSON, indented by 2; `options` are those of `json.dumps`."""
    write_text(path, json.dumps(content, indent=2, **options) + "\n")


def read_json(path: str | os.PathLike):
    """The value of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def save_image(image, path: str | os.PathLike, kind: str = "PNG", sync: bool = True, **options) -> Path:
    """Write a PIL image; `options` are those of `Image.save`, `sync` as in `replacing`."""
    with replacing(path, sync) as temporary:
        image.save(temporary, kind, **options)
    return Path(path)


def write_folder(folder: Path, save: Callable[[Path], None], last: str) -> None:
    """Have `save` write files and folders, and move them into `folder`, beside what else is there.

    Args:
        last (`str`): the file that comes last: a folder that has it is whole. An earlier one goes first of all.
    """
    staging = folder / ".saving"
    shutil.rmtree(staging, ignore_errors=True)
    save(staging)
    (folder / last).unlink(missing_ok=True)
    for part in sorted(staging.iterdir(), key=lambda part: part.name == last):
        if (folder / part.name).is_dir():
            shutil.rmtree(folder / part.name)
        os.replace(part, folder / part.name)
    staging.rmdir()


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """The name of a folder under which the block writes what is to become `folder`, which must not exist; nothing is
    left if it fails."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_folder(folder: Path, save: Callable[[Path], None]) -> None:
    """Have `save` write a folder that takes the place of `folder`."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
