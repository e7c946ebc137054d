"""The one strict decoder of the JSON documents in an archive.

SPEC section 11.1. A document is bounded in bytes and depth before it is parsed, and has exactly
the types its structure says before anything is taken from it. Whatever is wrong is a
:class:`FormatError` that names the object and the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError, LimitExceededError

__all__ = [
    "MAX_DEPTH",
    "MAX_DOCUMENT",
    "MAX_MANIFEST",
    "ArrayNode",
    "BrickNote",
    "Head",
    "JournalDocument",
    "ManifestDocument",
    "Node",
    "OwnArray",
    "PlainNode",
    "RootDocument",
    "SourceDocument",
    "check_key",
    "chunk_shape",
    "convert",
    "decode",
    "grid_shape",
]

MAX_DEPTH = 64  # objects and arrays inside each other
MAX_DOCUMENT = 64 << 20  # bytes of a metadata document
MAX_MANIFEST = 512 << 20  # bytes of the manifest, and of a source document
MAX_KEY = 8192  # bytes of a key

T = TypeVar("T")

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)  # possessive: no memory for each byte

Count = Annotated[int, Meta(ge=0, le=1 << 60)]
Extent = Annotated[int, Meta(ge=1, le=1 << 48)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, Meta(max_length=4096)]
Triple = tuple[Extent, Extent, Extent]
Mode = Literal["lossless", "bounded", "lossy"]


class Listed(Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest says about one object; ``head`` only of bricks."""

    size: Count
    sha256: Sha256
    head: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None = None


class ManifestDocument(Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json``."""

    format: int
    digest: Sha256
    keys: dict[str, Listed]


class SourceFiles(Struct, frozen=True):
    """The source files together: how many, their bytes, and one digest (`source_digest`)."""

    files: Count = 0
    bytes: Count = 0
    sha256: str | None = None


class KeptEntry(Struct, frozen=True):
    """A variable whose values are in kept originals (SPEC 11.14)."""

    name: Text
    node: dict[str, Any]
    decoder: Text
    places: list[tuple[Text, Count]]
    samples: Literal["first", "last"] | None = None


class RootDocument(Struct, frozen=True):
    """``attributes.psc_archive`` of the root group; other fields are kept as they are."""

    format: int
    mode: Mode
    variables: list[Text] = []
    created: str | None = None
    coordinates: list[Text] = []
    arrays: list[Text] = []
    groups: list[Text] = []
    kept: list[KeptEntry] = []
    source: SourceFiles = SourceFiles()
    priors: list[str] = []
    provenance: dict[str, Any] = {}


class Node(Struct, frozen=True):
    """``zarr.json`` of a group."""

    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: dict[str, Any] = {}


class Named(Struct, frozen=True, forbid_unknown_fields=True):
    """A Zarr extension: name and configuration."""

    name: Text
    configuration: dict[str, Any] = {}


class Array(Struct, frozen=True):
    """What all arrays of an archive have in common."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=1 << 48)]], Meta(max_length=32)]
    chunk_grid: Named
    chunk_key_encoding: Named
    codecs: list[Named]
    dimension_names: list[Text | None] = []
    attributes: dict[str, Any] = {}
    storage_transformers: Annotated[list[Any], Meta(max_length=0)] = []


class OwnArray(Struct, frozen=True):
    """``attributes.psc_archive`` of a variable; other fields are kept as they are."""

    brick_shape: Triple
    tile_shape: Triple
    parameters: dict[str, Any]
    unit: str | None = None
    slope: float | None = None
    intercept: float | None = None
    affine: list[list[float | str]] | None = None
    spacing_mm: tuple[float | str, float | str, float | str] | None = None
    special_values: Annotated[list[int | float | str], Meta(max_length=64)] = []
    prior: Sha256 | None = None
    raw_dtype: Text | None = None
    coordinates: list[Text] = []


class ArrayNode(Array, frozen=True):
    """``zarr.json`` of a variable."""

    data_type: Text = ""


class PlainNode(Array, frozen=True):
    """``zarr.json`` of a plain array."""

    data_type: Text | Named = ""


class TableHead(Struct, frozen=True):
    """The JSON of a piece of ``tiles/<variable>``."""

    levels: Annotated[int, Meta(ge=1, le=1 << 16)]
    codes: dict[Text, int]
    bases: list[Text] = []


class Blob(Struct, frozen=True, array_like=True):
    """Name, offset and size of one blob."""

    name: str
    offset: Count
    size: Count


class FileEntry(Struct, frozen=True):
    """A source file."""

    name: str
    size: Count
    sha256: str


class SourceDocument(Struct, frozen=True):
    """``source/document``."""

    kind: Text
    document: dict[str, Any]
    files: list[FileEntry]
    blobs: list[Blob]


class Head(Struct, frozen=True):
    """``partial.json`` of an archive that is not sealed; other fields belong to its writer."""

    format: int
    identity: Sha256
    created: str | None
    mode: Mode
    variables: dict[str, dict[str, Any]]
    beside: list[str] = []
    outside: list[str] = []


class BrickNote(Struct, frozen=True, array_like=True):
    """One tile in a journal entry."""

    position: tuple[int, int, int]
    nbytes: tuple[Count, ...]
    mse: tuple[float | str, ...]
    max_error: tuple[float | str, ...]
    sha256: Sha256


class JournalDocument(Struct, frozen=True):
    """A journal entry."""

    position: tuple[Count, ...]
    size: Count
    sha256: Sha256
    head: str
    method: str
    level_nbytes: tuple[Count, ...]
    tiles: tuple[BrickNote, ...]
    coverage: tuple[tuple[float, float, float], ...]
    compared: dict[Text, Count] = {}
    prior: str | None = None


def decode(
    data: bytes,
    kind_of: type[T],
    *,
    where: str,
    kind: str = "bad-metadata",
    limit: int = MAX_DOCUMENT,
) -> T:
    """Parse one document.

    Parameters
    ----------
    data : bytes
    kind_of : type
        What it has to be; ``dict`` for any JSON object.
    where : str
        Archive and key, for messages.
    kind : str
        Of the error.
    limit : int
        Bytes that are looked at, at most.

    Raises
    ------
    FormatError : not JSON, or not of this structure; LimitExceededError when too large or deep.
    """
    if len(data) > limit:
        raise LimitExceededError(
            f"{where}: {len(data)} bytes, at most {limit} are read", kind="limit"
        )
    if _depth(data) > MAX_DEPTH:
        raise LimitExceededError(
            f"{where}: nested deeper than {MAX_DEPTH}",
            kind="limit",
            hint="the document is damaged or was made to do harm",
        )
    try:
        return msgspec.json.decode(data, type=kind_of)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise _refused(where, error, kind) from error


def convert(value: Any, kind_of: type[T], *, where: str, kind: str = "bad-metadata") -> T:
    """The same check for what is already parsed."""
    try:
        return msgspec.convert(value, type=kind_of)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise _refused(where, error, kind) from error


def check_key(key: str, *, where: str) -> None:
    """Refuse a key that could name something outside the archive, or nothing at all."""
    parts = key.split("/")
    bad = any(part in ("", ".", "..") for part in parts) or "\0" in key or "\\" in key
    if bad or len(key.encode(errors="surrogatepass")) > MAX_KEY:
        raise FormatError(
            f"{where}: {key[:200]!r} cannot be a key of an archive",
            kind="bad-key",
            hint="the manifest is damaged or was made to do harm",
        )


def _depth(data: bytes) -> int:
    """Deepest nesting of brackets outside strings."""
    bare: NDArray[np.uint8] = np.frombuffer(_STRINGS.sub(b"", data), np.uint8)
    bare = np.bitwise_or(bare, np.uint8(0x20))  # brackets become braces
    marks = bare[(bare == ord("{")) | (bare == ord("}"))]
    steps = np.where(marks == ord("{"), 1, -1)
    return int(np.cumsum(steps).max(initial=0))


def _refused(where: str, error: Exception, kind: str) -> FormatError:
    return FormatError(
        f"{where}: cannot be used ({error})",
        kind=kind,
        hint="it is damaged, or of another format; `psc-archive verify` lists all that is wrong",
    )


def grid_shape(node: Array) -> tuple[int, ...]:
    """Chunks per axis."""
    return tuple(-(-n // part) for n, part in zip(node.shape, chunk_shape(node), strict=True))


def chunk_shape(node: Array) -> tuple[int, ...]:
    """Chunk of a regular grid (FormatError for any other)."""
    found: Mapping[str, Any] = node.chunk_grid.configuration
    shape = convert(found.get("chunk_shape"), list[Extent], where="chunk grid")
    if node.chunk_grid.name != "regular" or len(shape) != len(node.shape):
        raise FormatError(
            f"chunk grid {node.chunk_grid.name!r} of {len(shape)} axes", kind="bad-metadata"
        )
    return tuple(shape)
