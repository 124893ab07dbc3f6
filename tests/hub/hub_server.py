"""A server that speaks the Hub's HTTP protocol to the real clients; it keeps the log and makes the faults.

The addresses are in `hub_accounts.py`, `hub_reading.py` and `hub_writing.py`, the storage is in `hub_store.py`. What
the Hub has and this does not: Xet, redirects from the old names of moved repositories, gates, discussions, the viewer.
"""

import hashlib
import hmac
import re
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import hub_accounts  # noqa: F401  the imported files register their addresses
import hub_reading  # noqa: F401
import hub_writing  # noqa: F401
from hub_faults import Faults
from hub_store import CHUNK, Store
from hub_wire import Answer, Refusal, Request, User, find_route

WRITER, READER, OTHER = "hf_writer", "hf_reader", "hf_other"
# token: (user, role, organizations). The first two are of one person, and the organization is theirs.
TOKENS = {
    WRITER: ("ada", "write", ("seggen",)),
    READER: ("ada", "read", ("seggen",)),
    OTHER: ("eve", "write", ()),
}


class HubServer:
    """The server, from `start` to `stop`, or as a context manager; `restart` keeps address and folder.

    Args:
        root: folder of the storage; what an earlier server left there is served.
        tokens: {token: (user, "write" or "read", organizations)}.
        faults: decides which requests go wrong; may be set and unset at any time.
        on_request: called with method, path and number (from 1) of each request before its body is read; what it
            returns, if anything, is the fault of this request. May be set and unset at any time.
        cdn: large files are answered with a redirect to another origin, which refuses tokens.
        page_size: entries of a page of a listing.
        part_size: larger files are uploaded in parts of this size.
    """

    def __init__(
        self,
        root: Path,
        tokens: dict[str, tuple] = TOKENS,
        port: int = 0,
        faults: Faults | None = None,
        on_request: Callable[[str, str, int], str | None] | None = None,
        cdn: bool = False,
        page_size: int = 1000,
        part_size: int = 100 << 20,
    ):
        self.store = Store(root)
        self.tokens = dict(tokens)
        self.faults, self.on_request = faults, on_request
        self.cdn, self.page_size, self.part_size = cdn, page_size, part_size
        self.requests: list[Request] = []
        self.errors: list[str] = []  # tracebacks of mistakes of this server or of `on_request`
        self.port = port
        self._lock = threading.Lock()
        self._http: _HTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "HubServer":
        self._http = _HTTPServer(("127.0.0.1", self.port), self)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), name=f"hub:{self.port}", daemon=True).start()
        return self

    def stop(self) -> None:
        """Cut all connections, also those that are at work."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http.cut_all()
            self._http = None

    def restart(self) -> None:
        self.stop()
        self.store = Store(self.store.root)
        self.start()

    def __enter__(self) -> "HubServer":
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def seen(self, method: str | None = None, path: str = "", status: int | None = None) -> list[Request]:
        """The requests so far with this method and status whose path has `path`, a regular expression, in it."""
        with self._lock:
            requests = list(self.requests)
        return [
            request
            for request in requests
            if method in (None, request.method) and status in (None, request.status) and re.search(path, request.path)
        ]

    def sign(self, target: str) -> str:
        """The address of `target`, which has a query, with a signature that serves instead of a token."""
        digest = hmac.new(self.store.secret, target.encode(), hashlib.sha256).hexdigest()
        return f"{self.url}{target}&signature={digest}"

    def is_signed(self, target: str) -> bool:
        return hmac.compare_digest(self.sign(target.rpartition("&signature=")[0]), self.url + target)

    def user(self, request: Request) -> User | None:
        """Raises: `Refusal` for a token that nobody has, also where none is needed."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return User(*self.tokens[token]) if token else None

    def note(self, method: str, target: str, headers: dict[str, str]) -> Request:
        with self._lock:
            request = Request(len(self.requests) + 1, method, target, headers)
            self.requests.append(request)
        if self.on_request:
            request.fault = self.on_request(method, request.path, request.number)
        if request.fault is None and self.faults:
            request.fault = self.faults.choose(method, request.path)
        return request

    def answer(self, request: Request) -> Answer:
        try:
            if request.fault in ("500", "503", "429"):
                asked = {"Retry-After": "0"} if request.fault == "429" else None
                raise Refusal(int(request.fault), "A fault on purpose", headers=asked)
            route, values = find_route(request.method, urlsplit(request.target).path)
            if not re.match("/(lfs|cdn)/", request.target):  # signed addresses
                request.user = self.user(request)
            return route(self, request, **values)
        except Refusal as refusal:
            return refusal.answer


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, hub: HubServer):
        self.hub = hub
        self._open: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, _Handler)

    def process_request_thread(self, request, client_address):
        self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)

    def cut_all(self) -> None:
        """Cut every connection and wait for what is carried out just now: the next server has a lock of its own."""
        connections = list(self._open.items())
        for connection, _ in connections:
            _cut(connection)
        for _, thread in connections:
            if thread is not threading.current_thread():
                thread.join(5)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):  # clients that go away are part of the tests
            self.hub.errors.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer are two writes, which would cost 40 ms
    wbufsize = 1 << 16

    def serve(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = hub.note(self.command, self.path, headers)
        with tempfile.SpooledTemporaryFile(max_size=CHUNK) as body:
            length = int(headers.get("content-length", 0))
            if request.fault == "cut":
                self._read(body, length // 2)
                return self._cut()
            complete = self._read_chunked(body) if "transfer-encoding" in headers else self._read(body, length)
            if not complete:
                return self._cut()
            body.seek(0)
            request.body = body
            try:
                answer = hub.answer(request)
            except Exception as error:  # a mistake of this server must not look like a bad connection
                hub.errors.append(traceback.format_exc())
                answer = Refusal(501, f"{type(error).__name__} in the server of the tests: {error}").answer
            request.body, request.status = None, answer.status
        if request.fault == "lost_answer":
            return self._cut()
        self._send(answer, cut=request.fault == "cut_body")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = serve

    def _read(self, body: BinaryIO, length: int) -> bool:
        """Whether all of it came."""
        while length > 0:
            chunk = self.rfile.read(min(length, CHUNK))
            if not chunk:
                return False
            length -= body.write(chunk)
        return True

    def _read_chunked(self, body: BinaryIO) -> bool:
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            if not self._read(body, size):
                return False
            self.rfile.readline()
        return self.rfile.readline() == b"\r\n"

    def _send(self, answer: Answer, cut: bool) -> None:
        if cut and (self.command == "HEAD" or not answer.length):
            return self._cut()
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(answer.length)} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        left = 0 if self.command == "HEAD" else answer.length // 2 if cut else answer.length
        if answer.file:
            with open(answer.file, "rb") as file:
                file.seek(answer.start)
                while left > 0 and (chunk := file.read(min(left, CHUNK))):
                    left -= self.wfile.write(chunk)
        else:
            self.wfile.write(answer.body[:left])
        self.wfile.flush()
        if cut:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        _cut(self.connection)

    def log_message(self, *_) -> None:
        """The log is `HubServer.requests`."""


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was first
        pass
