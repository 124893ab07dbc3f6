"""Which requests are of the page's own: not by another site's name for this machine, and not from another site."""

import json
import os
import re
import signal
import socket
import time

import httpx
import pytest
from forked_python import client_environment, start_python
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from seggen_hf.demo.names import Names, OwnPagesOnly, is_loopback, plain_name

OWN = socket.gethostname()
LOCAL = [
    "127.0.0.1",
    "127.8.9.1",
    "localhost",
    "LocalHost.",
    "a.b.localhost",
    "[::1]",
    "[0:0::1]",
    "[::ffff:127.0.0.1]",
]
FOREIGN = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", "localhost.local", ""]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1", "demo.localhost", "localhost."])
def test_at_a_loopback_address_every_loopback_name_is_this_page(host):
    names = Names(host)
    for name in LOCAL:
        for port in ("", ":7860"):
            assert is_loopback(name) and names.fits(name + port, []) and names.fits(name, [f"http://{name}{port}"])
            assert names.fits("localhost:1", [f"https://{name}"])
    for name in [*FOREIGN, "192.168.7.7", "0.0.0.0", "[::]", OWN]:
        assert not names.fits(name, []) and not names.fits("localhost", [f"http://{name}"])


@pytest.mark.parametrize("host", ["192.168.7.7", "box.lab.example"])
def test_at_another_address_it_is_that_and_the_machines_own_names(host):
    names = Names(host)
    for name in (host, host.upper(), f"{host}:7860", f"{host}.", OWN, f"{OWN.partition('.')[0]}.local"):
        assert names.fits(name, []) and names.fits(host, [f"http://{name}"])
    for name in [*FOREIGN, "192.168.7.8", "lab.example"]:
        assert not names.fits(name, []) and not names.fits(host, [f"http://{name}"])


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_at_all_addresses_digits_are_this_page_too_but_pages_at_other_digits_are_not(host):
    names = Names(host)
    for name in (*LOCAL, OWN, "192.168.7.7", "[2001:db8::7]"):
        assert names.fits(f"{name}:7860", [f"http://{name}:7860"])
    for name in FOREIGN:
        assert not names.fits(name, [f"http://{name}"]) and not names.fits("192.168.7.7", [f"http://{name}"])
    assert not names.fits("192.168.7.7", ["http://203.0.113.9"]) and not names.fits(OWN, ["http://203.0.113.9"])


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost", "null"),
        ("localhost", "file://"),
        ("localhost", "http://evil.example@localhost"),
        ("localhost", "http://localhost/"),
        ("localhost", "http://[::1"),
        ("localhost", ""),
        ("evil.example@localhost", "http://localhost"),
        ("localhost, evil.example", "http://localhost"),
        ("localhost:80:80", "http://localhost"),
    ],
)
def test_what_no_browser_sends_for_this_page_is_refused(host, origin):
    assert not Names("127.0.0.1").fits(host, [origin])
    assert not Names("127.0.0.1").fits("localhost", ["http://localhost", "http://evil.example"])


def test_a_proxys_name_can_be_let_in():
    names = Names("0.0.0.0", ["Demo.Lab.Example"])
    assert names.fits("demo.lab.example", ["https://demo.lab.example"])
    assert not names.fits("other.lab.example", ["https://other.lab.example"])
    assert plain_name("[2001:DB8:0::1]") == "2001:db8::1"


def test_websockets_are_asked_the_same():
    async def echo(websocket):
        await websocket.accept()
        await websocket.send_text("hello")

    guard = Middleware(OwnPagesOnly, names=Names("localhost"))
    app = Starlette(routes=[WebSocketRoute("/queue", echo)], middleware=[guard])
    with TestClient(app) as client:
        with client.websocket_connect("ws://localhost/queue", headers={"origin": "http://127.0.0.1:3"}) as socket_:
            assert socket_.receive_text() == "hello"
        for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
            with pytest.raises(WebSocketDisconnect), client.websocket_connect("ws://localhost/queue", headers=headers):
                pass


# What a page listens at, which names it is told to let in, and where it runs.
PAGES = {
    "localhost": ("localhost", [], {}),
    "all addresses": ("0.0.0.0", ["demo.lab.example"], {}),
    "its own name": (OWN, [], {}),
    "by the environment": (None, [], {"GRADIO_SERVER_NAME": "0.0.0.0"}),
    "a Space": (None, [], {"GRADIO_SERVER_NAME": "0.0.0.0", "SPACE_ID": "me/demo", "SPACE_HOST": "me-demo.hf.space"}),
}
ALONE = {"GRADIO_ANALYTICS_ENABLED": "False"}
# The models are loaded once, and each page is a process of its own.
SERVE = """
import json, os, sys, time
import gradio  # once, before the forks
from pathlib import Path
from seggen_hf.config import SynthesisConfig
from seggen_hf.demo.models import load_models
from seggen_hf.demo.server import serve

models = load_models(SynthesisConfig(text2mask_model=sys.argv[1], mask2img_model=sys.argv[2]), None)
for name, (host, allowed, env) in json.loads(sys.argv[3]).items():
    if (child := os.fork()) == 0:
        os.environ |= env
        serve(models, name, host, say=Path(f"{name}.log").write_text, allowed_hosts=allowed)
        os._exit(0)
    while not Path(f"{name}.log").exists() and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.05)  # each finds its port before the next one looks for one
while True:
    os.wait()
"""


@pytest.fixture(scope="module")
def pages(tiny_run, tmp_path_factory):
    """`{name: address}` of PAGES; a machine that does not know its own name has no such page."""
    folder, wanted = tmp_path_factory.mktemp("pages"), dict(PAGES)
    if not resolves(OWN):
        del wanted["its own name"]
    models = [str(tiny_run / name) for name in ("text2mask", "mask2img")]
    with open(folder / "errors", "w") as errors:
        words = ["-c", SERVE, *models, json.dumps(wanted)]
        process = start_python(words, client_environment(**ALONE), folder, log=errors, start_new_session=True)
    try:
        while not (logs := [folder / f"{name}.log" for name in wanted])[-1].exists():
            assert process.poll() is None, (folder / "errors").read_text()
            time.sleep(0.1)
        time.sleep(0.1)
        yield {log.stem: re.search(r"at (http://[^/]+)/", log.read_text())[1] for log in logs if log.exists()}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def resolves(name: str) -> bool:
    try:
        with socket.socket() as probe:
            probe.bind((name, 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in PAGES if name != "a Space"])
def test_a_rebound_name_is_refused_over_http_wherever_it_listens(name, pages):
    if name == "its own name" and not resolves(OWN):
        pytest.skip(f"this machine does not know its own name {OWN}")
    url = pages[name]
    join = f"{url}/gradio_api/queue/join"
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    for headers in (
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Host": "localhost.evil.example"},
    ):
        answer = httpx.post(join, json={"data": [], "fn_index": 0, "session_hash": "x"}, headers=headers)
        assert answer.status_code == 403 and "--allow-host" in answer.text
        for path, more in (("/gradio_api/queue/data?session_hash=x", {}), ("/", {}), ("/config", {}), ("/", upgrade)):
            assert httpx.get(url + path, headers=headers | more).status_code == 403, (path, headers)
    assert httpx.get(url, headers={"Origin": url}).status_code == 200
    port = url.rsplit(":", 1)[1]
    for own in (PAGES[name][1] or ["localhost"]) if name != "its own name" else [OWN]:
        named = {"Host": f"{own}:{port}", "Origin": f"http://{own}:{port}"}
        assert httpx.get(url, headers=named).status_code == 200


def test_a_space_is_reached_by_the_name_that_its_proxy_has(pages):
    headers = {"Host": "me-demo.hf.space", "Origin": "https://me-demo.hf.space"}
    assert httpx.get(pages["a Space"], headers=headers).status_code == 200
    assert httpx.get(pages["by the environment"], headers=headers).status_code == 403  # no Space: nobody's name
