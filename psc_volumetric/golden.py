"""Golden vectors on disk: a stream, what is known about it, and what must come out.

``conformance/vectors/v<format>/index.json`` lists every case; each has a folder with ``stream.bin``
and ``case.json``. Decoded arrays are kept as SHA-256 only. ``networks.json`` holds digests of the
integers each shipped prior and each primitive must give.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import FORMAT_VERSION
from psc_volumetric.shipped import broken, shipped_bytes

__all__ = [
    "CASE",
    "INDEX",
    "NETWORKS",
    "STREAM",
    "VECTORS",
    "Case",
    "array_digest",
    "known_networks",
    "load_case",
    "load_cases",
]

VECTORS = Path(__file__).resolve().parent / "conformance" / "vectors" / f"v{FORMAT_VERSION}"
INDEX, NETWORKS, STREAM, CASE = "index.json", "networks.json", "stream.bin", "case.json"
MISSING = "vector-missing"  # kind of the error


@dataclass(frozen=True)
class Case:
    """One golden vector.

    Attributes
    ----------
    name : str
        Folder name.
    stream : bytes
        A brick.
    document : dict
        Content of ``case.json``: ``covers`` (words), ``needs_prior``, and either ``levels`` (one
        ``{"values": sha256, "spread": sha256}`` per quality level) or ``kind`` (of the error).
    """

    name: str
    stream: bytes
    document: dict[str, Any]

    @property
    def kind(self) -> str | None:
        """Kind of the error a bad stream must give; None for a good stream."""
        kind: str | None = self.document.get("kind")
        return kind

    @property
    def needs_prior(self) -> bool:
        """Whether decoding runs a network."""
        return bool(self.document["needs_prior"])

    def read(self, offset: int, length: int) -> bytes:
        """Ranged read of the stream."""
        return self.stream[offset : offset + length]


def array_digest(values: NDArray[np.generic]) -> str:
    """SHA-256 of an array's bytes, C order, little-endian."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


def _document(path: Path) -> dict[str, Any]:
    data = shipped_bytes(path, kind=MISSING)
    try:
        document: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise broken(
            f"golden vectors: expected JSON in {path}, found {len(data)} bytes that do not parse "
            f"({error})",
            kind=MISSING,
        ) from error
    return document


def load_case(name: str, folder: Path = VECTORS) -> Case:
    """Read one case; InstallationError kind ``vector-missing`` when a file is not there or cut."""
    document = _document(folder / name / CASE)
    return Case(name, shipped_bytes(folder / name / STREAM, kind=MISSING), document)


def load_cases(folder: Path = VECTORS) -> tuple[Case, ...]:
    """Read every case of the index, in its order."""
    names = _document(folder / INDEX)["cases"]
    return tuple(load_case(name, folder) for name in names)


@functools.cache
def known_networks(folder: Path = VECTORS) -> dict[str, Any]:
    """Content of ``networks.json``: ``primitives``, and the networks of every kind of prior."""
    return _document(folder / NETWORKS)
