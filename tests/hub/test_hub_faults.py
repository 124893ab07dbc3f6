"""What goes wrong on the way to the stand-in for the Hub, and that the real clients survive it."""

import json
import time

import pytest
from hub_faults import KINDS, Faults
from hub_files import hashes, make_folder, stored
from hub_server import WRITER, HubServer

PATIENT = """
    import sys, time
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx
    def repeated(call):
        for attempt in range(40):
            try:
                return call()
            except (OSError, httpx.TransportError, ValueError) as error:
                print(type(error).__name__, error, file=sys.stderr)
        raise SystemExit("40 times in vain")
    api = HfApi()
    repeated(lambda: api.create_repo("seggen/toy", exist_ok=True))
    repeated(lambda: api.upload_folder(repo_id="seggen/toy", folder_path=sys.argv[1]))
    if len(sys.argv) > 2:
        repeated(lambda: snapshot_download("seggen/toy", local_dir=sys.argv[2]))
"""


def test_a_client_that_repeats_itself_survives_a_bad_connection(hub, run_client, tmp_path):
    folder = make_folder(tmp_path / "toy", 5)
    hub.faults = Faults(0.2, seed=3)
    run_client(PATIENT, folder, tmp_path / "back")
    assert hub.faults.count >= 5, "the connection was not bad"
    assert stored(hub, "models", "seggen/toy") == hashes(folder)
    assert {name: h for name, h in hashes(tmp_path / "back").items() if name in hashes(folder)} == hashes(folder)


def test_a_commit_whose_answer_is_lost_counts_once(hub, run_client, tmp_path):
    folder = make_folder(tmp_path / "toy", 2)
    hub.faults = Faults(1.0, ["lost_answer"], only=lambda method, path: "/commit/" in path, limit=1)
    run_client(PATIENT, folder)
    assert stored(hub, "models", "seggen/toy") == hashes(folder)
    commits = hub.seen("POST", "/commit/main$")
    assert [(request.status, request.fault) for request in commits] == [(200, "lost_answer")]
    assert len(hub.seen("POST", "/preupload/")) == 2, "the client did not come again"
    repo = hub.store.repo("models", "seggen/toy")
    assert len(repo.history(repo.resolve("main"))) == 2
    assert len(hub.seen("PUT", "^/lfs/", 200)) == 2


def test_an_upload_that_is_killed_goes_on_where_it_was(hub, start_client, run_client, tmp_path):
    folder = make_folder(tmp_path / "toy", 12)
    reached = []

    def kill_at_the_seventh_file(method, path, number):
        if method == "PUT" and len(hub.seen("PUT", "^/lfs/")) >= 7 and not reached:
            reached.append(number)
            client.kill()

    hub.on_request = kill_at_the_seventh_file
    client = start_client(PATIENT, folder)
    client.communicate(timeout=60)
    assert client.returncode == -9 and reached
    assert not stored(hub, "models", "seggen/toy"), "half an upload can be seen"
    hub.restart()
    sent = len(hub.seen("PUT", "^/lfs/", 200))
    assert 0 < sent < 12

    hub.on_request = None
    run_client(PATIENT, folder)
    assert stored(hub, "models", "seggen/toy") == hashes(folder)
    whole = [request.path for request in hub.seen("PUT", "^/lfs/", 200)]
    assert len(whole) == len(set(whole)) == 12, "a file that had arrived was sent again"


def test_faults_depend_on_the_seed_and_not_on_the_order():
    calls = [(method, f"/{name}") for method in ("GET", "PUT") for name in range(40)] * 5
    first, again, other = Faults(0.3, seed=1), Faults(0.3, seed=1), Faults(0.3, seed=2)
    chosen = sorted((call, first.choose(*call) or "") for call in calls)
    assert chosen == sorted((call, again.choose(*call) or "") for call in reversed(calls))
    assert chosen != sorted((call, other.choose(*call) or "") for call in calls)
    assert {kind for _, kind in chosen} == {*KINDS, ""}
    assert 0.2 < first.count / len(calls) < 0.4
    with pytest.raises(ValueError, match="rain"):
        Faults(0.1, ["rain"])


def test_every_kind_of_fault_looks_to_a_client_as_it_should(tmp_path):
    import http.client

    seen = {}
    with HubServer(tmp_path / "hub") as hub:
        for kind in KINDS:
            hub.on_request = lambda method, path, number, kind=kind: kind
            connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=5)
            body = json.dumps({"name": f"toy-{kind}", "type": "model"})
            try:
                connection.request("POST", "/api/repos/create", body, {"Authorization": f"Bearer {WRITER}"})
                answer = connection.getresponse()
                answer.read()
                seen[kind] = (answer.status, answer.headers.get("Retry-After"))
            except (http.client.HTTPException, OSError) as error:
                seen[kind] = type(error).__name__
            connection.close()
        assert [request.fault for request in hub.requests] == list(KINDS)
        assert [request.status for request in hub.requests] == [500, 503, 429, None, 200, 200]
        made = {repo.id for repo in hub.store.repos("models")}
    assert made == {"ada/toy-cut_body", "ada/toy-lost_answer"}
    assert seen["500"] == (500, None) and seen["503"] == (503, None) and seen["429"] == (429, "0")
    assert seen["cut_body"] == "IncompleteRead"
    assert {seen["cut"], seen["lost_answer"]} <= {"RemoteDisconnected", "ConnectionResetError"}


def test_a_mistake_in_a_hook_is_told(tmp_path):
    import urllib.error
    import urllib.request

    def mistaken(method, path, number):
        raise KeyError("mistaken")

    with HubServer(tmp_path / "hub", on_request=mistaken) as hub:
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(f"{hub.url}/api/whoami-v2", timeout=5)
        deadline = time.monotonic() + 5
        while not hub.errors and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "mistaken" in hub.errors[0]
