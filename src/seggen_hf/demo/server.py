"""Serving the page: on this machine only unless told otherwise, without uploads, with a bounded queue."""

import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from .decisions import Decisions
from .models import DemoModels
from .names import Names, OwnPagesOnly, is_on_spaces
from .page import CSS, build_page

LOCAL = "127.0.0.1"
QUEUED = 16  # visitors who wait; the next one is told to come back
MAX_BODY = 64 * 1024  # bytes of a request; the longest are a caption and a few numbers
REFUSED = ("/upload", "/gradio_api/upload")


class Limits:
    """ASGI middleware that refuses uploads, which the page has no use for, and long requests."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"].rstrip("/") in REFUSED:
            return await _refuse(send, 403)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return await _refuse(send, 413)
        received = 0

        async def counted():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY:  # a body in chunks, of a length that was not told
                return {"type": "http.disconnect"}
            return message

        return await self.app(scope, counted, send)


async def _refuse(send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _say(line: str) -> None:
    print(line, flush=True)  # at once in a log too


def serve(
    models: DemoModels,
    out: str | Path,
    host: str | None = None,
    port: int | None = None,
    caption: str = "",
    open_browser: bool = False,
    say: Callable[[str], None] = _say,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        out: folder for the samples that people decide on; see `Decisions`.
        host: address to listen on; 127.0.0.1, which no other machine reaches, if neither given nor set in
            GRADIO_SERVER_NAME, as Spaces do.
        port: the first free one from 7860 if not given.
        caption: in the text box to begin with.
        say: called with the address once the page is there.
        allowed_hosts: names that the page answers to beside its own; see `Names`.
    Raises: `ValueError` for a folder with other labels, `OSError` if the port is taken.
    """
    host = host or os.environ.get("GRADIO_SERVER_NAME") or LOCAL
    decisions = Decisions(out, models.labels, models.is_panoptic)
    guard = [] if is_on_spaces() else [Middleware(OwnPagesOnly, names=Names(host, allowed_hosts))]
    # Pictures that the page shows; the only files of this machine that are served. It is deleted at the end.
    pictures = tempfile.mkdtemp(prefix="seggen-demo-")
    os.environ["GRADIO_TEMP_DIR"] = pictures
    page = build_page(models, decisions, caption)
    page.queue(max_size=QUEUED, default_concurrency_limit=4)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            allowed_paths=[],
            max_file_size=MAX_BODY,
            state_session_capacity=64,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            footer_links=[],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # none from elsewhere
            css=CSS,
            app_kwargs={"middleware": [*guard, Middleware(Limits)]},
        )
        ended = _await_signals()  # before anybody is told that they may stop it
        say(f"The demo is at {page.local_url}; what you keep and reject goes to {out}. Ctrl-C stops it.")
        while not ended.wait(1.0 if sys.platform == "win32" else None):
            pass
    finally:
        page.close(verbose=False)
        models.close()
        shutil.rmtree(pictures, ignore_errors=True)


def check_address(host: str, port: int | None) -> None:
    """Raise `OSError` if this machine cannot listen there; before models are loaded for it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port or 0))
        except OSError as error:
            reason = f"{port} is taken; give another --port" if error.errno == errno.EADDRINUSE else str(error)
            raise OSError(f"{reason}.") from error


def _await_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set, from now on."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended
