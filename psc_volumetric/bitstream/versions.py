"""The format number, and what to say of another one. Part of the format (SPEC section 3)."""

from __future__ import annotations

from psc_volumetric.bitstream.constants import FORMAT_VERSION
from psc_volumetric.errors import UnsupportedVersionError

__all__ = ["check_version"]

# Numbers that this package no longer reads -> the last release that does.
LAST_RELEASES = {0: "0.1"}


def check_version(number: object, where: str) -> None:
    """Refuse a format number that this reader does not know (UnsupportedVersionError)."""
    if number == FORMAT_VERSION and not isinstance(number, bool):
        return
    hint = "it is damaged, or no archive of psc-archive"
    if isinstance(number, int) and not isinstance(number, bool):
        if number > FORMAT_VERSION:
            hint = "use the release named in the archive's README.txt, or a later one"
        elif number in LAST_RELEASES:
            release = LAST_RELEASES[number]
            hint = f"format {number} is read by psc-archive {release}: restore with that, then "
            hint += "archive the files anew"
    raise UnsupportedVersionError(
        f"{where}: this reader knows format {FORMAT_VERSION}, found {repr(number)[:80]}",
        kind="unsupported-version",
        hint=hint,
    )
