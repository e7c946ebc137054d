"""Files with keys: small, and where they are secret, readable by nobody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["read_key_file", "refuse_shared", "write_key_file"]

LARGEST = 1 << 20


def read_key_file(path: Path, *, secret: bool = False) -> bytes:
    """Bytes of a key or signature.

    Parameters
    ----------
    path : Path
    secret : bool
        Others must not be able to read it.

    Raises
    ------
    ParameterError : it cannot be read, or is too large (kind ``"no-key"``); others may read it
        (``"bad-key"``).
    """
    try:
        if secret:
            refuse_shared(path)
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise ParameterError(
            f"{str(path)!r} cannot be read ({error.strerror})", kind="no-key", hint="check the path"
        ) from error
    if len(data) > LARGEST:
        raise ParameterError(f"{str(path)!r} is no key: more than a mebibyte", kind="no-key")
    return data


def refuse_shared(path: Path) -> None:
    """Refuse a secret file that others may read or write (ParameterError, kind ``"bad-key"``)."""
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ParameterError(
            f"others may read or write {str(path)!r} (mode {stat.S_IMODE(mode):03o})",
            kind="bad-key",
            hint=f"it must be yours alone: chmod 600 {path}",
        )


def write_key_file(path: Path, data: bytes) -> None:
    """Write a new secret file that only its owner may read; it is on disk when this returns.

    Raises
    ------
    StorageError : kind ``"target-exists"``; a key is never replaced. ``"storage-failed"``.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise StorageError(
            f"{str(path)!r} exists already",
            kind="target-exists",
            hint="a key is never replaced; choose another name",
        ) from error
    except OSError as error:
        raise StorageError(
            f"{str(path)!r} cannot be written ({error.strerror})",
            kind="storage-failed",
            hint="check the rights and the free space",
        ) from error
