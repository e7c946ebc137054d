"""What goes wrong in the storage below, as errors of ours."""

from __future__ import annotations

import contextlib
import sys
import zipfile
import zlib
from collections.abc import Iterator

from psc_volumetric.errors import ChecksumError, StorageError

__all__ = ["failures", "storage_error", "translated"]


def failures() -> tuple[type[Exception], ...]:
    """OSError, and what network libraries raise beside it, of those that are loaded."""
    known = (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("aiohttp", "ClientError"),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("azure.core.exceptions", "AzureError"),
    )
    found = [getattr(sys.modules.get(module), name, None) for module, name in known]
    return (OSError, *(error for error in found if error is not None))


@contextlib.contextmanager
def translated(what: str, *, remote: bool = False) -> Iterator[None]:
    """Turn what storage raises into errors of ours; ``what`` is the place, for messages."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ChecksumError(
            f"{what}: the zip file is damaged here ({error})",
            kind="zip-damaged",
            hint="get another copy; `psc-archive verify` lists what is still good",
        ) from error
    except failures() as error:
        raise storage_error(what, error, remote=remote) from error


def storage_error(what: str, error: Exception, *, remote: bool) -> StorageError:
    """The error for a failure of the storage."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if remote and (isinstance(error, PermissionError) or "Credential" in type(error).__name__):
        return StorageError(
            f"{what}: the server does not allow it ({said})",
            kind="access-denied",
            hint="check the credentials and what they are allowed to do",
        )
    if remote and isinstance(error, FileNotFoundError):
        return StorageError(
            f"{what}: the bucket or folder does not exist ({said})",
            kind="not-found",
            hint="make the bucket first, or check its name",
        )
    return StorageError(
        f"{what}: the storage failed ({said})",
        kind="storage-failed",
        hint="check the path, the rights and the connection, then try again",
    )
