"""Archives that a server lets people look at: one, or those of a folder or bucket, and no other."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.checking.catalogue import catalogue
from pipelines.collection import archives_at, folder_of
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.archive.salvage import Salvage
from psc_volumetric.archive.stores import target_text
from psc_volumetric.errors import ParameterError

__all__ = ["Shelf", "Shown"]

KEPT_OPEN = 8


@dataclass
class Shown:
    """An archive that is open.

    Attributes
    ----------
    name : str
        What people call it: the last part of its place.
    reader : ArchiveReader
    salvage : Salvage
        Reads what is left of it where it is damaged.
    """

    name: str
    reader: ArchiveReader
    salvage: Salvage = field(init=False)

    def __post_init__(self) -> None:
        self.salvage = Salvage(self.reader)

    @property
    def bytes_read(self) -> int:
        """Bytes of it that were read so far."""
        return self.reader.sealed.store.bytes_read


class Shelf:
    """Archives below a target, opened when asked for; those looked at last stay open.

    Parameters
    ----------
    target : str
        Archive (folder, zip file, URL), folder of archives, or URL of a bucket.

    Raises
    ------
    StorageError, FormatError
        There is nothing, or it is no archive.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.root = folder_of(target)
        self._open: OrderedDict[str, Shown] = OrderedDict()
        self._lock = threading.Lock()
        self.is_collection = self.root is not None or archives_at(target) is not None
        if not self.is_collection:
            self.open("")

    @property
    def name(self) -> str:
        """What people call the target."""
        return _last_part(target_text(self.target))

    def rows(self, where: Iterable[str], sort: str, *, reverse: bool) -> list[dict[str, Any]]:
        """Rows of the catalogue, as ``psc-archive ls`` has them.

        Raises
        ------
        ParameterError : kinds ``"bad-condition"``, ``"bad-sort"``.
        """
        return catalogue(self.target, where=where, sort=sort, reverse=reverse) or []

    def open(self, name: str) -> Shown:
        """An archive by its name in the catalogue; ``""`` is the target itself.

        Raises
        ------
        ParameterError : kind ``"not-on-the-shelf"``.
        StorageError, FormatError : it cannot be opened.
        """
        with self._lock:
            if name in self._open:
                self._open.move_to_end(name)
                return self._open[name]
        place = self._place(name)
        shown = Shown(_last_part(name or target_text(self.target)), ArchiveReader.open(place))
        with self._lock:
            shown = self._open.setdefault(name, shown)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return shown

    def close(self) -> None:
        """Release file handles."""
        with self._lock:
            for shown in self._open.values():
                shown.reader.close()
            self._open.clear()

    def _place(self, name: str) -> str:
        """Where an archive is; names are looked up, never put together."""
        if not self.is_collection:
            if not name:
                return self.target
        else:
            base = self.target.rstrip("/")
            for place in archives_at(self.target) or ():
                if place.removeprefix(f"{base}/") == name and self._is_inside(place):
                    return place
        raise ParameterError(
            f"there is no archive {name!r} here",
            kind="not-on-the-shelf",
            hint="the list of archives has the names that are",
        )

    def _is_inside(self, place: str) -> bool:
        """Whether a path, links followed, stays below the folder."""
        try:
            return self.root is None or Path(place).resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # links in a circle
            return False


def _last_part(text: str) -> str:
    return Path(text.rstrip("/")).name or text
