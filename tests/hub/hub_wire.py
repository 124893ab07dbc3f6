"""Requests, answers, the register of addresses, and who may do what: the words that routes are written in."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import Repo

# Revisions and the paths of listings come as one percent-encoded segment: addresses are taken apart, then decoded.
API = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
PAGE = r"/(?P<prefix>datasets/|spaces/)?(?P<repo_id>[^/]+/[^/]+?)"
REVISION = r"/(?P<revision>[^/]+)"


@dataclass(frozen=True)
class User:
    name: str
    role: str
    orgs: tuple[str, ...] = ()

    def owns(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in (self.name, *self.orgs)


@dataclass
class Request:
    """One line of the log, and what a route gets.

    `status` is what was answered, or meant to be where the answer was lost, and None where the request was not carried
    out. `fault` is of `hub_faults.KINDS`. The names of `headers` are in lower case.
    """

    number: int
    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    status: int | None = None
    fault: str | None = None
    user: User | None = None
    body: BinaryIO | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        """Decoded, without the query."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    def text(self) -> str:
        return self.body.read().decode("utf-8")

    def json(self) -> dict:
        return json.loads(self.text() or "{}")


@dataclass
class Answer:
    """`file` from `start` to `stop` is sent instead of `body` where it is given."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None
    start: int = 0
    stop: int = 0

    @classmethod
    def of(cls, value, status: int = 200, headers: dict[str, str] | None = None) -> "Answer":
        kind = {"Content-Type": "application/json; charset=utf-8"}
        return cls(json.dumps(value).encode(), status, kind | (headers or {}))

    @property
    def length(self) -> int:
        return self.stop - self.start if self.file else len(self.body)


class Refusal(Exception):
    """An answer that is an error; the client tells kinds of 404 apart by `code`."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        line = " ".join(message.split()).encode("ascii", "replace").decode()
        more = {"X-Error-Message": line} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer.of({"error": message}, status, more | (headers or {}))


_routes: list[tuple[str, re.Pattern, Callable]] = []


def route(methods: str, pattern: str):
    """Register a function called with the server, the request, and the named parts of the address."""

    def register(function):
        _routes.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return register


def find_route(method: str, path: str) -> tuple[Callable, dict[str, str]]:
    for known, pattern, function in _routes:
        if known == method and (found := pattern.fullmatch(path)):
            values = {name: unquote(value or "") for name, value in found.groupdict().items()}
            if "prefix" in values:
                values["kind"] = values.pop("prefix").rstrip("/") or "models"
            return function, values
    # An id without an owner is a repository that this Hub does not have.
    lone = re.match(r"/api/(models|datasets|spaces)/[^/]+(/revision/[^/]+)?$|/[^/]+/resolve/", path)
    raise Refusal(404, "Repository not found" if lone else "Not found", "RepoNotFound" if lone else None)


def readable(hub, request: Request, kind: str, repo_id: str) -> Repo:
    repo = hub.store.repo(kind, repo_id)
    if repo is None or (repo.meta["private"] and not (request.user and request.user.owns(repo_id))):
        # The same for both, so that nobody learns the names of private repositories.
        raise Refusal(404 if request.user else 401, "Repository not found", "RepoNotFound")
    return repo


def writable(hub, request: Request, kind: str, repo_id: str) -> Repo:
    repo = readable(hub, request, kind, repo_id)
    if request.user is None:
        raise Refusal(401, "Repository not found", "RepoNotFound")
    check_namespace(request, repo_id)
    return repo


def check_namespace(request: Request, repo_id: str) -> None:
    if request.user is None:
        raise Refusal(401, "Invalid username or password.")
    if request.user.role != "write":
        raise Refusal(403, "Your token may only read; a token with the write role is needed")
    if not request.user.owns(repo_id):
        raise Refusal(403, f'You don\'t have the rights to write under the namespace "{repo_id.split("/")[0]}"')


def commit_of(repo: Repo, revision: str) -> dict:
    oid = repo.resolve(revision)
    if oid is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return repo.commit(oid)


def check_signature(hub, request: Request) -> None:
    if "authorization" in request.headers:  # as object stores do
        raise Refusal(400, "Only one auth mechanism allowed: a signature or an Authorization header")
    if not hub.is_signed(request.target):
        raise Refusal(403, "The signature does not match")
