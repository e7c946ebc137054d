"""Files that ship inside the package and that it cannot work without: read whole, or refused."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from psc_volumetric.errors import InstallationError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["INSTALL_AGAIN", "broken", "shipped_bytes", "shipped_text"]

INSTALL_AGAIN = (
    "install psc-archive again (`pip install --force-reinstall --no-deps`), or take the file from "
    "the repository; `psc-archive doctor` says what else is missing"
)


def broken(message: str, *, kind: str = "installation") -> InstallationError:
    """The error of an installation that is not whole, with what mends it."""
    return InstallationError(message, hint=INSTALL_AGAIN, kind=kind)


def shipped_bytes(
    place: Traversable, *, sha256: str | None = None, kind: str = "installation"
) -> bytes:
    """Content of a file of the package.

    Parameters
    ----------
    place : path
        Where it is.
    sha256 : str, optional
        Digest in hex that its content must have.
    kind : str
        Of the error.

    Raises
    ------
    InstallationError : there is none, it cannot be read, or it is another.
    """
    whole = "" if sha256 is None else f" with SHA-256 {sha256}"
    expected = f"this installation: expected {place}{whole}, found"
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        raise broken(f"{expected} none", kind=kind) from None
    except OSError as error:
        raise broken(f"{expected} {error.strerror or error} there", kind=kind) from error
    found = hashlib.sha256(data).hexdigest() if sha256 is not None else None
    if found != sha256:
        raise broken(f"{expected} {len(data)} bytes with {found}", kind=kind)
    return data


def shipped_text(place: Traversable) -> str:
    """Content of a text of the package; errors as of `shipped_bytes`."""
    try:
        return shipped_bytes(place).decode("utf-8")
    except UnicodeDecodeError as error:
        raise broken(f"this installation: expected a text in {place}, found {error}") from error
