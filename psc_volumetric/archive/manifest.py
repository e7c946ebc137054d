"""Every key with size and SHA-256; its presence seals an archive. Part of the format (SPEC 11)."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msgspec import Struct

from psc_volumetric.archive.documents import MAX_MANIFEST, ManifestDocument, check_key, decode
from psc_volumetric.archive.layout import FORMAT, MANIFEST_KEY, encode_json
from psc_volumetric.bitstream.versions import check_version
from psc_volumetric.errors import ChecksumError

__all__ = ["DAMAGED", "Entry", "Manifest", "sha256_hex"]

DAMAGED = "manifest-damaged"


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Entry:
    """Size in bytes and SHA-256 (hex) of one stored object.

    ``head``, of bricks only: the first 32 hex digits of the SHA-256 of the brick's header. The
    header holds size and CRC of all that follows, so a ranged read that begins with it tells a
    brick from every other.
    """

    size: int
    sha256: str
    head: str | None = None

    def line(self, key: str) -> str:
        """What the manifest's digest covers."""
        head = "" if self.head is None else f"{self.head} "
        return f"{self.sha256} {self.size} {head}{key}\n"

    def to_dict(self) -> dict[str, int | str]:
        """As in ``manifest.json``."""
        head = {} if self.head is None else {"head": self.head}
        return {"size": self.size, "sha256": self.sha256, **head}


@dataclass(frozen=True)
class Manifest:
    """Key -> :class:`Entry` for everything in the archive except the manifest itself."""

    entries: Mapping[str, Entry]

    @property
    def digest(self) -> str:
        """SHA-256 over the entries: one line ``sha256 size [head] key`` each, sorted by key."""
        lines = (entry.line(key) for key, entry in sorted(self.entries.items()))
        return sha256_hex("".join(lines).encode())

    @property
    def size(self) -> int:
        """Bytes of all listed objects."""
        return sum(entry.size for entry in self.entries.values())

    def under(self, prefix: str) -> dict[str, Entry]:
        """Entries whose key begins with ``prefix``, sorted by key."""
        keys = self._sorted
        first = bisect_left(keys, prefix)
        last = bisect_left(keys, True, first, key=lambda key: not key.startswith(prefix))
        return {key: self.entries[key] for key in keys[first:last]}

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.entries)

    def chunks(self, path: str) -> list[int]:
        """Sizes of the chunks of an array; one without axes has its only one at ``<path>/c``."""
        single, several = f"{path}/c", f"{path}/c/"
        found = self.under(single).items()
        return [e.size for key, e in found if key == single or key.startswith(several)]

    def to_bytes(self) -> bytes:
        """The bytes of ``manifest.json``."""
        return encode_json(
            {
                "format": FORMAT,
                "digest": self.digest,
                "keys": {key: entry.to_dict() for key, entry in self.entries.items()},
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
        check_version(_format_of(data, where), where)
        found = decode(data, ManifestDocument, where=where, kind=DAMAGED, limit=MAX_MANIFEST)
        for key in found.keys:
            check_key(key, where=where)
        manifest = cls({key: Entry(e.size, e.sha256, e.head) for key, e in found.keys.items()})
        if manifest.digest != found.digest:
            raise ChecksumError(
                f"{where}: expected digest {found.digest!r}, found {manifest.digest!r}",
                kind=DAMAGED,
                hint="the manifest was changed; get it from another copy of the archive",
            )
        return manifest


class _Numbered(Struct):
    format: Any


def _format_of(data: bytes, where: str) -> object:
    return decode(data, _Numbered, where=where, kind=DAMAGED, limit=MAX_MANIFEST).format
