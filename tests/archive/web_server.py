"""A web server on this machine that serves a folder, and counts what it sends."""

from __future__ import annotations

import gzip
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Served:
    """A running server.

    Attributes
    ----------
    url : str
    manner : str
        ``"ranges"``, ``"whole"`` (ignores Range), ``"gzip"``, ``"token"`` (wants the query
        ``key=secret``), ``"shaky"`` (every third answer is an error or is cut), ``"other"`` (sends
        another range).
    requests : list of (method, path, range)
    sent : int
        Bytes of bodies.
    pause : float
        Seconds that each answer takes.
    most : int
        Requests that were answered at once.
    """

    folder: Path
    manner: str = "ranges"
    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    sent: int = 0
    pause: float = 0.0
    most: int = 0
    running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Take the time that an answer takes."""
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(self.pause)
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1

    def restart(self) -> None:
        """Count from zero."""
        self.requests.clear()
        self.sent = 0


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            with served.answering():
                self.give()

        def give(self) -> None:
            address = urlsplit(self.path)
            wanted = self.headers.get("Range")
            served.requests.append(("GET", unquote(address.path), wanted))
            file = served.folder / unquote(address.path).lstrip("/")
            if served.manner == "token" and address.query != "key=secret":
                return self.answer(403, b"")
            if not file.is_file():
                return self.answer(404, b"not here")
            data = file.read_bytes()
            if served.manner == "shaky" and len(served.requests) % 3 == 0:
                return self.shake(data)
            if served.manner == "gzip":
                return self.answer(200, gzip.compress(data), {"Content-Encoding": "gzip"})
            if wanted is None or served.manner == "whole":
                return self.answer(200, data)
            found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
            assert found is not None
            start = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
            stop = min(int(found[2]) + 1, len(data)) if found[1] and found[2] else len(data)
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            if served.manner == "other":
                start = max(0, start - 1)
            span = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            self.answer(206, data[start:stop], span)

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            served.sent += len(body)
            self.wfile.write(body)

        def shake(self, data: bytes) -> None:
            if len(served.requests) % 2:
                return self.answer(503, b"later")
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True

    return Handler


@contextmanager
def serving(folder: Path, manner: str = "ranges") -> Iterator[Served]:
    """Serve a folder on a free port of the loopback interface."""
    served = Served(folder, manner)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
