"""Every key with size and SHA-256; its presence seals an archive. Part of the format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from psc_volumetric.archive.layout import FORMAT, MANIFEST_KEY, encode_json
from psc_volumetric.errors import ChecksumError, FormatError, UnsupportedVersionError

__all__ = ["Entry", "Manifest", "check_format", "sha256_hex"]


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def check_format(number: object, where: str) -> None:
    """Refuse a format number this reader does not know (UnsupportedVersionError)."""
    if number != FORMAT or isinstance(number, bool):
        raise UnsupportedVersionError(
            f"{where}: this reader knows archive format {FORMAT}, found {number!r}",
            kind="unsupported-version",
            hint="use the psc-archive release named in the archive's README.txt",
        )


@dataclass(frozen=True)
class Entry:
    """Size in bytes and SHA-256 (hex) of one stored object."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Key -> :class:`Entry` for everything in the archive except the manifest itself."""

    entries: Mapping[str, Entry]

    @property
    def digest(self) -> str:
        """SHA-256 over the entries: one line ``sha256 size key`` each, sorted by key."""
        lines = (f"{e.sha256} {e.size} {key}\n" for key, e in sorted(self.entries.items()))
        return sha256_hex("".join(lines).encode())

    @property
    def size(self) -> int:
        """Bytes of all listed objects."""
        return sum(entry.size for entry in self.entries.values())

    def under(self, prefix: str) -> dict[str, Entry]:
        """Entries whose key begins with ``prefix``."""
        return {key: entry for key, entry in self.entries.items() if key.startswith(prefix)}

    def to_bytes(self) -> bytes:
        """The bytes of ``manifest.json``."""
        return encode_json(
            {
                "format": FORMAT,
                "digest": self.digest,
                "keys": {
                    key: {"size": e.size, "sha256": e.sha256} for key, e in self.entries.items()
                },
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Manifest:
        """Parse and check ``manifest.json``.

        Raises
        ------
        UnsupportedVersionError
            Another format number.
        FormatError
            Not a manifest; ChecksumError when its own digest disagrees.
        """
        where = f"{where}: {MANIFEST_KEY}"
        try:
            document = json.loads(data)
            number = document["format"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _damaged(where, error) from error
        check_format(number, where)
        try:
            entries = {
                str(key): Entry(int(item["size"]), str(item["sha256"]))
                for key, item in document["keys"].items()
            }
            manifest = cls(entries)
            stored, found = document["digest"], manifest.digest  # keys may hold no UTF-8
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise _damaged(where, error) from error
        if found != stored:
            raise ChecksumError(
                f"{where}: expected digest {stored!r}, found {found!r}",
                kind="manifest-damaged",
                hint="the manifest was changed; get it from another copy of the archive",
            )
        return manifest


def _damaged(where: str, error: Exception) -> FormatError:
    return FormatError(
        f"{where}: cannot be read ({error!r})",
        kind="manifest-damaged",
        hint="the manifest is damaged; get it from another copy of the archive",
    )
