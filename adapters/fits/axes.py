"""Names, places and units of the axes of FITS images, where their headers give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adapters.base import Array, Coordinate
from adapters.fits.blocks import quiet, value_of
from adapters.fits.hdu import Hdu

__all__ = ["Axes", "attributes_of", "axes_of"]

_PLACES = ("x", "y", "z", "axis_4", "axis_5", "axis_6", "axis_7", "axis_8")
# First part of CTYPE -> name. Celestial axes are named by place: sky and array may be turned.
_WORDS = {
    "AWAV": "wavelength",
    "BETA": "velocity",
    "ENER": "energy",
    "FREQ": "frequency",
    "STOKES": "stokes",
    "TIME": "time",
    "UTC": "time",
    "VELO": "velocity",
    "VOPT": "velocity",
    "VRAD": "velocity",
    "WAVE": "wavelength",
    "WAVN": "wavenumber",
    "ZOPT": "redshift",
}
_MOST_PLACES = 1 << 20
_MOST_WORLD = 99  # axes of a coordinate system
_STRUCTURE = ("SIMPLE", "XTENSION", "BITPIX", "EXTEND", "PCOUNT", "GCOUNT", "CHECKSUM", "DATASUM")

Axes = tuple[tuple[str, ...], tuple[Coordinate, ...]]


def axes_of(hdus: Sequence[Hdu], notes: list[str]) -> list[Axes]:
    """Names and coordinates of the axes of each image, slowest first.

    Images share an axis where name, length and places are the same; else the name of the image is
    part of the axis's name. What keeps places from being found is noted.
    """
    known: dict[str, tuple[int, bytes]] = {}
    found: list[Axes] = []
    for hdu in hdus:
        places = _places(hdu, notes)
        names: list[str] = []
        made: list[Coordinate] = []
        for axis, size in enumerate(hdu.shape):
            number = len(hdu.shape) - axis - 1
            name, values, attrs = places.get(number, (_PLACES[number], None, {}))
            name = _PLACES[number] if name in names else name
            state = (size, b"" if values is None else values.tobytes())
            if known.setdefault(name, state) != state:
                name = f"{name}_{hdu.name}"
                known[name] = state
            names.append(name)
            if values is not None:
                made.append(Coordinate(name, (name,), values, attrs))
        found.append((tuple(names), tuple(made)))
    return found


def _places(hdu: Hdu, notes: list[str]) -> dict[int, tuple[str, Array | None, dict[str, Any]]]:
    """Axis (0 the fastest) -> name, places, attributes, where no other axis has a part in it."""
    if not any(key.startswith(("CTYPE", "CDELT", "CD1_", "PC1_")) for key in hdu.shown):
        return {}
    kinds = [value_of(hdu.shown, f"CTYPE{n}", "") for n in range(1, _MOST_WORLD + 1)]
    if any("-TAB" in str(kind) for kind in kinds):  # WCSLIB fails where the table is not given
        notes.append(f"{hdu.name}: no coordinates, they are in a table")
        return {}
    from astropy.wcs import WCS

    found: dict[int, tuple[str, Array | None, dict[str, Any]]] = {}
    try:
        with quiet():
            wcs = WCS(hdu.shown)
            depends = np.asarray(wcs.axis_correlation_matrix)
            for axis in range(min(len(hdu.shape), depends.shape[1])):
                (world,) = rows if (rows := np.flatnonzero(depends[:, axis])).size == 1 else (-1,)
                if world >= 0 and depends[world].sum() == 1:
                    found[axis] = _along(wcs, axis, int(world), hdu.shape[-1 - axis])
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        notes.append(f"{hdu.name}: no coordinates, its WCS has no sense ({type(error).__name__})")
        return {}
    return found


def _along(wcs: Any, axis: int, world: int, size: int) -> tuple[str, Array | None, dict[str, Any]]:
    """Name of an axis and the places of its points, in the unit of the WCS."""
    ctype = str(wcs.wcs.ctype[world]).strip()
    word = _WORDS.get(ctype.split("-")[0]) or _WORDS.get(ctype[:4]) or _PLACES[axis]
    plain = not ctype and wcs.wcs.crval[world] == 0 and wcs.wcs.get_cdelt()[world] == 1
    if plain or size > _MOST_PLACES:
        return word, None, {}
    points = np.zeros((size, wcs.pixel_n_dim))
    points[:, axis] = np.arange(size)
    values = np.ascontiguousarray(wcs.wcs_pix2world(points, 0)[:, world], np.float64)
    if not np.isfinite(values).all() or np.unique(values).size < size:
        return word, None, {}
    unit = str(wcs.wcs.cunit[world])
    attrs = {"units": unit} if unit else {}
    return word, values, attrs | ({"CTYPE": ctype} if ctype else {})


def attributes_of(cards: Any) -> dict[str, Any]:
    """Cards of a header as attributes, in its order, without what only describes the container.

    COMMENT and HISTORY are one text each. Cards that cannot be read are left out; they are in the
    file that is kept.
    """
    from astropy.io.fits import VerifyError

    found: dict[str, Any] = {}
    lines: dict[str, list[str]] = {}
    with quiet():
        for card in cards.cards:
            try:
                key, value = card.keyword, card.value
            except (VerifyError, ValueError):
                continue
            if key in ("COMMENT", "HISTORY"):
                lines.setdefault(key, []).append(str(value))
            elif key and key not in _STRUCTURE and isinstance(value, bool | int | float | str):
                found.setdefault(key, value)
    return found | {key: "\n".join(text) for key, text in lines.items()}
