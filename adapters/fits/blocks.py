"""The blocks of a FITS file: where each header begins, where its data lie, and what is behind them.

Only what the standard fixes is read here (FITS 4.0, sections 3 and 4.4.1), with limits, before a
library sees the file. Cards are read by astropy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from adapters.errors import SourceError
from adapters.gzipped import unpacking

__all__ = ["BITPIX", "BLOCK", "Unit", "quiet", "units_of", "value_of", "whole_number"]

BLOCK = 2880
_CARD = 80
_END = b"END".ljust(_CARD)
_MOST_HEADERS = 8 << 20  # bytes of all headers
_MOST_UNITS = 10_000
_MOST_AXES = 999
_MOST_BYTES = 1 << 48  # of data: more is no file
BITPIX = (8, 16, 32, 64, -32, -64)


@dataclass(frozen=True)
class Unit:
    """One header and data unit: its cards, and the places of its bytes in the file.

    ``data`` is where the data begin, ``data_bytes`` what the header says they take, ``end`` where
    the next header begins: behind the padding, which the last unit may lack.
    """

    number: int
    cards: Any
    start: int
    data: int
    data_bytes: int
    end: int


@contextmanager
def quiet() -> Iterator[None]:
    """Without what astropy has to say of odd cards: they are kept as they are."""
    import warnings

    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def units_of(path: Path) -> list[Unit]:
    """Walk through a file, decompressed where its name ends in ``.gz``; no data are kept.

    What does not begin as a header behind the first unit belongs to no unit.

    Raises
    ------
    SourceError : kind ``"not-fits"``, ``"truncated"``, ``"damaged"``, ``"too-large"`` or
        ``"unreadable"``.
    """
    units: list[Unit] = []
    taken = start = 0
    with unpacking(path) as stream:
        while text := _header(stream, start, path, _MOST_HEADERS - taken):
            taken += len(text)
            if len(units) == _MOST_UNITS:
                raise _too_large(path, f"more than {_MOST_UNITS} header units")
            cards = _cards(text, path)
            size = _data_bytes(cards, path)
            data = start + len(text)
            _check_data(stream, data, size, path)
            end = stream.seek(data + size + -size % BLOCK)
            units.append(Unit(len(units), cards, start, data, size, end))
            start = end
    return units


def _header(stream: IO[bytes], start: int, path: Path, most: int) -> bytes:
    """All blocks of the header at ``start``; nothing where none begins there."""
    text = stream.read(BLOCK)
    first = b"SIMPLE  =" if start == 0 else b"XTENSION="
    if not text.startswith(first):
        if start:
            return b""
        raise SourceError(
            f"expected a FITS header, the file begins with {text[:9]!r}",
            kind="not-fits",
            path=path,
            hint="the file is not FITS, whatever its name says",
        )
    blocks = [text]
    while not _ends(blocks[-1]):
        if len(blocks) * BLOCK > most:
            raise _too_large(path, f"headers of more than {_MOST_HEADERS >> 20} MiB")
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise SourceError(
                "the file breaks off in a header",
                kind="truncated",
                path=path,
                hint="fetch it again from its source",
            )
        blocks.append(block)
    return b"".join(blocks)


def _ends(block: bytes) -> bool:
    return any(block[at : at + _CARD] == _END for at in range(0, BLOCK, _CARD))


def _cards(text: bytes, path: Path) -> Any:
    from astropy.io.fits import Header

    try:
        with quiet():
            return Header.fromstring(text)
    except (ValueError, UnicodeDecodeError) as error:
        raise SourceError("the header cannot be read", kind="damaged", path=path) from error


def value_of(cards: Any, key: str, default: Any = None) -> Any:
    """Value of a card; the default where there is none that can be read."""
    from astropy.io.fits import VerifyError

    try:
        with quiet():
            return cards.get(key, default)
    except (VerifyError, ValueError):
        return default


def whole_number(cards: Any, key: str, path: Path, least: int, most: int, default: Any) -> int:
    """A whole number from a header, within its limits.

    Raises
    ------
    SourceError : kind ``"damaged"``.
    """
    found = value_of(cards, key) if key in cards else default
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
        raise _bad_card(key, repr(found)[:40], path)
    return found


def _bad_card(key: str, found: str, path: Path) -> SourceError:
    return SourceError(
        f"expected a whole number that makes sense in {key}, found {found}",
        kind="damaged",
        path=path,
        hint="the header is damaged or hostile",
    )


def _data_bytes(cards: Any, path: Path) -> int:
    """Bytes of data that a header announces, without their padding."""
    bits = whole_number(cards, "BITPIX", path, -64, 64, None)
    if bits not in BITPIX:
        raise _bad_card("BITPIX", str(bits), path)
    axes = whole_number(cards, "NAXIS", path, 0, _MOST_AXES, None)
    sizes = [whole_number(cards, f"NAXIS{n + 1}", path, 0, 1 << 62, None) for n in range(axes)]
    groups = whole_number(cards, "GCOUNT", path, 0, 1 << 62, 1)
    beside = whole_number(cards, "PCOUNT", path, 0, 1 << 62, 0)
    if not axes:
        return 0
    if sizes[0] == 0 and value_of(cards, "GROUPS") is True:
        sizes = sizes[1:]
    return abs(bits) // 8 * groups * (beside + math.prod(sizes))


def _check_data(stream: IO[bytes], start: int, size: int, path: Path) -> None:
    """Make sure that the last byte of the data is there."""
    if not size:
        return
    if size < _MOST_BYTES:
        stream.seek(start + size - 1)
        if stream.read(1):
            return
    raise SourceError(
        f"expected {min(size, _MOST_BYTES)} bytes of data at offset {start}, the file ends before",
        kind="truncated",
        path=path,
        hint="the file is cut off, or its header is damaged; fetch it again from its source",
    )


def _too_large(path: Path, found: str) -> SourceError:
    return SourceError(
        f"expected a FITS file, found {found}",
        kind="too-large",
        path=path,
        hint="the file is damaged or hostile",
    )
