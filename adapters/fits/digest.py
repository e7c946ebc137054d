"""All that a FITS file says, whether an image lies in compressed tiles or not: a digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from adapters.base import Array, LazyArray
from adapters.errors import SourceError
from adapters.fits.blocks import quiet, units_of
from adapters.fits.data import FitsArray, TileArray, content, stored
from adapters.fits.hdu import IMAGE, TILES, Hdu, hdus_of
from adapters.output import slabs

__all__ = ["NOT_CONTENT", "content_sha256"]

# Cards that follow from the bytes, or say how they lie.
NOT_CONTENT = ("", "CHECKSUM", "DATASUM", "EXTEND", "GCOUNT", "PCOUNT", "SIMPLE", "XTENSION")


def content_sha256(path: Path) -> str:
    """Digest of the cards and values of every unit, in order.

    Raises
    ------
    SourceError : the file cannot be read.
    """
    hdus = hdus_of(path, units_of(path))
    found = hashlib.sha256()
    for hdu in hdus:
        found.update(_card_text(hdu.shown, path))
        array = _array(path, hdus, hdu)
        if array is not None:
            for _, values in slabs(array):
                found.update(stored(values, hdu.dtype, flipped=hdu.flipped).tobytes())
        else:
            start = hdu.unit.data
            data = content(path, hdus[-1].unit.end)[start : start + hdu.unit.data_bytes]
            found.update(data.data)
    return found.hexdigest()


def _array(path: Path, hdus: list[Hdu], hdu: Hdu) -> LazyArray | Array | None:
    end, dtype = hdus[-1].unit.end, hdu.dtype.str
    if hdu.kind == TILES:
        return TileArray(path, end, hdu.unit.number, hdu.shape, dtype, hdu.flipped)
    if hdu.kind == IMAGE:
        return FitsArray(path, end, hdu.unit.data, hdu.shape, dtype, hdu.flipped)
    return None


def _card_text(cards: Any, path: Path) -> bytes:
    from astropy.io.fits import VerifyError

    try:
        with quiet():
            lines = [str(card) for card in cards.cards if card.keyword not in NOT_CONTENT]
    except (ValueError, VerifyError) as error:
        raise SourceError("a card cannot be read", kind="damaged", path=path) from error
    return "\n".join(lines).encode()
