"""The web server behind `psc-archive view`: read-only, on this machine, with a token in its URL.

Answers are pages of this package, JSON, and decoded values as bytes. Archives are named as in the
catalogue; a name is looked up there and never becomes part of a path. Whatever an archive says is
data: it is sent as JSON and the page never makes markup of it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipelines.viewing.ahead import SlicesAhead
from pipelines.viewing.describe import archive_text, levels_of, variable_text
from pipelines.viewing.previews import preview_values
from pipelines.viewing.readiness import SLOW, import_all, make_ready
from pipelines.viewing.regions import (
    MOST_IN_SPACE,
    coloured_nifti,
    nifti_of,
    parse_box,
    read_shown,
)
from pipelines.viewing.shelf import Shelf, Shown
from pipelines.viewing.volumes import small_volume
from psc_volumetric.archive.looks import PRIMARIES, colours_of
from psc_volumetric.errors import InstallationError, ParameterError, PscError, StorageError
from psc_volumetric.extras import require
from psc_volumetric.machine_code import BEING_MADE
from psc_volumetric.shipped import shipped_bytes
from psc_volumetric.threads import Crew

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["PAGES", "ViewServer"]

log = logging.getLogger(__name__)

PAGES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "main.js": "text/javascript",
    "api.js": "text/javascript",
    "list.js": "text/javascript",
    "viewer.js": "text/javascript",
    "pane.js": "text/javascript",
    "planes.js": "text/javascript",
    "colour.js": "text/javascript",
    "controls.js": "text/javascript",
    "space.js": "text/javascript",
    "niivue.js": "text/javascript",
    "niivue.LICENSE.txt": "text/plain",
}
HEADERS = {
    # NiiVue has its letters and colours inside itself, as data and blobs
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; font-src data:; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
WORKERS = 4
START_TIMEOUT = 30.0

R = TypeVar("R")
Answer = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


class ViewServer:
    """Serves a target until it is closed; a context manager.

    Parameters
    ----------
    target : str
        Archive, folder of archives, or URL.
    host : str
        Interface to listen on.
    port : int
        0 takes a free one.

    Attributes
    ----------
    url : str
        Where the page is, with the token without which nothing is answered.

    Raises
    ------
    ExtraMissingError : aiohttp is not installed.
    InstallationError : a file of the page is missing.
    StorageError : kind ``"cannot-listen"``; or nothing is at the target.
    FormatError : the target is no archive.
    """

    def __init__(self, target: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        require("view", "`psc-archive view`")
        for name in PAGES:
            shipped_bytes(files("pipelines.viewing") / "static" / name)
        self.shelf = Shelf(target)
        self.url = ""
        self._token = secrets.token_urlsafe(18)
        self._host, self._port = host, port
        self._crew = Crew(WORKERS)
        self._ahead = SlicesAhead()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: OSError | UnicodeError | None = None
        self._thread = threading.Thread(target=self._serve, name="view", daemon=True)

    def __enter__(self) -> ViewServer:
        self._thread.start()
        started = self._ready.wait(START_TIMEOUT)
        if self._failure is not None or not started:
            self.close()
            raise StorageError(
                f"cannot listen on {self._host} port {self._port} ({self._failure})",
                kind="cannot-listen",
                hint="choose another --port or --host",
            ) from self._failure
        if not self.shelf.is_collection:  # what follows, nobody waits for
            self._crew.begin(copy_context(), make_ready, self.shelf.target)
        self._crew.begin(copy_context(), import_all, SLOW)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and release the archives."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(START_TIMEOUT)
        self._crew.close()
        self._ahead.close()
        self.shelf.close()

    # -- the loop ---------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        except (OSError, UnicodeError) as error:  # the latter of names that no host has
            self._failure = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _run(self) -> None:
        from aiohttp import web

        # what nobody waits for any more is not decoded: a slider asks for more than is drawn
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=_request_log(),
            shutdown_timeout=1.0,
            handler_cancellation=True,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            port = runner.addresses[0][1]
            shown = f"[{self._host}]" if ":" in self._host else self._host
            self.url = f"http://{shown}:{port}/{self._token}/"
            self._ready.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        from aiohttp import web

        app = web.Application(middlewares=[self._guard()])
        app.router.add_get("/{token}/", self._page)
        app.router.add_get("/{token}/{name}", self._page)
        app.router.add_get("/{token}/api/work", self._work)
        for name, work in {
            "list": self._list,
            "archive": self._archive,
            "variable": self._variable,
            "levels": self._levels,
        }.items():
            app.router.add_get(f"/{{token}}/api/{name}", self._json(work))
        for name, send in {
            "preview": self._preview,
            "region": self._region,
            "volume": self._volume,
        }.items():
            app.router.add_get(f"/{{token}}/api/{name}", self._bytes(send))
        return app

    def _guard(self) -> Any:
        """Refuse requests without the token; give every answer the headers of this server."""
        from aiohttp import web

        @web.middleware
        async def guarded(request: web.Request, handler: Answer) -> web.StreamResponse:
            token = request.path.removeprefix("/").partition("/")[0]
            try:
                if not hmac.compare_digest(token.encode(), self._token.encode()):
                    raise web.HTTPNotFound(text="not here; the address has a token, use all of it")
                answer = await handler(request)
            except web.HTTPException as error:
                error.headers.update(HEADERS)
                raise
            answer.headers.update(HEADERS)
            return answer

        return guarded

    # -- answers ----------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        name = request.match_info.get("name", "index.html")
        page = files("pipelines.viewing") / "static" / name if name in PAGES else None
        if page is None or not page.is_file():
            raise web.HTTPNotFound(text="there is no such page")
        return web.Response(body=page.read_bytes(), content_type=PAGES[name], charset="utf-8")

    async def _work(self, _: web.Request) -> web.StreamResponse:
        """What is waited for, told at once, however busy the crew is."""
        from aiohttp import web

        return web.json_response({"compiling": bool(BEING_MADE)})

    async def _worked(self, work: Callable[[web.Request], R], request: web.Request) -> R:
        """Let the crew work; it ends with the process, however long a decode would take."""
        return await asyncio.wrap_future(self._crew.begin(copy_context(), work, request))

    def _json(self, work: Callable[[web.Request], dict[str, Any]]) -> Answer:
        """Answer with what a function gives; with what is wrong, and status 422, where it fails."""

        async def answer(request: web.Request) -> web.StreamResponse:
            from aiohttp import web

            try:
                found = await self._worked(work, request)
            except (PscError, InstallationError) as error:
                return _failed(error)
            return web.json_response(_plain(found))

        return answer

    def _bytes(self, work: Callable[[web.Request], tuple[bytes, dict[str, str]]]) -> Answer:
        """Likewise with bytes, and what they are in headers."""

        async def answer(request: web.Request) -> web.StreamResponse:
            from aiohttp import web

            start = time.perf_counter()
            try:
                body, headers = await self._worked(work, request)
            except (PscError, InstallationError) as error:
                return _failed(error)
            headers["X-Seconds"] = f"{time.perf_counter() - start:.4f}"
            return web.Response(body=body, headers=headers, content_type="application/octet-stream")

        return answer

    def _shown(self, request: web.Request) -> Shown:
        return self.shelf.open(request.query.get("at", ""))

    def _list(self, request: web.Request) -> dict[str, Any]:
        if not self.shelf.is_collection:
            return {"name": self.shelf.name, "collection": False, "rows": []}
        rows = self.shelf.rows(
            request.query.getall("where", []),
            request.query.get("sort", "name"),
            reverse="reverse" in request.query,
        )
        return {"name": self.shelf.name, "collection": True, "rows": rows}

    def _archive(self, request: web.Request) -> dict[str, Any]:
        shown = self._shown(request)
        return {**archive_text(shown), "bytes_read": shown.bytes_read}

    def _variable(self, request: web.Request) -> dict[str, Any]:
        shown = self._shown(request)
        text = variable_text(shown, request.query.get("variable", ""))
        return {**text, "bytes_read": shown.bytes_read}

    def _levels(self, request: web.Request) -> dict[str, Any]:
        shown = self._shown(request)
        text = levels_of(shown, request.query.get("variable", ""))
        return {**text, "bytes_read": shown.bytes_read}

    def _preview(self, request: web.Request) -> tuple[bytes, dict[str, str]]:
        shown = self._shown(request)
        spec = shown.reader.described(request.query.get("variable", ""))
        values = preview_values(shown.reader, spec, request.query.get("path", ""))
        return values.tobytes(), _headers(values, shown)

    def _region(self, request: web.Request) -> tuple[bytes, dict[str, str]]:
        shown = self._shown(request)
        name = request.query.get("variable", "")
        box = parse_box(request.query.get("box", ""), shown.reader.described(name))
        level = _whole_number(request, "level")
        with self._ahead.after(shown, name, box, level):
            found = read_shown(shown, name, box, level)
        parts = [p for p in ("sigma", "lost") if getattr(found, p) is not None]
        return found.to_bytes(), {**_headers(found.values, shown), "X-Also": " ".join(parts)}

    def _volume(self, request: web.Request) -> tuple[bytes, dict[str, str]]:
        """A whole volume for NiiVue: of a level, or of the preview."""
        shown = self._shown(request)
        spec = shown.reader.described(request.query.get("variable", ""))
        parts = request.query.get("lead", "").split(",")
        lead = [int(n) for n in parts if n.isdecimal() and len(n) < 10]
        if spec.affine is None or spec.ndim < 3 or len(lead) != spec.lead:
            raise ParameterError(f"{spec.name}: not in space", kind="not-in-space")
        if "level" not in request.query:
            body = small_volume(shown, lead, spec.name)
        else:
            voxels = int(np.prod(spec.shape[-3:]))
            if voxels > MOST_IN_SPACE:
                raise ParameterError(
                    f"{spec.name}: {voxels} voxels, at most {MOST_IN_SPACE} are drawn in 3-D",
                    kind="roi-too-large",
                )
            box = (*(slice(n, n + 1) for n in lead), *(slice(0, n) for n in spec.shape[-3:]))
            mixed = lead and colours_of(spec) is not None
            box = (slice(0, PRIMARIES), *box[1:]) if mixed else box
            region = read_shown(shown, spec.name, box, _whole_number(request, "level"))
            values = region.values.reshape(-1, *spec.shape[-3:])
            make, values = (coloured_nifti, values) if mixed else (nifti_of, values[0])
            body = make(spec, values, (1.0, 1.0, 1.0))
        return body, {"X-Bytes-Read": str(shown.bytes_read)}


def _request_log() -> logging.Logger:
    """Tells of errors in answers, and not of requests that are none: anybody can send those."""
    from aiohttp.http_exceptions import HttpProcessingError

    def is_ours(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))

    found = log.getChild("requests")
    found.filters = [is_ours]
    return found


def _whole_number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    if not text.isdecimal() or len(text) > 9:
        raise ParameterError(f"expected a number as {name}, found {text[:40]!r}", kind="bad-level")
    return int(text)


def _headers(values: Any, shown: Shown) -> dict[str, str]:
    return {
        "X-Dtype": values.dtype.name,
        "X-Shape": ",".join(map(str, values.shape)),
        "X-Bytes-Read": str(shown.bytes_read),
    }


def _plain(value: Any) -> Any:
    """What JSON has for a value: null for NaN and infinities."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _failed(error: PscError | InstallationError) -> web.StreamResponse:
    from aiohttp import web

    document = {"error": {"kind": error.kind, "message": str(error)}}
    return web.json_response(document, status=422)
