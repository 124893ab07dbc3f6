"""What clients and the stand-in for the Hub hold, as tests compare it."""

import hashlib
import json
import random


def printed(result) -> dict:
    """What a client printed last, which is JSON."""
    return json.loads(result.stdout.splitlines()[-1])


def make_folder(folder, num_binaries: int, size: int = 50_000):
    """Text, nested text, an empty file, binaries that become large files; all different."""
    (folder / "nested" / "deep").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [toy]\n---\n# Toy\n")
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "nested" / "deep" / "ünï code.txt").write_text("täxt", encoding="utf-8")
    (folder / "empty.txt").touch()
    for i in range(num_binaries):
        (folder / "nested" / f"weights-{i}.safetensors").write_bytes(random.Random(i).randbytes(size + i))
    return folder


def hashes(folder) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stored(hub, kind: str, repo_id: str, revision: str = "main") -> dict[str, str]:
    """{path: sha256} of what the storage holds, hashed anew, without .gitattributes."""
    repo = hub.store.repo(kind, repo_id)
    paths = [path for path in repo.files(revision) if path != ".gitattributes"]
    return {path: hashlib.sha256(repo.read(path, revision)).hexdigest() for path in paths}
