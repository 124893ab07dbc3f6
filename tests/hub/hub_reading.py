"""Addresses that read a repository: what it is, what is in it, its content and its history."""

import hashlib
import json
import re
from urllib.parse import parse_qs, quote, urlencode

from hub_rules import card_data, describe
from hub_store import Repo, lfs_pointer
from hub_wire import API, PAGE, REVISION, Answer, Refusal, Request, check_signature, commit_of, readable, route

EXPANDED_PAGE = 50


@route("GET", API + "(?:/revision" + REVISION + ")?")
def repo_info(hub, request, kind, repo_id, revision):
    repo = readable(hub, request, kind, repo_id)
    commit, meta = commit_of(repo, revision or "main"), repo.meta
    files = commit["files"]
    card = repo.store.object_path(files["README.md"]["sha256"]).read_text("utf-8") if "README.md" in files else ""
    data, blobs = card_data(card), "blobs" in request.query
    info = {"id": repo_id, "author": repo_id.split("/")[0], "sha": commit["id"], "private": meta["private"]}
    info |= {"createdAt": meta["created"], "lastModified": commit["date"], "gated": meta["gated"], "disabled": False}
    info |= {"downloads": 0, "likes": 0, "cardData": data or None}
    info |= {"usedStorage": sum(entry["size"] for entry in files.values())}
    info |= describe(kind, data, set(files)) | ({"sdk": meta.get("sdk")} if kind == "spaces" else {})
    info["siblings"] = [{"rfilename": path} | (_blob(entry) if blobs else {}) for path, entry in files.items()]
    names = request.query.get("expand", request.query.get("expand[]"))
    if names:
        info = {name: value for name, value in info.items() if name in ("id", *names)}
    return Answer.of(info)


def _blob(entry: dict) -> dict:
    blob = {"size": entry["size"], "blobId": entry["oid"]}
    return blob | {"lfs": _lfs(entry) | {"sha256": entry["sha256"]}} if entry["lfs"] else blob


def _lfs(entry: dict) -> dict:
    return {"size": entry["size"], "pointerSize": len(lfs_pointer(entry["sha256"], entry["size"]))}


def _entries(repo: Repo, files: dict, expand: bool) -> dict[str, dict]:
    """{path: entry of a listing} for all files and folders."""
    entries, children = {}, {}
    for path, entry in files.items():
        found = {"type": "file", "oid": entry["oid"], "size": entry["size"], "path": path}
        if entry["lfs"]:
            found["lfs"] = _lfs(entry) | {"oid": entry["sha256"]}
        entries[path] = found
        parts = path.split("/")
        for depth in range(1, len(parts)):
            children.setdefault("/".join(parts[:depth]), []).append(path)
    for path, inside in children.items():
        oid = hashlib.sha1(json.dumps([(p, files[p]["oid"]) for p in inside]).encode()).hexdigest()
        entries[path] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    if expand:
        for path, entry in entries.items():
            commits = [repo.commit(files[p]["commit"]) for p in children.get(path, [path])]
            last = max(commits, key=lambda commit: commit["number"])
            entry["lastCommit"] = {name: last[name] for name in ("id", "title", "date")}
    return dict(sorted(entries.items()))


def _flag(values: dict, name: str) -> bool:
    return values.get(name, ["false"])[0].lower() in ("true", "1")


def _page(hub, request: Request, values: list, size: int) -> Answer:
    start = int(request.query.get("cursor", ["0"])[0])
    following = {}
    if start + size < len(values):
        query = urlencode({**request.query, "cursor": start + size}, doseq=True)
        following = {"Link": f'<{hub.url}{request.target.split("?")[0]}?{query}>; rel="next"'}
    return Answer.of(values[start : start + size], headers=following)


@route("GET", API + "/tree" + REVISION + r"(?:/(?P<path>[^/]+))?")
def list_tree(hub, request, kind, repo_id, revision, path):
    repo = readable(hub, request, kind, repo_id)
    expand, recursive = _flag(request.query, "expand"), _flag(request.query, "recursive")
    entries = _entries(repo, commit_of(repo, revision)["files"], expand)
    path = path.strip("/")
    if path and entries.get(path, {}).get("type") != "directory":
        raise Refusal(404, f'"{path}" does not exist on "{revision}"', "EntryNotFound")
    start = f"{path}/" if path else ""
    inside = [e for p, e in entries.items() if p.startswith(start) and (recursive or "/" not in p.removeprefix(start))]
    return _page(hub, request, inside, min(hub.page_size, EXPANDED_PAGE) if expand else hub.page_size)


@route("POST", API + "/paths-info" + REVISION)
def paths_info(hub, request, kind, repo_id, revision):
    repo, body = readable(hub, request, kind, repo_id), parse_qs(request.text())
    entries = _entries(repo, commit_of(repo, revision)["files"], _flag(body, "expand"))
    paths = [path.strip("/") for path in body.get("paths", [])]
    return Answer.of([entries[path] for path in paths if path in entries])


@route("GET HEAD", PAGE + "/(?:resolve|raw)" + REVISION + "/(?P<path>.+)")
def download(hub, request, kind, repo_id, revision, path):
    repo = readable(hub, request, kind, repo_id)
    commit = commit_of(repo, revision)
    known = {"X-Repo-Commit": commit["id"]}
    entry = commit["files"].get(path)
    if entry is None:
        # With the commit: the cache then remembers that the file is not there.
        raise Refusal(404, "Entry not found", "EntryNotFound", known)
    etag = f'"{entry["sha256"] if entry["lfs"] else entry["oid"]}"'
    headers = known | {"ETag": etag, "Content-Disposition": f'inline; filename="{quote(path.rsplit("/", 1)[-1])}";'}
    if entry["lfs"]:
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry["size"])}
        if hub.cdn:
            address = hub.sign(f"/cdn/{entry['sha256']}?expires=never").replace("127.0.0.1", "localhost")
            return Answer(b"Found", 302, headers | {"Location": address, "ETag": f'"{commit["id"]}"'})
    return _send_file(hub, request, entry["sha256"], headers)


@route("GET HEAD", "/cdn/(?P<oid>[0-9a-f]{64})")
def download_from_cdn(hub, request, oid):
    check_signature(hub, request)
    return _send_file(hub, request, oid, {"ETag": f'"{oid}"'})


def _send_file(hub, request: Request, sha256: str, headers: dict[str, str]) -> Answer:
    path = hub.store.object_path(sha256)
    start, stop, status = 0, (size := path.stat().st_size), 200
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if wanted and any(wanted.groups()):
        first, last = wanted.groups()
        start, stop = (int(first), min(int(last) + 1, size) if last else size) if first else (size - int(last), size)
        start, status = max(start, 0), 206
        if start >= size:
            raise Refusal(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
        headers = headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"} | headers
    return Answer(b"", status, headers, path, start, stop)


@route("GET", API + "/refs")
def list_refs(hub, request, kind, repo_id):
    meta = readable(hub, request, kind, repo_id).meta

    def named(start, names):
        return [{"name": n, "ref": f"{start}{n}", "targetCommit": oid} for n, oid in names.items()]

    refs = {"branches": named("refs/heads/", meta["branches"]), "tags": named("refs/tags/", meta["tags"])}
    refs["converts"] = []
    if "include_prs" in request.query:
        refs["pullRequests"] = named("refs/pr/", meta["prs"])
    return Answer.of(refs)


@route("GET", API + "/commits" + REVISION)
def list_commits(hub, request, kind, repo_id, revision):
    repo = readable(hub, request, kind, repo_id)
    commits = [
        {name: c[name] for name in ("id", "title", "message", "date")} | {"authors": [{"user": c["user"]}]}
        for c in repo.history(commit_of(repo, revision)["id"])
    ]
    return _page(hub, request, commits, hub.page_size)
