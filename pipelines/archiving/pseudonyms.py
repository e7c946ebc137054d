"""Names by a keyed hash, for archives whose own names and paths must not say who is in them.

A pseudonym is the HMAC-SHA256 of what identifies a source, under a key that the user keeps. Without
the key nobody can tell which name belongs to which source, not even by trying all paths or series
numbers there may be; with it, the same source has the same name in every run. The table beside the
key (``KEYFILE.table``) says which pseudonym stands for what, one JSON line each, appended and
synced before the archive is begun.

Only names change: what an archive keeps to restore its files still holds headers and file names,
see ``docs/privacy.md`` and `pipelines.archiving.strip`.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.key_files import refuse_shared
from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["Pseudonyms", "make_key", "read_table"]

TABLE_SUFFIX = ".table"
KEY_BYTES = 32
LONGEST_KEY = 4096
SHOWN_CHARACTERS = 20  # of 5 bits: 100 bits
PREFIX = "p-"


def make_key(path: Path) -> None:
    """Write a new key that only its owner may read.

    Raises
    ------
    StorageError : kind ``"target-exists"``; a key is never replaced, names would change.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise StorageError(
            f"{str(path)!r} exists already",
            kind="target-exists",
            hint="use it, or choose another name; another key gives other pseudonyms",
        ) from error
    with os.fdopen(handle, "wb") as stream:
        stream.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
        os.fsync(stream.fileno())
    _sync_folder(path)


@dataclass(frozen=True)
class Pseudonyms:
    """A key, and the table of the names made with it. Make one with :meth:`load`.

    Attributes
    ----------
    key : bytes
        At least 32 bytes; never shown.
    table : Path
    """

    key: bytes
    table: Path

    def __repr__(self) -> str:
        return f"Pseudonyms(table={str(self.table)!r})"

    @classmethod
    def load(cls, keyfile: Path) -> Pseudonyms:
        """Read a key file: any 32 to 4096 bytes, a line end at the end left out.

        Raises
        ------
        ParameterError : kind ``"bad-key"``: others may read the key or its table, it is too short
            or too long; ``"no-key"``: there is none.
        """
        table = keyfile.with_name(keyfile.name + TABLE_SUFFIX)
        try:
            refuse_shared(keyfile)
            if table.exists():
                refuse_shared(table)
            with keyfile.open("rb") as stream:
                key = stream.read(LONGEST_KEY + 2).rstrip(b"\r\n")
        except OSError as error:
            raise ParameterError(
                f"the key of pseudonyms {str(keyfile)!r} cannot be read ({error.strerror})",
                kind="no-key",
                hint=f"make one with `psc-archive pseudonyms make {keyfile}`",
            ) from error
        if not KEY_BYTES <= len(key) <= LONGEST_KEY:
            raise ParameterError(
                f"expected {KEY_BYTES} to {LONGEST_KEY} bytes in the key {str(keyfile)!r}, found "
                f"{len(key) if len(key) <= LONGEST_KEY else 'more'}",
                kind="bad-key",
                hint="make one with `psc-archive pseudonyms make KEYFILE`",
            )
        return cls(key, table)

    def name(self, identity: str) -> str:
        """Pseudonym of what identifies a source: its relative path, or its series.

        Returns
        -------
        str
            ``p-`` and 20 letters and digits, 100 bits of the HMAC; the same for the same key.
        """
        digest = hmac.new(self.key, identity.encode("utf-8", "surrogateescape"), hashlib.sha256)
        text = base64.b32encode(digest.digest()).decode("ascii").lower()
        return PREFIX + text[:SHOWN_CHARACTERS]

    def assign(self, identity: str) -> str:
        """Give the pseudonym and have the table remember it, on disk when this returns.

        Raises
        ------
        StorageError : kind ``"storage-failed"``: the table cannot be written; ``"name-taken"``:
            the table has this pseudonym for something else.
        """
        name = self.name(identity)
        row = {"pseudonym": name, "source": identity}
        try:
            handle = os.open(self.table, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "r+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)  # released with the handle
                known = dict(_rows(stream.read(), self.table))
                if name not in known:
                    _append(stream.fileno(), row, torn=_is_torn(stream.fileno()))
                    _sync_folder(self.table)
        except OSError as error:
            raise StorageError(
                f"the table of pseudonyms {str(self.table)!r} cannot be written ({error.strerror})",
                kind="storage-failed",
                hint="without it nobody could tell later what a pseudonym stands for",
            ) from error
        if known.get(name, identity) != identity:
            raise StorageError(
                f"the table {str(self.table)!r} has {name!r} for another source",
                kind="name-taken",
                hint="the table was changed by hand, or belongs to another key",
            )
        return name


def read_table(keyfile: Path) -> dict[str, str]:
    """Pseudonym -> source, all that was ever named with this key.

    Raises
    ------
    ParameterError : as for `Pseudonyms.load`.
    StorageError : kind ``"table-damaged"``.
    """
    table = Pseudonyms.load(keyfile).table
    return dict(_rows(table.read_bytes(), table)) if table.exists() else {}


def _rows(data: bytes, table: Path) -> Iterator[tuple[str, str]]:
    """Rows of a table; a last line that a full disk or a power cut tore is no row."""
    for number, line in enumerate(data.split(b"\n")[:-1]):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield str(row["pseudonym"]), str(row["source"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StorageError(
                f"the table of pseudonyms {str(table)!r} cannot be read in line {number + 1}",
                kind="table-damaged",
                hint="take that line out; names are made from the key and do not change",
            ) from error


def _is_torn(handle: int) -> bool:
    """Whether the last line has no end."""
    size = os.fstat(handle).st_size
    return size > 0 and os.pread(handle, 1, size - 1) != b"\n"


def _append(handle: int, row: dict[str, str], *, torn: bool) -> None:
    """Write a row; what a torn line held is cut off, its name is made again when it is needed."""
    if torn:
        data = os.pread(handle, os.fstat(handle).st_size, 0)
        os.ftruncate(handle, data.rfind(b"\n") + 1)
    os.write(handle, json.dumps(row).encode() + b"\n")
    os.fsync(handle)


def _sync_folder(path: Path) -> None:
    """Have the folder's entry of this file on disk."""
    handle = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
