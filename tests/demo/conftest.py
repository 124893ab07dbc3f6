"""`seggen demo` as users start it: a process of its own, reached over HTTP and with a real browser."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from forked_python import client_environment, start_python

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FORMER = {"GRADIO_ANALYTICS_ENABLED": "False"}


class Demo:
    """A running `seggen demo`; `url` ends without a slash."""

    def __init__(self, arguments: list, log: Path, cwd: Path):
        self.log = log
        with open(log, "w") as file:
            self.process = start_python(arguments, client_environment(**FORMER), cwd, log=file)
        self.url = self._wait()

    def _wait(self) -> str:
        for _ in range(1200):
            if found := re.search(r"The demo is at (http://[^/]+)/", self.log.read_text()):
                return found[1]
            try:
                self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            break
        self.stop()
        raise AssertionError(self.log.read_text())

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()


@pytest.fixture(scope="session")
def demo(tiny_run, tmp_path_factory):
    """The demo of `tiny_run`; its decisions are in `demo.out`."""
    folder = tmp_path_factory.mktemp("demo")
    out = folder / "decisions"
    (folder / "secret.txt").write_text("secret")
    running = Demo(["-m", "seggen_hf.cli", "demo", tiny_run, "--out", out], folder / "log", folder)
    running.out, running.cwd = out, folder
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium here; on Debian and Ubuntu: apt-get install --no-install-recommends chromium")
    return found


@pytest.fixture
def page(chromium):
    """A tab of a headless Chromium; what scripts or requests to other machines it saw is checked at the end."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 1150})
        foreign = []
        tab.on("request", lambda request: foreign.append(request.url) if "127.0.0.1" not in request.url else None)
        yield tab
        browser.close()
    assert not [url for url in foreign if not url.startswith(("data:", "blob:"))]
