"""Values on their way between the two processes: JSON, and the large parts as plain bytes.

No pickle: the child reads hostile files, so what comes from it is data and never code. Besides
JSON's own types there are tuples, paths, bytes, arrays and the record classes listed here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from multiprocessing.connection import Connection
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np

from adapters.base import (
    Candidate,
    Coordinate,
    Discovery,
    FileRecord,
    Promise,
    RestoreInfo,
    SideArray,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
)
from adapters.kept import Kept

__all__ = ["WireError", "receive", "register", "send"]

_TAG = "$"
_LARGEST_TEXT = 256 << 20
_RECORDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Candidate,
        Coordinate,
        Discovery,
        FileRecord,
        Kept,
        Promise,
        RestoreInfo,
        SideArray,
        Skipped,
        SourceItem,
        Volume,
        WrittenFile,
    )
}


class WireError(Exception):
    """The other side sent something that is no message."""


def register(kind: type[Any]) -> type[Any]:
    """Let another frozen dataclass cross; a decorator."""
    _RECORDS[kind.__name__] = kind
    return kind


def send(connection: Connection, value: Any) -> None:
    """Send one value: a JSON text, then each large part.

    Raises
    ------
    TypeError : a value of a class that is not meant to cross.
    OSError : the other side is gone.
    """
    parts: list[memoryview] = []
    text = json.dumps(_plain(value, parts)).encode()
    sizes = json.dumps([len(text), *(part.nbytes for part in parts)]).encode()
    connection.send_bytes(sizes)
    connection.send_bytes(text)
    for part in parts:
        if part.nbytes:
            connection.send_bytes(part)


def receive(connection: Connection, limit: int) -> Any:
    """Receive one value.

    Parameters
    ----------
    connection : Connection
    limit : int
        Largest sum of the sizes of its parts, in bytes.

    Raises
    ------
    WireError : it is no message, or a larger one.
    EOFError, OSError : the other side is gone.
    """
    try:
        length, *sizes = json.loads(connection.recv_bytes(1 << 20))
        if not 0 < length <= _LARGEST_TEXT or sum(sizes) > limit or min(sizes, default=0) < 0:
            raise WireError(f"a message of {length} + {sum(sizes)} bytes")
        document = json.loads(connection.recv_bytes(length))
        parts = []
        for size in sizes:
            part = np.empty(size, np.uint8)
            if size and connection.recv_bytes_into(part.data) != size:
                raise WireError("a part of another size than announced")
            parts.append(part)
        return _value(document, parts)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise WireError(f"not a message ({type(error).__name__})") from error


def _plain(value: Any, parts: list[memoryview]) -> Any:
    """JSON for a value; bytes and arrays are put into ``parts``."""
    if isinstance(value, (np.ndarray, np.generic)):  # first: some NumPy numbers are floats, too
        scalar = isinstance(value, np.generic)
        array = _plain_array(np.asarray(value), parts)
        return {_TAG: "scalar", "of": array} if scalar else array
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_plain(entry, parts) for entry in value]
    if isinstance(value, dict):
        pairs = [[_plain(key, parts), _plain(entry, parts)] for key, entry in value.items()]
        return {_TAG: "dict", "of": pairs}
    if isinstance(value, tuple):
        return {_TAG: "tuple", "of": [_plain(entry, parts) for entry in value]}
    if isinstance(value, PurePath):
        tag = "path" if isinstance(value, Path) else "place"
        return {_TAG: tag, "of": str(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        parts.append(memoryview(value).cast("B"))
        return {_TAG: "bytes", "of": len(parts) - 1}
    name = type(value).__name__
    if _RECORDS.get(name) is not type(value):
        raise TypeError(f"a {name} cannot cross to another process")
    content = [_plain(getattr(value, field.name), parts) for field in fields(value)]
    return {_TAG: name, "of": content}


def _plain_array(array: Any, parts: list[memoryview]) -> dict[str, Any]:
    shape = list(array.shape)
    if array.dtype.kind in "OU":
        texts = [None if text is None else str(text) for text in array.ravel().tolist()]
        return {_TAG: "texts", "of": texts, "shape": shape, "dtype": array.dtype.str}
    parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {_TAG: "array", "of": len(parts) - 1, "shape": shape, "dtype": array.dtype.str}


def _value(document: Any, parts: list[Any]) -> Any:
    """Inverse of `_plain`."""
    if isinstance(document, list):
        return [_value(entry, parts) for entry in document]
    if not isinstance(document, dict):
        return document
    tag, content = document[_TAG], document["of"]
    simple: dict[str, Callable[[], Any]] = {
        "dict": lambda: {_value(key, parts): _value(entry, parts) for key, entry in content},
        "tuple": lambda: tuple(_value(entry, parts) for entry in content),
        "path": lambda: Path(content),
        "place": lambda: PurePosixPath(content),
        "bytes": lambda: parts[content].tobytes(),
        "array": lambda: parts[content].view(document["dtype"]).reshape(document["shape"]),
        "scalar": lambda: _value(content, parts)[()],
        "texts": lambda: np.array(content, document["dtype"]).reshape(document["shape"]),
    }
    if tag in simple:
        return simple[tag]()
    kind = _RECORDS[tag]
    return kind(*(_value(entry, parts) for entry in content))
