"""What the demo lets in and gives out over HTTP, asked without a browser."""

import json
import socket
import threading
import uuid

import httpx
import pytest
from forked_python import client_environment, run_python

from seggen_hf.data.schema import read_image
from seggen_hf.demo.page import MAX_CAPTION, MAX_STEPS
from seggen_hf.demo.server import MAX_BODY, QUEUED

PREFIXES = ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/gradio_api/proxy=")
DRAW, PAINT = 0, 3  # the order of the events in page.py


def join(demo, event: int, data: list, session: str | None = None) -> httpx.Response:
    body = {"data": data, "fn_index": event, "session_hash": session or uuid.uuid4().hex}
    return httpx.post(f"{demo.url}/gradio_api/queue/join", json=body, timeout=60)


def ask(demo, event: int, data: list, session: str | None = None) -> dict:
    """The last message of an event: success, and the output or the error."""
    session = session or uuid.uuid4().hex
    response = join(demo, event, data, session)
    assert response.status_code == 200, response.text
    address = f"{demo.url}/gradio_api/queue/data?session_hash={session}"
    with httpx.stream("GET", address, timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and (message := json.loads(line[5:]))["msg"] == "process_completed":
                return message
    raise AssertionError("the stream ended without an answer")


def draw(caption="a tree", seed=1, new_seed=False, steps=1) -> list:
    return [caption, seed, new_seed, steps]


def test_it_listens_on_this_machine_alone(demo):
    port = int(demo.url.rsplit(":", 1)[1])
    assert demo.url.startswith("http://127.0.0.1:") and httpx.get(demo.url).status_code == 200
    with socket.socket() as elsewhere:  # 127.0.0.2 is this machine too, but not the address that was bound
        elsewhere.settimeout(5)
        assert elsewhere.connect_ex(("127.0.0.2", port)) != 0


def test_files_outside_its_own_folder_are_not_served(demo, tiny_run):
    folder = demo.cwd
    files = [
        tiny_run / "recipe.yaml",
        folder / "secret.txt",
        folder / "log",
        demo.out / "labels.json",
        "/etc/passwd",
        "secret.txt",
        "../secret.txt",
        "..%2F..%2Fetc%2Fpasswd",
    ]
    for file in files:
        for prefix in (
            "/gradio_api/file=",
            "/file=",
            "/gradio_api/file/",
            "/static/",
            "/assets/",
            "/gradio_api/proxy=",
        ):
            answer = httpx.get(f"{demo.url}{prefix}{file}")
            assert answer.status_code in (400, 401, 403, 404, 405, 422, 500), (prefix, file, answer.status_code)
            assert b"secret" not in answer.content.replace(b"secret.txt", b"") and b"root:" not in answer.content
    answer = ask(demo, DRAW, draw())
    picture = answer["output"]["data"][1]
    assert httpx.get(picture["url"]).content.startswith(b"\x89PNG")  # what it drew, it serves


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "127.0.0.1.evil.example"},
    ],
)
def test_pages_of_other_sites_cannot_use_it(demo, headers):
    address = f"{demo.url}/gradio_api/queue/join"
    body = json.dumps({"data": draw(), "fn_index": DRAW, "session_hash": "x"})
    for kind in ("application/json", "text/plain"):
        assert httpx.post(address, content=body, headers=headers | {"Content-Type": kind}).status_code == 403
    assert httpx.get(demo.url, headers=headers).status_code == 403
    own = demo.url.rsplit(":", 1)[1]
    assert httpx.get(demo.url, headers={"Origin": demo.url, "Host": f"localhost:{own}"}).status_code == 200


def test_uploads_and_long_requests_are_refused(demo):
    for address in ("/gradio_api/upload", "/upload", "/gradio_api/upload/", "/gradio_api/upload?upload_id=x"):
        assert httpx.post(demo.url + address, files={"files": ("x.png", b"x")}).status_code in (403, 404)
    assert join(demo, DRAW, draw("x" * MAX_BODY)).status_code == 413
    address = f"{demo.url}/gradio_api/queue/join"
    try:
        chunked = httpx.post(address, content=(b"x" * 1024 for _ in range(2 * MAX_BODY // 1024)))
        assert chunked.status_code >= 400
    except httpx.HTTPError:
        pass  # cut
    assert ask(demo, DRAW, draw())["success"]


@pytest.mark.parametrize(
    ("event", "data", "told"),
    [
        (DRAW, draw(" \n "), "Write a caption first"),
        (DRAW, draw("tree " * MAX_CAPTION), f"longer than {MAX_CAPTION} characters"),
        (DRAW, draw(steps=MAX_STEPS + 1), "200"),
        (DRAW, draw(steps=10**9), "200"),
        (DRAW, draw(steps="many"), ""),  # Gradio refuses it without a word
        (DRAW, draw(seed=-1), "0"),
        (DRAW, draw(seed=None), "The seed must be a number"),
        (PAINT, [None, 1], "Draw a map first"),
    ],
)
def test_what_the_page_would_not_send_is_refused_before_anything_is_drawn(demo, event, data, told):
    answer = ask(demo, event, data)
    assert not answer["success"] and told in str(answer["output"]["error"])
    assert "/" not in str(answer["output"]["error"]).replace("</", "")  # no path of this machine


def test_what_is_typed_comes_back_in_no_markup(demo):
    answer = ask(demo, DRAW, draw("<img src=x onerror=alert(1)>"))
    assert answer["success"] and "onerror" not in json.dumps(answer["output"]["data"])


def test_a_seed_draws_the_same_map_again(demo):
    def pixels(**arguments):
        url = ask(demo, DRAW, draw(steps=2, **arguments))["output"]["data"][1]["url"]
        return read_image(httpx.get(url).content)

    first = pixels(seed=3)
    assert (pixels(seed=3) == first).all() and (pixels(seed=4) != first).any()


def test_who_comes_when_the_queue_is_full_is_told(demo):
    answers = []

    def come():
        answers.append(join(demo, DRAW, draw(steps=MAX_STEPS)).status_code)

    visitors = [threading.Thread(target=come) for _ in range(QUEUED + 8)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert answers.count(200) >= QUEUED and 503 in answers


def test_a_taken_port_is_told_in_one_line(demo, tiny_run, tmp_path):
    port = demo.url.rsplit(":", 1)[1]
    command = ["-m", "seggen_hf.cli", "demo", tiny_run, "--port", port, "--out", tmp_path]
    result = run_python(command, client_environment(), tmp_path, check=False)
    assert result.returncode == 1 and result.stderr.splitlines() == [f"error: {port} is taken; give another --port."]


def test_the_models_are_named_before_anything_is_loaded(tiny_run, tmp_path):
    def call(*arguments):
        command = ["-m", "seggen_hf.cli", "demo", *arguments]
        return run_python(command, client_environment(), tmp_path, check=False)

    neither = call()
    assert neither.returncode == 2 and "give a run folder, or --text2mask" in neither.stderr.replace("Give", "give")
    no_run = call(tmp_path)
    assert no_run.returncode == 1 and "is no run folder" in no_run.stderr
    half = call("--text2mask", tiny_run / "text2mask")
    assert half.returncode == 2 and "--mask2img" in half.stderr
    for result in (neither, no_run, half):
        assert len(result.stderr.splitlines()) == 1
