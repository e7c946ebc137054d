"""Objects behind a web server, for reading: ranges, several requests at once, nothing else.

Any server will do that sends what it is asked for. One that ignores ``Range`` sends whole objects
instead of parts; of those the part is cut, which costs bytes and no more, or it is refused where
the object is a whole archive. Bytes that are not the ones that were asked for are never handed on
as if they were: damage is what the manifest says it is, and not what a server made of a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
)

from psc_volumetric.archive.addresses import without_secrets
from psc_volumetric.errors import StorageError

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

__all__ = ["HttpStore"]

CONNECTIONS = 16
ATTEMPTS = 4
PAUSE = 0.2  # seconds before the second attempt, then twice as long each time
CONNECT_TIMEOUT, READ_TIMEOUT = 20, 60  # seconds without a byte
CLOSING_TIMEOUT = 1
MOST = 1 << 30  # bytes of one answer
AGAIN = frozenset({429, 500, 502, 503, 504})
ABSENT = frozenset({404, 410})
FORBIDDEN = frozenset({401, 403, 407})

_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_log = logging.getLogger(__name__)


class HttpStore(Store):
    """Keys below an address, or the one object that is there (key ``""``).

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``; a query is repeated with every key.
    options : mapping, optional
        As in fsspec: ``client_kwargs`` for the session of aiohttp, others for each request.
    whole : bool
        Whether an object may be transferred whole where only part of it was asked for.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, *, whole: bool = True
    ) -> None:
        super().__init__(read_only=True)
        self._url = url
        self._options = dict(options or {})
        self._whole = whole
        self._sizes: dict[str, int] = {}
        self._session: tuple[tuple[int, asyncio.AbstractEventLoop], ClientSession] | None = None
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HttpStore) and other._url == self._url

    def __str__(self) -> str:
        return without_secrets(self._url)

    # -- reading ----------------------------------------------------------------------------

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Bytes of a key, or of a range of it; None when the server has none."""
        data = await self._read(key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def getsize(self, key: str) -> int:
        """Bytes of an object, from the last answer about it or from one more request."""
        if key not in self._sizes and await self._read(key, RangeByteRequest(0, 1)) is None:
            raise FileNotFoundError(self._shown(key))
        if key not in self._sizes:
            raise OSError(f"the server does not say how large {self._shown(key)} is")
        return self._sizes[key]

    async def exists(self, key: str) -> bool:
        """Whether the server has the key."""
        return await self._read(key, RangeByteRequest(0, 1)) is not None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Any
    ) -> list[Buffer | None]:
        """Several ranges at once."""
        return await asyncio.gather(*(self.get(k, prototype, r) for k, r in key_ranges))

    async def _read(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        import aiohttp

        broken = (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError)
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                async with self._asked(key, wanted) as answer:
                    if answer.status not in AGAIN or last:
                        return await self._taken(answer, key, wanted)
            except broken as error:
                if last or isinstance(error, aiohttp.ClientConnectorError):
                    raise
            await asyncio.sleep(PAUSE * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _taken(
        self, answer: ClientResponse, key: str, wanted: ByteRequest | None
    ) -> bytes | None:
        """The bytes that were asked for, whatever the server makes of it."""
        if answer.status in ABSENT:
            return None
        if answer.status == 416:  # the object ends before
            self._note_size(key, answer)
            return b""
        if answer.status in FORBIDDEN:
            raise PermissionError(f"{answer.status} {answer.reason}: {self._shown(key)}")
        if answer.status not in (200, 206):
            raise OSError(f"{answer.status} {answer.reason}: {self._shown(key)}")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise OSError(f"the server compresses what it sends: {self._shown(key)}")
        self._note_size(key, answer)
        if wanted is None:
            return await self._all(answer, key)
        if answer.status == 200:
            return await self._cut(answer, key, wanted)
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or (
            isinstance(wanted, RangeByteRequest) and found[1] != f"{wanted.start}"
        ):
            raise OSError(f"the server sends another range than asked for: {self._shown(key)}")
        if isinstance(wanted, RangeByteRequest):
            return await _at_most(answer, wanted.end - wanted.start)
        return await self._all(answer, key)

    async def _all(self, answer: ClientResponse, key: str) -> bytes:
        """A whole body, if it is not larger than anything an archive has in one piece."""
        data = await _at_most(answer, MOST + 1)
        if len(data) > MOST:
            raise OSError(f"more than {MOST} bytes: {self._shown(key)}")
        return data

    async def _cut(self, answer: ClientResponse, key: str, wanted: ByteRequest) -> bytes:
        """Part of an object that the server sends whole."""
        if isinstance(wanted, RangeByteRequest) and wanted.start == 0:
            data = await _at_most(answer, wanted.end)
            answer.close()  # the rest is not waited for
            return data
        if not self._whole:
            raise StorageError(
                f"{self}: the server ignores Range and sends the whole file for each part of it",
                kind="no-ranges",
                hint="put it behind a server that knows Range requests (nginx, Apache, Caddy, any "
                "object store), or download it first",
            )
        if not self._warned:
            _log.warning("%s: the server ignores Range; whole objects are transferred", self)
            self._warned = True
        data = await self._all(answer, key)
        if isinstance(wanted, RangeByteRequest):
            return data[wanted.start : wanted.end]
        if isinstance(wanted, OffsetByteRequest):
            return data[wanted.offset :]
        return data[-wanted.suffix :] if wanted.suffix else b""

    def _note_size(self, key: str, answer: ClientResponse) -> None:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is not None and found[2] != "*":
            self._sizes[key] = int(found[2])
        elif answer.status == 200 and answer.content_length is not None:
            self._sizes[key] = answer.content_length

    # -- requests ---------------------------------------------------------------------------

    def _shown(self, key: str) -> str:
        return f"{self}/{key}" if key else str(self)

    def _address(self, key: str) -> str:
        parts = urlsplit(self._url)
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        if key:
            path = f"{path.rstrip('/')}/{quote(key)}"
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

    @asynccontextmanager
    async def _asked(self, key: str, wanted: ByteRequest | None) -> AsyncIterator[ClientResponse]:
        from yarl import URL

        options = {k: v for k, v in self._options.items() if k != "client_kwargs"}
        headers = {**dict(options.pop("headers", {})), "Accept-Encoding": "identity"}
        if wanted is not None:
            headers["Range"] = f"bytes={_range_text(wanted)}"
        address = URL(self._address(key), encoded=True)
        async with self._open_session().get(address, headers=headers, **options) as answer:
            yield answer

    def _open_session(self) -> ClientSession:
        """The session of this process and loop."""
        import aiohttp

        here = (os.getpid(), asyncio.get_running_loop())
        if self._session is None or self._session[0] != here:
            given = dict(self._options.get("client_kwargs", {}))
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT
            )
            chosen = {
                "connector": aiohttp.TCPConnector(limit=CONNECTIONS),
                "timeout": timeout,
                "trust_env": True,
                "auto_decompress": False,
            }
            session = aiohttp.ClientSession(**{**chosen, **given})
            self._session = here, session
            weakref.finalize(self, _close, here[1], session)
        return self._session[1]

    def close(self) -> None:
        """Close the connections."""
        super().close()
        if self._session is not None and self._session[0][0] == os.getpid():
            _close(self._session[0][1], self._session[1])
        self._session = None

    # -- what a web server does not do ------------------------------------------------------

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        raise self._refused()

    async def delete(self, key: str) -> None:
        """Refused."""
        raise self._refused()

    def list(self) -> AsyncIterator[str]:
        """Refused: web servers have no listings."""
        raise self._refused()

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refused."""
        raise self._refused()

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refused."""
        raise self._refused()

    def _refused(self) -> StorageError:
        return StorageError(
            f"{self}: archives behind a web server are read, one at a time, and nothing else",
            kind="unsupported-target",
            hint="name one archive; write to a folder or an object store",
        )


def _range_text(wanted: ByteRequest) -> str:
    if isinstance(wanted, RangeByteRequest):
        return f"{wanted.start}-{wanted.end - 1}"
    if isinstance(wanted, OffsetByteRequest):
        return f"{wanted.offset}-"
    return f"-{wanted.suffix}"


async def _at_most(answer: ClientResponse, length: int) -> bytes:
    """A body, and no more of it than that."""
    pieces, missing = [], length
    while missing > 0:
        piece = await answer.content.read(missing)
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _close(loop: asyncio.AbstractEventLoop, session: ClientSession) -> None:
    """End a session from any thread, also when its loop has ended before."""
    if session.closed:
        return
    if not loop.is_running():
        if session.connector is not None:
            session.connector.close()
        return
    closing = asyncio.run_coroutine_threadsafe(session.close(), loop)
    if asyncio._get_running_loop() is not loop:
        with suppress(TimeoutError):
            closing.result(CLOSING_TIMEOUT)
