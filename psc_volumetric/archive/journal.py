"""What is known about finished bricks of an archive that is not sealed yet.

One small object per brick, so that several processes can write bricks at once. A brick counts as
finished when its journal entry is there and the brick's bytes have the recorded SHA-256; the
entry is written after the brick, so a process killed in between repeats that brick only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psc_volumetric.archive.documents import JournalDocument, decode
from psc_volumetric.archive.layout import PARTIAL_PREFIX
from psc_volumetric.archive.naming import node_path
from psc_volumetric.records import TileRecord

__all__ = ["BrickRecord", "journal_key", "preview_key"]


@dataclass(frozen=True)
class BrickRecord:
    """A finished brick.

    Attributes
    ----------
    position : tuple of int
        Chunk grid index.
    size, sha256
        Of the brick's bytes.
    head : str
        Digest of the brick's header, as the manifest has it.
    method : str
        Base method, layers and their coders, for example ``"none+lossless:context"``.
    prior : str or None
        First 32 hex digits of the prior's digest.
    level_nbytes : tuple of int
        Bytes of the brick needed up to each level.
    tiles : tuple of TileRecord
    coverage : tuple of (float, float, float)
        Share of voxels within 1, 2 and 3 sigma at each lossy level; empty where not measured.
    compared : mapping
        Method -> bytes at the same error, of every base that was coded near it.
    """

    position: tuple[int, ...]
    size: int
    sha256: str
    head: str
    method: str
    prior: str | None
    level_nbytes: tuple[int, ...]
    tiles: tuple[TileRecord, ...]
    coverage: tuple[tuple[float, float, float], ...] = ()
    compared: Mapping[str, int] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """JSON; floats keep every bit."""
        document = {
            "position": self.position,
            "size": self.size,
            "sha256": self.sha256,
            "head": self.head,
            "method": self.method,
            "prior": self.prior,
            "level_nbytes": self.level_nbytes,
            "coverage": self.coverage,
            "compared": dict(self.compared),
            "tiles": [
                [t.position, t.nbytes, _texts(t.mse), _texts(t.max_error), t.sha256]
                for t in self.tiles
            ],
        }
        return json.dumps(document, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> BrickRecord:
        """Inverse of :meth:`to_bytes`; FormatError when it is something else."""
        found = decode(data, JournalDocument, where=where, kind="journal-damaged")
        return cls(
            position=found.position,
            size=found.size,
            sha256=found.sha256,
            head=found.head,
            method=found.method,
            prior=found.prior,
            level_nbytes=found.level_nbytes,
            tiles=tuple(
                TileRecord(t.position, t.nbytes, _numbers(t.mse), _numbers(t.max_error), t.sha256)
                for t in found.tiles
            ),
            coverage=found.coverage,
            compared=found.compared,
        )


def _texts(values: Sequence[float]) -> list[float | str]:
    """JSON has no infinities and NaN; they are written as text."""
    return [value if math.isfinite(value) else str(value) for value in values]


def _numbers(values: Sequence[float | str]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def journal_key(variable: str, position: tuple[int, ...]) -> str:
    """Where the record of a brick is kept while the archive is not sealed."""
    return f"{PARTIAL_PREFIX}{node_path(variable)}/{'.'.join(map(str, position))}.json"


def preview_key(variable: str, position: tuple[int, ...]) -> str:
    """Where the low-resolution values of a brick are kept while the archive is not sealed."""
    return f"{PARTIAL_PREFIX}{node_path(variable)}/{'.'.join(map(str, position))}.preview"
