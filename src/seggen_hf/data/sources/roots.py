"""Which files a data set may name: those below its own folder, and below folders that the user names.

A data set comes from anywhere, and says itself where its pictures lie: in `file_name` of COCO, in the path of a row
without bytes, by links. What it names is read, shown, written into copies and published; it must not be the user's
other files.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets.config
from datasets import Dataset, Image
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from ..schema import picture_files

SETTING = "data.media_roots (--media_roots)"


class Roots:
    """The folders that the files of a source may lie in, links followed.

    Args:
        source: a folder, or a Hub id, whose files lie in the caches that it was downloaded to.
        more: folders that the user names.
    Raises: `ValueError` for one of `more` that is no folder.
    """

    def __init__(self, source: str | Path, more: Sequence[str | Path] | None = None):
        for folder in more or ():
            if not os.path.isdir(os.path.expanduser(folder)):
                raise ValueError(f"{SETTING} names {folder}, which is no folder here.")
        own = _own_folders(source) if os.path.isdir(source) else _caches(str(source))
        folders = [*own, *(os.path.expanduser(folder) for folder in more or ())]
        self.source, self.folders = str(source), [os.path.realpath(folder) for folder in folders]
        self._known: dict[str, bool] = {}  # folder as it is named -> whether it lies inside

    def hold(self, path: str | os.PathLike) -> bool:
        """Whether a file lies in one of the folders. A folder of many files is resolved once."""
        path = os.fspath(path)
        if "://" in path or "\0" in path:
            return False
        folder, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir) or os.path.islink(path):
            return self._hold_real(os.path.realpath(path))
        if folder not in self._known:
            self._known[folder] = self._hold_real(os.path.realpath(folder))
        return self._known[folder]

    def _hold_real(self, path: str) -> bool:
        return any(os.path.commonpath([folder, path]) == folder for folder in self.folders)

    def check_file(self, path: str | os.PathLike) -> None:
        """Raise `ValueError` if a file of the data set itself, such as its labels, is a link that leads out of it."""
        if not self.hold(path):
            raise ValueError(f"{path} leads out of {self.source}, to {os.path.realpath(path)}. {self._remedy()}")

    def check_rows(self, rows: Dataset, where: str) -> None:
        """Raise `ValueError` with the first record whose picture has no bytes and is a file elsewhere.

        Args:
            rows: with any columns of pictures, and perhaps `image_id`. What is in them is not read.
        """
        pictures = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
        outside: dict[int, str] = {}
        for name in pictures:
            for index, (path, has_bytes) in enumerate(picture_files(rows, name)):
                if not has_bytes and path and not self.hold(path):
                    outside.setdefault(index, path)
        if outside:
            first = min(outside)
            has_ids = "image_id" in rows.column_names
            record = f"record {rows.select_columns('image_id')[first]['image_id']}" if has_ids else f"row {first}"
            raise ValueError(self._tell(where, record, outside[first], len(outside)))

    def check_pictures(self, pictures: Iterable, where: str, record: str) -> None:
        """The same of the undecoded pictures (`{"bytes", "path"}`) of one record, called `record`. Text is a path: a
        shard may have other columns than the first one."""
        for picture in pictures:
            path = picture["path"] if isinstance(picture, dict) and picture["bytes"] is None else picture
            if isinstance(path, str) and path and not self.hold(path):
                raise ValueError(self._tell(where, record, path, 1))

    def _tell(self, where: str, record: str, path: str, number: int) -> str:
        real = os.path.realpath(path) if "://" not in path and "\0" not in path else path
        led = f" (that is {real})" if real != path else ""
        count = f"; {number} records do" if number > 1 else ""
        return f"{where}: {record} names {path!r}{led}, a file outside the data set{count}. {self._remedy()}"

    def _remedy(self) -> str:
        return f"Nothing there is read. If it is meant, name its folder with {SETTING}."


def _own_folders(source: str | Path) -> list[str]:
    """The folder itself; a snapshot in the Hub's cache is made of links to the blobs beside it."""
    real = Path(os.path.realpath(source))
    places = [real, *real.parents]
    snapshots = [place for place in places if place.parent.name == "snapshots" and "--" in place.parent.parent.name]
    return [str(real), *(str(place.parent.parent / "blobs") for place in snapshots)]


def _caches(repo_id: str) -> list[str]:
    """Where a data set on the Hub is downloaded to, and where `datasets` unpacks its archives."""
    repo = repo_folder_name(repo_id=repo_id, repo_type="dataset")
    return [os.path.join(constants.HF_HUB_CACHE, repo), str(datasets.config.DOWNLOADED_DATASETS_PATH)]
