"""Addresses that change what is in a repository: references, commits, and the large files that commits point to."""

import base64
import json
import tempfile

from hub_rules import LFS_SIZE, check_card, is_ignored, is_lfs
from hub_store import Conflict, Repo
from hub_wire import API, PAGE, REVISION, Answer, Refusal, check_signature, commit_of, route, writable

LFS = r"/lfs/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})"


@route("POST DELETE", API + "/(?P<group>branch|tag)/(?P<name>[^/]+)")
def change_reference(hub, request, kind, repo_id, group, name):
    """A tag is made at the revision in the address, its name is in the body; elsewhere the address has the name."""
    repo, body = writable(hub, request, kind, repo_id), request.json()
    target = None
    if request.method == "POST":
        start = name if group == "tag" else body.get("startingPoint", "main")
        target = commit_of(repo, start)["id"]
        name = body["tag"] if group == "tag" else name
    elif (group, name) == ("branch", "main"):
        raise Refusal(403, "The branch main cannot be deleted")
    try:
        repo.set_reference({"branch": "branches", "tag": "tags"}[group], name, target)
    except Conflict:
        raise Refusal(409, f"Reference already exists: {name}") from None
    except KeyError:
        raise Refusal(404, f"Reference does not exist: {name}", "RevisionNotFound") from None
    return Answer.of({})


@route("POST", API + "/preupload" + REVISION)
def preupload(hub, request, kind, repo_id, revision):
    repo, body = writable(hub, request, kind, repo_id), request.json()
    files = commit_of(repo, revision)["files"]
    attributes = _text_of(repo, files, ".gitattributes")
    ignored = body.get("gitIgnore", _text_of(repo, files, ".gitignore"))
    if len(body["files"]) > 256:
        raise Refusal(400, "At most 256 files can be asked for at once")
    answers = []
    for file in body["files"]:
        path, entry = file["path"], files.get(file["path"])
        large = is_lfs(path, file["size"], base64.b64decode(file["sample"]), attributes)
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": is_ignored(path, ignored)}
        oid = entry and (entry["sha256"] if entry["lfs"] else entry["oid"])
        answers.append(answer | ({"oid": oid} if oid else {}))
    return Answer.of({"files": answers})


def _text_of(repo: Repo, files: dict, path: str) -> str:
    return repo.store.object_path(files[path]["sha256"]).read_text("utf-8") if path in files else ""


@route("POST", API + "/commit" + REVISION)
def commit(hub, request, kind, repo_id, revision):
    repo = writable(hub, request, kind, repo_id)
    lines = [json.loads(line) for line in request.text().split("\n") if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    asked, parent = "create_pr" in request.query, header.get("parentCommit")
    with repo.store.lock:
        head, meta = commit_of(repo, revision), repo.meta
        if revision not in (*meta["branches"], *(f"refs/pr/{number}" for number in meta["prs"])):
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if parent and asked:
            head = commit_of(repo, parent)
        elif parent and not head["id"].startswith(parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head["files"])
        for line in lines:
            _apply(repo, files, line["key"], line["value"])
        branch = repo.open_pull_request(head["id"]) if asked else revision
        oid = repo.add_commit(branch, files, header["summary"], header.get("description", ""), request.user.name)
    page = f"{hub.url}/{repo.prefix}{repo_id}"
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{page}/commit/{oid}", "hookOutput": ""}
    return Answer.of(answer | ({"pullRequestUrl": f"{page}/discussions/{branch.split('/')[-1]}"} if asked else {}))


def _apply(repo: Repo, files: dict, key: str, value: dict) -> None:
    """One line of a commit."""
    path = value.get("path", "").rstrip("/")
    if key == "header":
        return
    if not path or path.startswith("/") or {"", ".", "..", ".git"} & set(path.split("/")):
        raise Refusal(400, f"Invalid path {path!r}")
    if key == "file":
        text = value["content"]
        content = base64.b64decode(text) if value.get("encoding") == "base64" else text.encode()
        if len(content) >= LFS_SIZE:
            raise Refusal(400, f"{path} has 10 MiB or more and must be sent as a large file")
        errors = check_card(content.decode("utf-8"), repo.kind[:-1])[0] if path == "README.md" else []
        if errors:
            raise Refusal(400, f"Invalid metadata in README.md: {errors[0]}")
        files[path] = repo.store.add_content(content)
    elif key == "lfsFile":
        if not repo.has_object(value["oid"]):
            raise Refusal(400, f"LFS pointer of {path} points to an object that was not uploaded: {value['oid']}")
        files[path] = repo.lfs_entry(value["oid"])
    elif key == "deletedFile":
        if path not in files:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        del files[path]
    elif key == "deletedFolder":
        inside = [name for name in files if name.startswith(f"{path}/")]
        if not inside:
            raise Refusal(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
        for name in inside:
            del files[name]
    else:
        raise Refusal(400, f"Unknown operation {key!r}")


@route("POST", PAGE + r"\.git/info/lfs/objects/batch")
def lfs_batch(hub, request, kind, repo_id):
    repo, body = writable(hub, request, kind, repo_id), request.json()
    objects, transfer = [], "basic"
    for wanted in body["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        answer = {"oid": oid, "size": size}
        if not repo.has_object(oid):
            base = f"/lfs/{kind}/{repo_id}/{oid}?size={size}"
            upload = {"href": hub.sign(base)}
            if size > hub.part_size and "multipart" in body.get("transfers", []):
                transfer, count = "multipart", -(-size // hub.part_size)
                parts = {f"{n:05d}": hub.sign(f"{base}&part={n}") for n in range(1, count + 1)}
                upload["header"] = {"chunk_size": str(hub.part_size)} | parts
            verify = {"href": f"{hub.url}/{repo.prefix}{repo_id}.git/info/lfs/objects/verify"}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    return Answer.of({"transfer": transfer, "objects": objects})


@route("POST", PAGE + r"\.git/info/lfs/objects/verify")
def lfs_verify(hub, request, kind, repo_id):
    repo, body = writable(hub, request, kind, repo_id), request.json()
    path = hub.store.object_path(body["oid"])
    if not repo.has_object(body["oid"]) or path.stat().st_size != body["size"]:
        raise Refusal(404, f"There is no object {body['oid']} of {body['size']} bytes")
    return Answer.of({})


@route("PUT", LFS)
def lfs_put(hub, request, kind, repo_id, oid):
    check_signature(hub, request)
    if "part" in request.query:
        sha256, _ = hub.store.receive(request.body)
        return Answer(headers={"ETag": f'"{sha256}"'})
    _keep(hub, kind, repo_id, oid, request.body, int(request.query["size"][0]))
    return Answer(headers={"ETag": f'"{oid}"'})


@route("POST", LFS)
def lfs_complete(hub, request, kind, repo_id, oid):
    check_signature(hub, request)
    parts = sorted(request.json()["parts"], key=lambda part: part["partNumber"])
    with tempfile.TemporaryFile(dir=hub.store.root / "incoming") as whole:
        for part in parts:
            path = hub.store.object_path(part["etag"].strip('"'))
            if not path.is_file():
                raise Refusal(400, f"Part {part['partNumber']} was not uploaded")
            whole.write(path.read_bytes())
        whole.seek(0)
        _keep(hub, kind, repo_id, oid, whole, int(request.query["size"][0]))
    return Answer.of({"success": True})


def _keep(hub, kind: str, repo_id: str, oid: str, content, size: int) -> None:
    found, length = hub.store.receive(content)
    if (found, length) != (oid, size):
        raise Refusal(400, f"The content has sha256 {found} and {length} bytes, not {oid} and {size}")
    repo = hub.store.repo(kind, repo_id)
    if repo is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    repo.add_object(oid)
