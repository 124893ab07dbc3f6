"""Addresses about accounts, about repositories as a whole, and about cards."""

import re

from hub_rules import check_card, default_attributes
from hub_store import KINDS, Conflict
from hub_wire import API, Answer, Refusal, check_namespace, readable, route, writable


@route("GET", "/api/whoami-v2")
def whoami(hub, request):
    if request.user is None:
        raise Refusal(401, "Invalid username or password.")
    user = request.user
    orgs = [{"type": "org", "name": name, "fullname": name, "roleInOrg": user.role} for name in user.orgs]
    token = {"displayName": "test", "role": user.role, "createdAt": "2025-01-01T00:00:00.000Z"}
    auth = {"type": "access_token", "accessToken": token}
    return Answer.of({"type": "user", "id": user.name, "name": user.name, "orgs": orgs, "auth": auth})


@route("POST", "/api/repos/create")
def create_repo(hub, request):
    body = request.json()
    owner = body.get("organization") or (request.user.name if request.user else "")
    repo_id, kind = f"{owner}/{body['name']}", body.get("type", "model") + "s"
    check_namespace(request, repo_id)
    if kind not in KINDS or not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repo_id):
        raise Refusal(400, f"Invalid repository {repo_id} of type {kind}")
    private = body.get("visibility", "private" if body.get("private") else "public") == "private"
    url = f"{hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
    try:
        attributes = default_attributes(kind)
        hub.store.create(kind, repo_id, private, request.user.name, attributes, sdk=body.get("sdk"))
    except Conflict:
        return Answer.of({"error": f"You already created this {kind[:-1]} repo", "url": url}, 409)
    return Answer.of({"url": url, "name": repo_id, "id": repo_id})


@route("DELETE", "/api/repos/delete")
def delete_repo(hub, request):
    body = request.json()
    owner = body.get("organization") or (request.user.name if request.user else "")
    hub.store.delete(writable(hub, request, body.get("type", "model") + "s", f"{owner}/{body['name']}"))
    return Answer(b"OK")


@route("POST", "/api/repos/move")
def move_repo(hub, request):
    body = request.json()
    repo = writable(hub, request, body.get("type", "model") + "s", body["fromRepo"])
    check_namespace(request, body["toRepo"])
    try:
        hub.store.move(repo, body["toRepo"])
    except Conflict:
        raise Refusal(409, f"{body['toRepo']} exists already") from None
    return Answer(b"OK")


@route("PUT", API + "/settings")
def change_settings(hub, request, kind, repo_id):
    repo, body = writable(hub, request, kind, repo_id), request.json()
    changes = {"private": body["visibility"] == "private"} if "visibility" in body else {}
    changes |= {name: body[name] for name in ("private", "gated") if name in body}
    repo.change(**changes)
    return Answer.of(changes)


@route("GET", API + "/auth-check(?P<write>/write)?")
def check_access(hub, request, kind, repo_id, write):
    (writable if write else readable)(hub, request, kind, repo_id)
    return Answer.of({})


@route("POST", "/api/validate-yaml")
def validate_yaml(hub, request):
    body = request.json()
    errors, warnings = check_card(body["content"], body.get("repoType", "model"))
    value = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Answer.of(value, 400 if errors else 200)
