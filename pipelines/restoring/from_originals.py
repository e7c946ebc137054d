"""Regions of variables without bricks: read out of the kept original by the reading process."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters import isolation
from adapters.base import LazyArray, selection_bounds
from adapters.errors import SourceError
from adapters.originals import write_original
from adapters.output import unusable_record
from adapters.source_files import safe_target
from psc_volumetric.archive.kept import KeptVariable
from psc_volumetric.archive.source import SourceRecord

__all__ = ["OriginalArray", "Originals"]


class Originals:
    """The kept files of an archive, written to a folder when the first value is asked for.

    Parameters
    ----------
    source : SourceRecord
    """

    def __init__(self, source: SourceRecord) -> None:
        self._source = source
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._volumes: dict[str, LazyArray] = {}

    def volume(self, name: str) -> LazyArray:
        """Values of a volume of the source, as its adapter reads them.

        Raises
        ------
        SourceError : kind ``"bad-document"``; or the files cannot be read.
        """
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory()
            self._volumes = self._opened(Path(self._folder.name))
        if name not in self._volumes:
            raise unusable_record("source", KeyError(name))
        return self._volumes[name]

    def close(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            self._folder.cleanup()

    def _opened(self, folder: Path) -> dict[str, LazyArray]:
        document, blobs = self._source.document, self._source.blobs
        try:
            for number, name in enumerate(document["original_names"]):
                blob = document["originals"][str(number)]
                write_original(blobs, blob, safe_target(folder, str(name)))
        except (KeyError, TypeError) as error:
            raise unusable_record("source", error) from error
        found = [c for c in isolation.discover(folder).candidates if c.kind == self._source.kind]
        if len(found) != 1:
            raise SourceError(
                f"expected one item in the kept files, found {len(found)}", kind="bad-document"
            )
        return {v.name: v.array for v in isolation.open_source(found[0]).volumes}


@dataclass(frozen=True, eq=False)
class OriginalArray:
    """Stored values of a region of a variable; ``array[slices]`` reads them from the original."""

    originals: Originals
    variable: KeptVariable
    box: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis of the region."""
        return tuple(part.stop - part.start for part in self.box)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return self.variable.spec.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        bounds = selection_bounds(key, self.shape)
        wanted = tuple(
            slice(part.start + start, part.start + stop)
            for part, (start, stop) in zip(self.box, bounds, strict=True)
        )
        return self.originals.volume(self.variable.volume)[wanted]
