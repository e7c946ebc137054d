"""What each header and data unit of a FITS file holds, as astropy shows it before scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.errors import SourceError
from adapters.fits.blocks import BITPIX, Unit, value_of, whole_number
from adapters.fits.data import shown_header

__all__ = ["BYTES", "IMAGE", "NOTHING", "TABLE", "TILES", "Hdu", "hdus_of"]

# What the data of a unit are.
NOTHING = "nothing"
IMAGE = "image"
TILES = "tiles"  # an image in compressed tiles, which lie in a table
TABLE = "table"
BYTES = "bytes"  # of a kind that only the file itself explains

_TILE_CODES = ("GZIP_1", "GZIP_2", "RICE_1", "RICE_ONE", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS")
_MOST_AXES = 8
_MOST_NAME = 64
_LARGE = 1 << 30  # bytes of an image; of a larger one
_MOST_RATIO = 1100  # times the bytes that it is kept in are more than deflate can hold


@dataclass(frozen=True)
class Hdu:
    """One unit as readers see it.

    Attributes
    ----------
    unit : Unit
    kind : str
    name : str
        EXTNAME with EXTVER where that is not 1, ``PRIMARY`` or ``HDU<number>``; unique.
    shown : astropy Header
        Of the image, also where tiles are compressed; else the unit's own.
    shape : tuple of int
        Of the image, slowest axis first; of the table's rows and their bytes.
    dtype : numpy.dtype
        Stored numbers, big-endian.
    flipped : bool
        The highest bit of stored integers is inverted: BZERO makes them unsigned (bytes: signed).
    slope, intercept : float or None
    blank : int or None
        As readers see stored values, unsigned where these are.
    unreadable_scale : bool
        BSCALE or BZERO is no number, so that nobody can say what the values mean.
    """

    unit: Unit
    kind: str
    name: str
    shown: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    flipped: bool = False
    slope: float | None = None
    intercept: float | None = None
    blank: int | None = None
    unreadable_scale: bool = False

    @property
    def seen(self) -> np.dtype[Any]:
        """Type of the values, native byte order."""
        kind = {"i": "u", "u": "i"}[self.dtype.kind] if self.flipped else self.dtype.kind
        return np.dtype(f"{kind}{self.dtype.itemsize}")

    @property
    def value_bytes(self) -> int:
        """Bytes of the values as they lie in the unit, if they do."""
        return math.prod(self.shape) * self.dtype.itemsize


def hdus_of(path: Path, units: Sequence[Unit]) -> list[Hdu]:
    """Read what every header says of its data.

    Raises
    ------
    SourceError : kind ``"damaged"`` or ``"too-large"``.
    """
    names = _names(units)
    end = units[-1].end
    return [_hdu(path, unit, name, end) for unit, name in zip(units, names, strict=True)]


def _names(units: Sequence[Unit]) -> list[str]:
    """Names that differ from one another and from those of axes and heaps that are made of them."""
    names: list[str] = []
    taken: set[str] = set()
    for unit in units:
        shown = (c if c.isprintable() and c != "/" else "_" for c in _text(unit.cards, "EXTNAME"))
        name = "".join(shown)[:_MOST_NAME].strip()
        version = value_of(unit.cards, "EXTVER", 1)
        if name and isinstance(version, int) and version != 1:
            name = f"{name}_{version}"
        name = name or ("PRIMARY" if unit.number == 0 else f"HDU{unit.number}")
        if not taken.isdisjoint(_made_of(name)):
            name = f"{name}_HDU{unit.number}"
        while not taken.isdisjoint(_made_of(name)):
            name += "_"
        taken |= _made_of(name)
        names.append(name)
    return names


def _made_of(name: str) -> set[str]:
    return {name, *(f"{name}_{part}" for part in ("x", "row", "byte", "heap", "heap_byte"))}


def _text(cards: Any, key: str) -> str:
    found = value_of(cards, key)
    return found if isinstance(found, str) else ""


def _hdu(path: Path, unit: Unit, name: str, end: int) -> Hdu:
    extension = _text(unit.cards, "XTENSION").strip()
    if unit.data_bytes == 0:
        return Hdu(unit, NOTHING, name, unit.cards, (), np.dtype("u1"))
    if unit.number == 0 or extension in ("IMAGE", "IUEIMAGE"):
        return _image(path, unit, name)
    if extension in ("BINTABLE", "A3DTABLE", "TABLE"):
        return _tiles(path, unit, name, end) or _table(path, unit, name)
    return _bytes(unit, name)


def _bytes(unit: Unit, name: str) -> Hdu:
    return Hdu(unit, BYTES, name, unit.cards, (unit.data_bytes,), np.dtype("u1"))


def _table(path: Path, unit: Unit, name: str) -> Hdu:
    """Rows of a table; what is behind them, its heap, are bytes."""
    if (
        whole_number(unit.cards, "NAXIS", path, 0, 999, 0) != 2
        or value_of(unit.cards, "BITPIX") != 8
    ):
        return _bytes(unit, name)
    shape = (int(unit.cards["NAXIS2"]), int(unit.cards["NAXIS1"]))
    return Hdu(unit, TABLE, name, unit.cards, shape, np.dtype("u1"))


def _image(path: Path, unit: Unit, name: str) -> Hdu:
    shape = _shape(unit.cards, path)
    plain = _facts(unit, IMAGE, name, unit.cards, shape)
    return plain if plain.value_bytes == unit.data_bytes and shape else _bytes(unit, name)


def _tiles(path: Path, unit: Unit, name: str, end: int) -> Hdu | None:
    """The image in a table of compressed tiles; None for any other table."""
    if (
        value_of(unit.cards, "ZIMAGE") is not True
        or _text(unit.cards, "ZCMPTYPE") not in _TILE_CODES
    ):
        return None
    axes = whole_number(unit.cards, "ZNAXIS", path, 0, _MOST_AXES, None)
    keys = [f"ZNAXIS{n + 1}" for n in range(axes)]
    sizes = [whole_number(unit.cards, key, path, 0, 1 << 40, None) for key in keys]
    bits = whole_number(unit.cards, "ZBITPIX", path, -64, 64, None)
    if bits not in BITPIX:
        raise SourceError(f"{name}: {bits} bits a number", kind="damaged", path=path)
    size = math.prod(sizes) * abs(bits) // 8
    if size > max(_LARGE, _MOST_RATIO * unit.data_bytes):
        raise SourceError(
            f"{name}: an image of {size} bytes in {unit.data_bytes} bytes of compressed tiles",
            kind="too-large",
            path=path,
            hint="the header is damaged or hostile",
        )
    if not size:
        return None
    shown = shown_header(path, end, unit.number)
    whole_number(shown, "BITPIX", path, bits, bits, None)
    return _facts(unit, TILES, name, shown, tuple(sizes[::-1]))


def _shape(cards: Any, path: Path) -> tuple[int, ...]:
    axes = whole_number(cards, "NAXIS", path, 0, 999, None)
    sizes = [whole_number(cards, f"NAXIS{n + 1}", path, 0, 1 << 62, None) for n in range(axes)]
    return tuple(sizes[::-1]) if axes <= _MOST_AXES else ()


def _facts(unit: Unit, kind: str, name: str, shown: Any, shape: tuple[int, ...]) -> Hdu:
    bits = int(shown["BITPIX"])
    dtype = np.dtype({8: "u1"}.get(bits, f">{'f' if bits < 0 else 'i'}{abs(bits) // 8}"))
    scale, zero = _number(shown, "BSCALE", 1.0), _number(shown, "BZERO", 0.0)
    slope, intercept = (1.0, 0.0) if scale is None or zero is None else (scale, zero)
    half = 1 << (abs(bits) - 1)
    flipped = bits > 0 and slope == 1 and intercept == (-half if bits == 8 else half)
    blank = value_of(shown, "BLANK") if bits > 0 else None
    if not isinstance(blank, int) or isinstance(blank, bool) or not _fits(blank, dtype):
        blank = None
    elif flipped:
        blank += int(intercept)
    scaled = not flipped and (slope, intercept) != (1.0, 0.0)
    return Hdu(
        unit,
        kind,
        name,
        shown,
        shape,
        dtype,
        flipped,
        slope if scaled else None,
        intercept if scaled else None,
        blank,
        scale is None or zero is None,
    )


def _fits(value: int, dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= value <= int(limits.max)


def _number(cards: Any, key: str, default: float) -> float | None:
    """A finite number of a header, the default where there is none, None for anything else."""
    if key not in cards:
        return default
    found = value_of(cards, key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)
