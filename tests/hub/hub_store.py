"""Repositories in a folder: content by its hash, a JSON snapshot a commit, a JSON file of references a repository.

Nothing is kept in memory, so a server that is started again on the folder has all that the one before it answered for.
A commit is its snapshot first and the reference to it last, each renamed into place: one killed in between was none.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

KINDS = ("models", "datasets", "spaces")
CHUNK = 1 << 20


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(name, path)


@lru_cache(maxsize=512)
def read_snapshot(path: Path) -> dict:
    """Snapshots do not change; callers must not change what they get."""
    return json.loads(path.read_text(encoding="utf-8"))


class Conflict(Exception):
    """What is to be made is there already."""


class Store:
    """All repositories under `root`; `lock` guards every change but the arrival of content."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.lock = threading.RLock()
        for name in ("objects", "repos", "incoming"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        if not (self.root / "secret.json").exists():  # signs upload addresses, also those given before a restart
            write_json(self.root / "secret.json", secrets.token_hex())
        self.secret = json.loads((self.root / "secret.json").read_text()).encode()

    def repo(self, kind: str, repo_id: str) -> "Repo | None":
        folder = self.root / "repos" / kind / repo_id
        return Repo(self, kind, repo_id) if (folder / "repo.json").is_file() else None

    def repos(self, kind: str) -> list["Repo"]:
        found = sorted((self.root / "repos" / kind).glob("*/*/repo.json"))
        return [Repo(self, kind, f"{path.parts[-3]}/{path.parts[-2]}") for path in found]

    def create(self, kind: str, repo_id: str, private: bool, user: str, attributes: bytes, **more) -> "Repo":
        """A repository whose first commit holds `.gitattributes`, as on the Hub; raises `Conflict` if it exists."""
        with self.lock:
            if self.repo(kind, repo_id):
                raise Conflict(repo_id)
            repo = Repo(self, kind, repo_id)
            meta = {"private": private, "gated": False, "created": now(), "branches": {}, "tags": {}, "prs": {}}
            files = {".gitattributes": self.add_content(attributes)}
            repo.add_commit("main", files, "initial commit", user=user, meta=meta | more)
            return repo

    def delete(self, repo: "Repo") -> None:
        with self.lock:
            # Aside first: a folder that is half removed must not look like a repository.
            aside = self.root / "incoming" / secrets.token_hex(8)
            os.replace(repo.folder, aside)
            shutil.rmtree(aside)
            read_snapshot.cache_clear()

    def move(self, repo: "Repo", repo_id: str) -> "Repo":
        with self.lock:
            if self.repo(repo.kind, repo_id):
                raise Conflict(repo_id)
            target = Repo(self, repo.kind, repo_id)
            target.folder.parent.mkdir(parents=True, exist_ok=True)
            os.replace(repo.folder, target.folder)
            return target

    # Content

    def object_path(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256

    def receive(self, source: BinaryIO) -> tuple[str, int]:
        """sha256 and size of what `source` holds, which is kept."""
        digest, size = hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(dir=self.root / "incoming")
        with os.fdopen(handle, "wb") as file:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += file.write(chunk)
        path = self.object_path(digest.hexdigest())
        path.parent.mkdir(exist_ok=True)
        os.replace(name, path)
        return digest.hexdigest(), size

    def add_content(self, content: bytes) -> dict:
        """The entry of a regular file."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.object_path(sha256)
        if not path.exists():
            handle, name = tempfile.mkstemp(dir=self.root / "incoming")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            path.parent.mkdir(exist_ok=True)
            os.replace(name, path)
        return {"oid": git_sha1(content), "size": len(content), "sha256": sha256, "lfs": False}


class Repo:
    """One repository; `kind` is the plural that addresses have: models, datasets, spaces."""

    def __init__(self, store: Store, kind: str, repo_id: str):
        self.store, self.kind, self.id = store, kind, repo_id
        self.folder = store.root / "repos" / kind / repo_id

    @property
    def prefix(self) -> str:
        return "" if self.kind == "models" else f"{self.kind}/"

    @property
    def meta(self) -> dict:
        return json.loads((self.folder / "repo.json").read_text(encoding="utf-8"))

    def save(self, meta: dict) -> None:
        write_json(self.folder / "repo.json", meta)

    def change(self, **values) -> None:
        with self.store.lock:
            self.save(self.meta | values)

    # Large files belong to a repository: one that was sent to another has to be sent again.

    def has_object(self, sha256: str) -> bool:
        return (self.folder / "lfs" / sha256).exists()

    def add_object(self, sha256: str) -> None:
        (self.folder / "lfs").mkdir(exist_ok=True)
        (self.folder / "lfs" / sha256).touch()

    def lfs_entry(self, sha256: str) -> dict:
        size = self.store.object_path(sha256).stat().st_size
        return {"oid": git_sha1(lfs_pointer(sha256, size)), "size": size, "sha256": sha256, "lfs": True}

    # Commits and references

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag, `refs/...` or of a hash with at least seven digits."""
        meta = self.meta
        for names in (meta["branches"], meta["tags"], {f"refs/pr/{n}": oid for n, oid in meta["prs"].items()}):
            if revision in names:
                return names[revision]
        for start, names in (("refs/heads/", meta["branches"]), ("refs/tags/", meta["tags"])):
            if revision.startswith(start) and revision.removeprefix(start) in names:
                return names[revision.removeprefix(start)]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            found = list((self.folder / "commits").glob(f"{revision}*.json"))
            return found[0].stem if len(found) == 1 else None
        return None

    def commit(self, oid: str) -> dict:
        """id, number, parent, title, message, date, user and files: path -> oid, size, sha256, lfs, commit."""
        return read_snapshot(self.folder / "commits" / f"{oid}.json")

    def files(self, revision: str = "main") -> dict[str, dict]:
        return self.commit(self.resolve(revision))["files"]

    def read(self, path: str, revision: str = "main") -> bytes:
        return self.store.object_path(self.files(revision)[path]["sha256"]).read_bytes()

    def history(self, oid: str | None) -> list[dict]:
        """From the commit `oid` back to the first one."""
        commits = []
        while oid:
            commits.append(self.commit(oid))
            oid = commits[-1]["parent"]
        return commits

    def add_commit(
        self, branch: str, files: dict[str, dict], title: str, message="", user="", meta: dict | None = None
    ) -> str:
        """Make `files`, all of them, the content of `branch` (or of `refs/pr/N`), and return the commit.

        `meta` is given for a repository that is not there yet: it appears with its first commit.
        """
        with self.store.lock:
            meta = meta or self.meta
            names, name = meta["branches"], branch
            if branch.startswith("refs/pr/"):
                names, name = meta["prs"], branch.removeprefix("refs/pr/")
            parent = names.get(name)
            number = self.commit(parent)["number"] + 1 if parent else 0
            # Without the time: the same pushes with the same seed then meet the same addresses and the same faults.
            content = [(path, entry["oid"]) for path, entry in sorted(files.items())]
            facts = [self.kind, self.id, branch, number, parent, title, content]
            oid = hashlib.sha1(json.dumps(facts).encode()).hexdigest()
            files = {path: {"commit": oid} | files[path] for path in sorted(files)}
            commit = {"id": oid, "number": number, "parent": parent, "title": title, "message": message}
            write_json(self.folder / "commits" / f"{oid}.json", commit | {"date": now(), "user": user, "files": files})
            names[name] = oid
            self.save(meta)
            return oid

    def open_pull_request(self, base: str) -> str:
        """A new reference at the commit `base`."""
        with self.store.lock:
            prs = self.meta["prs"]
            number = str(len(prs) + 1)
            self.change(prs=prs | {number: base})
            return f"refs/pr/{number}"

    def set_reference(self, group: str, name: str, oid: str | None) -> None:
        """`group` is branches or tags, no `oid` removes. Raises `Conflict` if it is there, `KeyError` if not."""
        with self.store.lock:
            names = self.meta[group]
            if oid is None:
                del names[name]
            elif name in names:
                raise Conflict(name)
            else:
                names[name] = oid
            self.change(**{group: names})
