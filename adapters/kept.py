"""Files that an archive keeps as they are: their bytes, and where values lie in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Blocks", "Kept"]


class Blocks(Protocol):
    """A blob that is not in memory."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    def blocks(self) -> Iterator[bytes]:
        """All bytes, in order, as often as they are asked for."""


@dataclass(frozen=True)
class Kept:
    """How the values of a volume lie in files that are kept as they are.

    ``decoder`` is a word for what decodes a part of a file. ``places`` has a blob (``original/...``
    of `adapters.originals`, or one of the item's) and the number of a part in it for each entry of
    the axis before the last two, or one for all. ``samples`` says whether samples are the
    ``"first"`` or ``"last"`` axis of a part; they are the first one of the volume.
    """

    decoder: str
    samples: str | None
    places: tuple[tuple[str, int], ...]
