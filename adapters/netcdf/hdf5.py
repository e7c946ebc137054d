"""What an HDF5 file holds, seen without the NetCDF library: before it opens the file, and beyond.

The NetCDF library crashes on some types, follows links for ever and shows only part of what HDF5
can hold. `inspect` walks the file with h5py, reads no values, and follows no link out of it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapters.errors import SourceError

__all__ = ["Inspection", "in_words", "inspect", "is_hdf5"]

_PLAIN_NUMBER = re.compile(r"[iuf][1248]")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MOST_OBJECTS = 100_000
_LEAST_ALLOWED = 1 << 30  # bytes a file may always declare
_PER_STORED = 1100  # declared bytes per byte of the file: more than deflate can reach
# Attributes by which the NetCDF library keeps its own books.
_BOOKS = frozenset(
    {
        "CLASS",
        "NAME",
        "DIMENSION_LIST",
        "REFERENCE_LIST",
        "DIMENSION_LABELS",
        "_NCProperties",
        "_Netcdf4Dimid",
        "_Netcdf4Coordinates",
        "_nc3_strict",
        "_NCCOORDINATES",
        "_NCDIMID",
    }
)


@dataclass
class Inspection:
    """What was found.

    Attributes
    ----------
    perilous : list of str
        Why the NetCDF library must not open the file, in words; empty when it may.
    hidden : list of str
        What the NetCDF library does not show, or cannot write again, in words.
    texts : dict
        ``(path, attribute)`` -> whether it is a variable-length string (NC_STRING).
    record : list
        JSON-able list of all that is hidden and of types, for comparing two files.
    kinds : dict
        Path of each array that is not a bare dimension -> its type in words.
    fills : dict
        Path of each array of numbers -> what was never written reads as, little-endian hex.
    declared : dict
        Path of each array -> bytes it declares.
    """

    perilous: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    texts: dict[tuple[str, str], bool] = field(default_factory=dict)
    record: list[list[Any]] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)
    fills: dict[str, str] = field(default_factory=dict)
    declared: dict[str, int] = field(default_factory=dict)


def in_words(reasons: Sequence[str]) -> str:
    """Join reasons to one text; the first three, and how many more."""
    different = list(dict.fromkeys(reasons))
    more = len(different) - 3
    return "; ".join(different[:3]) + (f"; and {more} more" if more > 0 else "")


def is_hdf5(path: Path) -> bool:
    """Whether a file has HDF5's signature, also behind a user block."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        offset = 0
        while offset + len(_SIGNATURE) <= size:
            stream.seek(offset)
            if stream.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            offset = max(512, 2 * offset)
    return False


def inspect(path: Path) -> Inspection:
    """Walk an HDF5 file.

    Raises
    ------
    SourceError : kind ``"damaged"``; ``"too-large"`` when arrays declare more than the file could
        hold.
    """
    import h5py

    found = Inspection()
    try:
        with h5py.File(path, "r") as file:
            if file.userblock_size:
                found.hidden.append(f"a user block of {file.userblock_size} bytes")
                with path.open("rb") as stream:
                    block = stream.read(file.userblock_size)
                found.record.append(["/", "user block", hashlib.sha256(block).hexdigest()])
            _Walk(found).group(file, "/", ())
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise SourceError(
            f"the HDF5 file is cut off or damaged ({type(error).__name__})",
            kind="damaged",
            path=path,
        ) from error
    _check_declared(found, path)
    return found


def _check_declared(found: Inspection, path: Path) -> None:
    allowed = _LEAST_ALLOWED + _PER_STORED * path.stat().st_size
    if sum(found.declared.values()) > allowed:
        name = max(found.declared, key=lambda key: found.declared[key])
        raise SourceError(
            f"its arrays declare {sum(found.declared.values())} bytes, {name!r} alone "
            f"{found.declared[name]}, which {path.stat().st_size} bytes cannot hold; expected at "
            f"most {allowed}",
            kind="too-large",
            path=path,
            hint="the file is damaged, hostile, or nearly empty: leave such variables out",
        )


class _Walk:
    """One walk; ``seen`` are the addresses of objects, so that nothing is walked twice."""

    def __init__(self, found: Inspection) -> None:
        self._found = found
        self._seen: dict[Any, str] = {}

    def group(self, group: Any, path: str, above: tuple[Any, ...]) -> None:
        """Look at a group and all below it."""
        import h5py

        key = _identity(group)
        self._seen[key] = path
        self._attributes(group, path)
        for name in group:
            # A variable named like an axis that it does not run along has another name in HDF5.
            shown = name.removeprefix("_nc4_non_coord_")
            where = f"{path.rstrip('/')}/{shown}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                self._found.perilous.append(f"{where!r} is a link to another file")
                self._note(where, "external link", [link.filename, link.path])
                continue
            if isinstance(link, h5py.SoftLink):
                self._soft(group, where, link)
                continue
            item = group.get(name)
            if item is None:
                self._note(where, "unknown object", None)
                self._found.perilous.append(f"{where!r} is of a kind that cannot be read")
                continue
            self._item(item, where, (*above, key))

    def _soft(self, group: Any, where: str, link: Any) -> None:
        try:
            target = group.file[link.path] if link.path.startswith("/") else group[link.path]
        except (KeyError, OSError, RuntimeError, ValueError):
            target = None
        if hasattr(target, "keys"):
            # The library would walk the group again, and for ever when it leads back.
            self._found.perilous.append(f"{where!r} is a link to another group")
        self._found.hidden.append(f"{where!r} is a soft link")
        self._note(where, "soft link", link.path)

    def _item(self, item: Any, where: str, above: tuple[Any, ...]) -> None:
        import h5py

        if len(self._seen) > _MOST_OBJECTS:
            raise ValueError(f"more than {_MOST_OBJECTS} objects")
        key = _identity(item)
        if key in self._seen:
            if isinstance(item, h5py.Group):
                self._found.perilous.append(f"{where!r} is a second link to {self._seen[key]!r}")
            self._found.hidden.append(f"{where!r} is the same object as {self._seen[key]!r}")
            self._note(where, "hard link", self._seen[key])
            return
        if isinstance(item, h5py.Group):
            self.group(item, where, above)
            return
        self._seen[key] = where
        if isinstance(item, h5py.Dataset):
            self._dataset(item, where)
        elif _is_perilous(kind := _kind_of(item.id)):
            self._found.perilous.append(f"{where!r} is a type of its own: {kind}")
        self._attributes(item, where)

    def _dataset(self, item: Any, where: str) -> None:
        kind = _kind_of(item.id.get_type())
        width = item.id.get_type().get_size()
        self._found.declared[where] = math.prod(item.shape or (0,)) * width
        self._found.declared[f"{where} (one chunk)"] = math.prod(item.chunks or (0,)) * width
        if item.is_virtual or item.external:
            self._found.perilous.append(f"{where!r} takes its values from other files")
        elif item.shape is None:
            self._found.perilous.append(f"{where!r} has no values and no shape")
        elif _is_perilous(kind):
            self._found.perilous.append(f"{where!r} has values of type {kind}")
        elif not _is_dimension_only(item):
            self._found.kinds[where] = kind
            self._note(where, "array", kind)
            if _PLAIN_NUMBER.fullmatch(kind):
                fill = np.asarray(item.fillvalue)
                little = fill.astype(fill.dtype.newbyteorder("<"))
                self._found.fills[where] = little.tobytes().hex()

    def _attributes(self, holder: Any, path: str) -> None:
        for name in holder.attrs:
            if name in _BOOKS and not _is_users(holder, name):
                continue
            attribute = holder.attrs.get_id(name)
            kind = _kind_of(attribute.get_type())
            empty = attribute.get_space().get_simple_extent_type() == _null_space()
            shape = [] if empty else list(attribute.shape)
            if kind.startswith("text"):
                self._found.texts[path, name] = kind == "text"
            if len(shape) > 1:
                self._found.perilous.append(f"attribute {name!r} of {path!r} is a table")
            elif not (kind.startswith("text") or _PLAIN_NUMBER.fullmatch(kind)):
                self._found.hidden.append(
                    f"attribute {name!r} of {path!r} is of type {kind}, shape {tuple(shape)}"
                )
                self._note(path, "attribute", [name, kind, shape, _digest(attribute)])

    def _note(self, path: str, what: str, value: Any) -> None:
        self._found.record.append([path, what, value])


def _identity(item: Any) -> Any:
    import h5py

    info = h5py.h5o.get_info(item.id)
    return (info.fileno, info.addr)


def _kind_of(low: Any) -> str:
    """Name an HDF5 type: ``f4``, ``i2``, ``text`` (of any length), ``text of 3 bytes``, others."""
    from h5py import h5t

    names = {
        h5t.ENUM: "enumeration",
        h5t.OPAQUE: "opaque",
        h5t.REFERENCE: "reference",
        h5t.ARRAY: "array",
        h5t.BITFIELD: "bit field",
        h5t.VLEN: "list of any length",
        h5t.TIME: "time",
    }
    number, size = low.get_class(), low.get_size()
    if number == h5t.STRING:
        return "text" if low.is_variable_str() else f"text of {size} bytes"
    if number == h5t.FLOAT:
        return f"f{size}" if size in (4, 8) else f"half or other float of {size} bytes"
    if number == h5t.INTEGER:
        return f"{'u' if low.get_sign() == h5t.SGN_NONE else 'i'}{size}"
    if number == h5t.COMPOUND:
        inner = [low.get_member_type(i) for i in range(low.get_nmembers())]
        inner = [part.get_super() if part.get_class() == h5t.ARRAY else part for part in inner]
        nested = any(part.get_class() == h5t.COMPOUND for part in inner)
        odd = any(_kind_of(part).startswith("half") for part in inner)
        return "nested compound" if nested else "half in a compound" if odd else "compound"
    return names.get(number, f"class {number}")


def _is_perilous(kind: str) -> bool:
    """Whether the NetCDF library crashes on a type."""
    return kind.startswith("half") or kind == "nested compound"


def _null_space() -> int:
    from h5py import h5s

    return int(h5s.NULL)


def _digest(attribute: Any) -> str:
    """SHA-256 of an attribute's bytes; of nothing where they are addresses in the file."""
    from h5py import h5t

    kind = attribute.get_type()
    if kind.get_class() in (h5t.REFERENCE, h5t.VLEN) or kind.detect_class(h5t.VLEN):
        return ""
    if kind.detect_class(h5t.REFERENCE) or attribute.get_space().get_select_npoints() == 0:
        return ""
    data = np.empty(attribute.get_space().get_select_npoints(), f"V{kind.get_size()}")
    attribute.read(data, mtype=kind)
    return hashlib.sha256(data.tobytes()).hexdigest()


def _is_users(holder: Any, name: str) -> bool:
    """Whether ``NAME`` or ``CLASS`` is the user's own: the array is no dimension scale."""
    import h5py

    if name not in ("NAME", "CLASS") or not isinstance(holder, h5py.Dataset):
        return False
    return not h5py.h5ds.is_scale(holder.id)


def _is_dimension_only(item: Any) -> bool:
    name = item.attrs.get("NAME", b"")
    return isinstance(name, bytes) and name.startswith(b"This is a netCDF dimension but not")
