"""The format number, and what to say of another one. Part of the format (SPEC section 3)."""

from __future__ import annotations

from psc_volumetric.bitstream.constants import FORMAT_VERSION
from psc_volumetric.errors import FormatError, UnsupportedVersionError

__all__ = ["NEWER", "check_version"]

NEWER = "it needs a newer psc-archive: use the release named in the archive's README.txt, or later"

# Numbers that this package no longer reads -> the last release that does.
LAST_RELEASES = {0: "0.1"}


def check_version(number: object, where: str) -> None:
    """Refuse a format number that this reader does not know.

    Raises
    ------
    UnsupportedVersionError : another release reads it (kind ``"unsupported-version"``).
    FormatError : no release has such a number (kind ``"bad-version"``).
    """
    if number == FORMAT_VERSION and not isinstance(number, bool):
        return
    said = f"{where}: this reader knows format {FORMAT_VERSION}, found {repr(number)[:80]}"
    found = number if isinstance(number, int) and not isinstance(number, bool) else -1
    if found > FORMAT_VERSION:
        raise UnsupportedVersionError(said, kind="unsupported-version", hint=NEWER)
    if found in LAST_RELEASES:
        hint = f"format {found} is read by psc-archive {LAST_RELEASES[found]}: restore with that, "
        hint += "then archive the files anew"
        raise UnsupportedVersionError(said, kind="unsupported-version", hint=hint)
    hint = "it is damaged, or no archive of psc-archive"
    raise FormatError(said, kind="bad-version", hint=hint)
