"""The only place that writes to the Hub: one commit a repository, retried, and compared file by file afterwards.

`huggingface_hub` retries its uploads of large files and its lists of files, and not what makes repositories, branches
and commits or asks about them: at a bad connection nearly every push raises somewhere. All calls here are repeated on
what passes by itself (connections, 408, 409, 412, 425, 429, 5xx); repeating is harmless, since large files that
arrived are not sent again and a commit without a change is none.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from ..process import retry
from ..storage.folders import SIGN

PASSING = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
ERRORS = (HfHubHTTPError, httpx.TransportError, ConnectionError, TimeoutError)
ATTEMPTS, FIRST_WAIT = 10, 1.0  # seconds; about three minutes in all
LINKS = {"model": "", "dataset": "datasets/", "space": "spaces/"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """What is pushed as one repository.

    Args:
        repo_id, repo_type: `OWNER/NAME`, and `model`, `dataset` or `space`.
        folder: every file in it but its sign becomes a file of the repository, and nothing else does.
        private (`bool`): visibility of a repository that is made; a public one that exists takes no private artifact.
        owned: patterns of remote files that go when `folder` lacks them, such as weights under other shard names.
        fixed: names of files that a repository which has them must have with the same content.
        merge_card: called with the text of the README.md in the repository, returns the one to write; for data sets
            whose card lists what earlier pushes left there.
        sdk (`str`): of a space.
        needs: ids of models that must be on the Hub before, since the artifact loads them from there.
        why_private: told with a private one; None where the user asked for it.
    """

    repo_id: str
    repo_type: str
    folder: Path
    private: bool = False
    owned: Sequence[str] = ()
    fixed: Sequence[str] = ()
    merge_card: Callable[[str], str] | None = None
    sdk: str | None = None
    needs: Sequence[str] = ()
    why_private: str | None = None


@dataclass(frozen=True)
class Pushed:
    """What a push left on the Hub, after every file was found there with the right hash.

    `sent` is the number of files that were new or changed, `commit` the head that was compared.
    """

    repo_id: str
    repo_type: str
    url: str
    commit: str
    files: int
    sent: int
    size: int
    seconds: float
    private: bool


class HubError(ValueError):
    """A push that cannot be done, in one line."""


def connect(namespace: str, first_wait: float = FIRST_WAIT) -> HfApi:
    """The client, after the Hub knows its token and lets it write under `namespace`.

    Raises: `HubError` without a token, for a wrong one, and for one that may not write there.
    """
    api = HfApi(library_name="seggen_hf")
    try:
        user = repeat(lambda: api.whoami(), "ask who the token belongs to", first_wait)
    except LocalTokenNotFoundError as error:
        raise HubError("There is no token for the Hub. Log in with `hf auth login`, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        if retry.status_of(error) == 401:
            raise HubError(
                "The Hub refuses the token as invalid. Log in anew with `hf auth login`, or mend HF_TOKEN."
            ) from error
        raise
    owners = [user["name"], *(organization["name"] for organization in user.get("orgs") or [])]
    if namespace not in owners:
        raise HubError(f"The token belongs to {user['name']}, who may write under {', '.join(owners)} alone.")
    role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise HubError("The token may read only; make one that writes in the Hub's settings, and log in with it.")
    return api


def push(
    api: HfApi, artifact: Artifact, revision: str | None = None, message: str | None = None, wait: float = FIRST_WAIT
) -> Pushed:
    """Make the repository hold what `artifact.folder` holds, in one commit; nothing is sent that is there already.

    Killed at any moment, a repository is as it was or as it should be, and the next call goes on.

    Args:
        revision (`str`): branch, made from the head of main if absent; main if not given.
        message (`str`): of the commit.
        wait (`float`): seconds before the first repetition of a call that failed; they double, up to 30.
    Raises: `HubError` if the repository is public and the artifact private, a file is refused, or one differs on the
        Hub afterwards.
    """
    start = time.monotonic()
    where: dict[str, Any] = {"repo_id": artifact.repo_id, "repo_type": artifact.repo_type}
    private = _prepare(api, artifact, revision, wait)
    target: dict[str, Any] = where | {"revision": revision or "main"}
    staged: dict[str, Path | bytes] = {
        p.relative_to(artifact.folder).as_posix(): p for p in _files_of(artifact.folder)
    }
    hashed = {name: _hashes(content) for name, content in staged.items()}  # once: weights of gigabytes take a while

    def attempt() -> tuple[dict[str, tuple[tuple[str, str], int]], int]:
        # Anew each time: after 412 somebody else's commit, or a lost answer's own, has changed what is there.
        there = _list_files(api, target)
        head = api.repo_info(**target).sha
        contents, wanted = dict(staged), dict(hashed)
        if artifact.merge_card and "README.md" in there:
            text = Path(api.hf_hub_download(filename="README.md", **where, revision=head)).read_text(encoding="utf-8")
            contents["README.md"] = artifact.merge_card(text).encode()
            wanted["README.md"] = _hashes(contents["README.md"])
        for name in artifact.fixed:
            if name in there and there[name] not in wanted[name][0]:
                raise HubError(
                    f"{artifact.repo_id} has another {name} than {artifact.folder}: what is there would no longer be "
                    "readable. Push under another --name."
                )
        changed = [name for name in sorted(wanted) if there.get(name) not in wanted[name][0]]
        gone = [n for n in sorted(there) if n not in wanted and any(fnmatch(n, p) for p in artifact.owned)]
        if changed or gone:
            additions = [CommitOperationAdd(name, _source(contents[name])) for name in changed]
            for addition in additions:  # one after the other from the disk: a shard at a time
                api.preupload_lfs_files(additions=[addition], **target)
            deletions = [CommitOperationDelete(name) for name in gone]
            title = message or f"Upload {artifact.repo_id.split('/')[1]} with seggen_hf"
            api.create_commit(operations=additions + deletions, commit_message=title, parent_commit=head, **target)
        return wanted, len(changed)

    wanted, sent = _repeat_or_tell(attempt, artifact, wait)
    there = repeat(lambda: _list_files(api, target), f"list {artifact.repo_id}", wait)
    differing = [name for name, (hashes, _) in wanted.items() if there.get(name) not in hashes]
    if differing:
        raise HubError(
            f"{artifact.repo_id} holds other content than was sent in {len(differing)} of {len(wanted)} files, first "
            f"{differing[0]}. Somebody else may have pushed at the same time; run the same command again."
        )
    commit = repeat(lambda: api.repo_info(**target).sha, f"read the head of {artifact.repo_id}", wait)
    return Pushed(
        artifact.repo_id,
        artifact.repo_type,
        f"{api.endpoint}/{LINKS[artifact.repo_type]}{artifact.repo_id}" + (f"/tree/{revision}" if revision else ""),
        commit,
        len(wanted),
        sent,
        sum(size for _, size in wanted.values()),
        time.monotonic() - start,
        private,
    )


def repeat(call: Callable, what: str, first_wait: float = FIRST_WAIT):
    """The result of `call`, repeated on what passes by itself; the last failure is raised as it is."""

    def tell(error: Exception, wait: float, left: int) -> None:
        logger.warning("Could not %s (%s); %d more attempts.", what, _reason(error), left)

    waits = [min(first_wait * 2**number, retry.LONGEST_WAIT) for number in range(ATTEMPTS - 1)]
    return retry.repeat(call, waits, ERRORS, _passes, tell)


def _prepare(api: HfApi, artifact: Artifact, revision: str | None, wait: float) -> bool:
    """Make repository and branch where they are missing; whether the repository is private."""
    where: dict[str, Any] = {"repo_id": artifact.repo_id, "repo_type": artifact.repo_type}
    for model in artifact.needs:
        if not repeat(lambda model=model: api.repo_exists(model), f"look for {model}", wait):
            raise HubError(f"{artifact.repo_id} loads {model}, which is not on the Hub; push that first.")
    try:
        info = repeat(lambda: api.repo_info(**where), f"look for {artifact.repo_id}", wait)
    except RepositoryNotFoundError:
        _repeat_or_tell(
            lambda: api.create_repo(**where, private=artifact.private, exist_ok=True, space_sdk=artifact.sdk),
            artifact,
            wait,
        )
        info = repeat(lambda: api.repo_info(**where), f"look for {artifact.repo_id}", wait)
    if artifact.private and not info.private:
        why = f" ({artifact.why_private})" if artifact.why_private else ""
        raise HubError(
            f"{artifact.repo_id} is public, and this push is private{why}. Make it private in its settings on the "
            "Hub, push under another name, or publish with --public."
        )
    if revision:
        try:
            repeat(lambda: api.repo_info(**where, revision=revision), f"look for {revision}", wait)
        except RevisionNotFoundError:
            repeat(lambda: api.create_branch(**where, branch=revision, exist_ok=True), f"make {revision}", wait)
    return bool(info.private)


def _repeat_or_tell(call: Callable, artifact: Artifact, wait: float):
    """`repeat`, with a refusal that no repetition mends told in one line."""
    try:
        return repeat(call, f"push {artifact.repo_id}", wait)
    except HfHubHTTPError as error:
        if _passes(error) or isinstance(error, EntryNotFoundError):
            raise
        raise HubError(f"The Hub refuses {artifact.repo_id}: {_reason(error)}") from error


def _list_files(api: HfApi, target: dict) -> dict[str, str]:
    """{path: sha256 of a large file, git's sha1 of another}."""
    try:
        entries = [e for e in api.list_repo_tree(**target, recursive=True) if isinstance(e, RepoFile)]
    except EntryNotFoundError:  # a repository without a commit
        return {}
    return {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in entries}


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.is_file() and path != Path(folder) / SIGN)


def _source(content: Path | bytes) -> str | bytes:
    return str(content) if isinstance(content, Path) else content


def _hashes(content: Path | bytes) -> tuple[tuple[str, str], int]:
    """(sha256, git's sha1 of a blob) and size: the server decides which of them it keeps."""
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    large, git = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
    if isinstance(content, Path):
        with open(content, "rb") as file:
            while chunk := file.read(1 << 22):
                large.update(chunk)
                git.update(chunk)
    else:
        large.update(content)
        git.update(content)
    return (large.hexdigest(), git.hexdigest()), size


def _passes(error: Exception) -> bool:
    return not isinstance(error, HfHubHTTPError) or retry.status_of(error) in PASSING


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "server_message", None) or error).split())
    return text[:300] or type(error).__name__
