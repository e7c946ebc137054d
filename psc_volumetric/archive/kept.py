"""Values that are read out of kept originals (SPEC 11.14): PNG, TIFF, FITS, JPEG XL, video.

Where a lossless archive has to keep the source file itself, its values are not stored once more:
the root says how each variable lies in the originals, and they are decoded when they are used.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.archive.documents import KeptEntry
from psc_volumetric.archive.kept_decoders import WHOLE, Part
from psc_volumetric.archive.kept_part import decoded
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.errors import FormatError, LimitExceededError

__all__ = ["KeptArray", "KeptVariable"]

FREE_BYTES = 1 << 30  # decoded bytes a part may have whatever is stored
RATIO = 1100  # decoded bytes per stored byte beyond that: more than deflate can hold

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class KeptVariable:
    """A variable without bricks.

    Attributes
    ----------
    spec : VariableSpec
        What it is; its bricks are what a reader had better take at once.
    decoder : str
        A key of `kept_decoders.DECODERS`.
    samples : str or None
        Whether samples (colours) are the ``"first"`` or ``"last"`` axis of a decoded part, and the
        first one of the variable; None where there are none.
    places : tuple of (str, int)
        Blob, and number of the part in it, of each entry of the axis before the last two; a single
        one where the variable has no such axis, or where a part is the whole of it.
    """

    spec: VariableSpec
    decoder: str
    samples: str | None
    places: tuple[tuple[str, int], ...]

    @property
    def volume(self) -> str:
        """Name in the source."""
        return str(self.spec.parameters.get("volume", self.spec.name))

    @property
    def part_shape(self) -> tuple[int, ...]:
        """What is decoded at once: a page, of all samples, or the whole."""
        shape = self.spec.shape
        return shape if len(self.places) == 1 else (*shape[:-3], 1, *shape[-2:])

    def to_dict(self, mode: str) -> dict[str, Any]:
        """The entry in the root's attributes."""
        return {
            "name": self.spec.name,
            "node": self.spec.metadata(mode),
            "decoder": self.decoder,
            "samples": self.samples,
            "places": [list(place) for place in self.places],
        }

    @classmethod
    def of(cls, entry: KeptEntry, where: str) -> KeptVariable:
        """Check an entry (FormatError)."""
        spec = VariableSpec.from_metadata(entry.name, entry.node)
        found = cls(spec, entry.decoder, entry.samples, tuple(map(tuple, entry.places)))  # type: ignore[arg-type]
        lead = spec.ndim - 2 - (entry.samples is not None)
        count = spec.shape[-3] if lead == 1 and entry.decoder not in WHOLE else 1
        if (entry.decoder not in WHOLE and lead not in (0, 1)) or len(entry.places) != count:
            raise FormatError(
                f"{where}: {entry.name}: {len(entry.places)} places for the shape {spec.shape}",
                kind="bad-metadata",
                hint="the archive is damaged or of another format, run `psc-archive verify`",
            )
        return found


@dataclass(frozen=True, eq=False)
class KeptArray:
    """Stored values of a kept variable, decoded when they are asked for; the last part stays.

    Attributes
    ----------
    variable : KeptVariable
    blobs : mapping of str to bytes
        Of the source document.
    where : str
        For messages.
    """

    variable: KeptVariable
    blobs: Mapping[str, bytes]
    where: str
    _last: dict[tuple[str, int], NDArray[Any]] = field(default_factory=dict)
    _read: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return self.variable.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return self.variable.spec.dtype

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """Values of one slice (start, stop) per axis.

        Raises
        ------
        FormatError : the original does not hold what the archive says (kind ``"bad-payload"``).
        ExtraMissingError : a library that reads it is not installed.
        """
        if self.variable.decoder in WHOLE:
            values = self._part(self.variable.places[0], self.shape)[box]
            return np.array(values, self.dtype, order="C")
        rest = list(box)
        colours = rest.pop(0) if self.variable.samples is not None else slice(0, 1)
        samples = self.shape[0] if self.variable.samples is not None else 1
        stacked = len(rest) == 3
        chosen = self.variable.places[rest.pop(0)] if stacked else self.variable.places
        rows, columns = rest
        sizes = [part.stop - part.start for part in (colours, rows, columns)]
        found = np.empty((sizes[0], len(chosen), *sizes[1:]), self.dtype)
        for number, place in enumerate(chosen):
            plane = self._part(place, (samples, *self.shape[-2:]))
            found[:, number] = plane[colours, rows, columns]
        return found.reshape(tuple(part.stop - part.start for part in box))

    def _part(self, place: tuple[str, int], shape: tuple[int, ...]) -> NDArray[Any]:
        """One decoded part in this shape, samples first."""
        with self._lock:
            if place not in self._last:
                values = self._decoded(place, shape)
                self._last.clear()
                self._last[place] = values
            return self._last[place]

    def _decoded(self, place: tuple[str, int], shape: tuple[int, ...]) -> NDArray[Any]:
        blob, number = place
        where = f"{self.where}: {self.variable.spec.name}: part {number} of {blob}"
        if blob not in self.blobs:
            raise FormatError(f"{where}: there is no such blob", kind="bad-metadata")
        data = self._file(blob)
        nbytes = math.prod(shape) * self.dtype.itemsize
        if nbytes > max(FREE_BYTES, RATIO * len(data)):
            raise LimitExceededError(f"{where}: {nbytes} bytes of {len(data)}", kind="limit")
        part = Part(self._as_decoded(shape), self.dtype)
        values = decoded(self.variable.decoder, data, number, part, where)
        if self.variable.samples == "last":
            values = np.moveaxis(values, -1, 0)
        elif self.variable.samples is None and self.variable.decoder not in WHOLE:
            values = values[None]
        if values.shape != shape or values.dtype != self.dtype:
            raise FormatError(
                f"{where}: expected {self.dtype} of {shape}, found {values.dtype} of "
                f"{values.shape}",
                kind="bad-payload",
                hint="run `psc-archive verify`",
            )
        return values

    def _as_decoded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a part, samples first, as its decoder has it."""
        if self.variable.decoder in WHOLE or self.variable.samples == "first":
            return shape
        return shape[1:] if self.variable.samples is None else (*shape[1:], shape[0])

    def _file(self, blob: str) -> bytes:
        """A blob; the last one is kept, for files of many parts."""
        if blob not in self._read:
            data = self.blobs[blob]
            self._read.clear()
            self._read[blob] = data
        return self._read[blob]
