"""Writing FITS again: the same bytes for a whole file, new headers for a part or with loss.

A part moves the reference pixels of its coordinate systems; units whose values are not asked for
are left out. Checksums of what is no longer there are dropped.
"""

from __future__ import annotations

import gzip
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from adapters.base import (
    CUT,
    EQUAL_DATA,
    IDENTICAL,
    IDENTICAL_UNPACKED,
    LOSSY,
    RestoredVolume,
    RestoreInfo,
    WrittenFile,
)
from adapters.fits.blocks import BLOCK, quiet
from adapters.fits.data import stored, turned
from adapters.originals import original_of
from adapters.output import (
    check_stored_type,
    check_volumes_exist,
    file_target,
    loss_note,
    slabs,
    unusable_record,
)
from adapters.source_files import safe_target
from adapters.staging import staged_file

__all__ = ["SUFFIXES", "restore_fits"]

SUFFIXES = tuple(
    f".{name}{packed}" for name in ("fits", "fit", "fts", "fits.fz") for packed in ("", ".gz")
)


def restore_fits(
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """Write one file.

    Raises
    ------
    SourceError : kind ``"bad-region"``, ``"target-exists"``, ``"bad-document"``,
        ``"unsafe-name"``.
    """
    given = {volume.name: volume for volume in volumes}
    try:
        kept, records = blobs["kept"], [_Record(record) for record in document["hdus"]]
        name = str(document["names"][0])
        known = {v["name"]: v["shape"] for record in records for v in record.values}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise unusable_record("FITS", error) from error
    images = {v["name"] for record in records for v in record.values if v["cuts"]}
    asked = [v for v in volumes if v.name in images or not images or v.name not in known]
    for part in (asked, volumes) if known or volumes else ():
        check_volumes_exist([(v.name, v.full_shape) for v in part], known)
    for record in records:
        for value in record.values:
            if value["name"] in given:
                check_stored_type(given[value["name"]].array.dtype, value["seen"], value["name"])
    whole = set(given) == set(known) and all(v.is_whole for v in volumes)
    place = file_target(target, safe_target(target, name).name, SUFFIXES)
    same_packing = _is_packed(name) == _is_packed(place.name)
    exact = whole and info.lossless
    original = original_of(document, blobs, 0) if exact and same_packing else None
    tiled = any(record.shown for record in records)
    with staged_file(place) as (work,):
        if original is not None:
            work.write_bytes(original)
        else:
            with work.open("wb") as raw:
                stream: Any = gzip.GzipFile("", "wb", 6, raw, 0) if _is_packed(place.name) else raw
                for number, record in enumerate(records):
                    if exact and not record.shown:
                        _write_same(stream, record, kept, given)
                    else:
                        _write_other(stream, record, kept, given, info, is_first=number == 0)
                if stream is not raw:
                    stream.close()
    outcome = CUT if info.lossless else LOSSY
    if exact:
        verbatim = original is not None or not (_is_packed(name) or _is_packed(place.name))
        outcome = IDENTICAL if verbatim else IDENTICAL_UNPACKED
        outcome = EQUAL_DATA if tiled and original is None else outcome
    return [WrittenFile(place, 0, outcome)]


class _Record:
    """What the source document says of one unit, checked."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.header, self.rest = _piece(record["header"]), _piece(record["rest"])
        self.shown = None if record["shown"] is None else _piece(record["shown"])
        self.values = [_value(value) for value in record["values"]]

    @property
    def is_image(self) -> bool:
        """Whether a part of the values can be asked for."""
        return any(value["cuts"] for value in self.values)


def _piece(bounds: Any) -> slice:
    start, stop = bounds
    if not 0 <= int(start) <= int(stop):
        raise ValueError(bounds)
    return slice(int(start), int(stop))


def _value(value: dict[str, Any]) -> dict[str, Any]:
    dtype, flipped = np.dtype(value["dtype"]), bool(value["flipped"])
    seen = turned(np.zeros(1, dtype)).dtype if flipped else dtype
    return {
        "name": str(value["volume"] if "volume" in value else value["array"]),
        "cuts": "volume" in value,
        "dtype": dtype,
        "flipped": flipped,
        "seen": seen,
        "shape": tuple(int(size) for size in value["shape"]),
    }


def _is_packed(name: str) -> bool:
    return name.lower().endswith(".gz")


def _write_same(
    stream: IO[bytes], record: _Record, kept: bytes, given: Mapping[str, RestoredVolume]
) -> None:
    """Write a unit as it was."""
    stream.write(kept[record.header])
    for value in record.values:
        _write_values(stream, value, given[value["name"]])
    stream.write(kept[record.rest])


def _write_values(stream: IO[bytes], value: dict[str, Any], volume: RestoredVolume) -> int:
    size = 0
    for _, slab in slabs(volume.array):
        stream.write(stored(slab, value["dtype"], flipped=value["flipped"]).data)
        size += slab.nbytes
    return size


def _write_other(
    stream: IO[bytes],
    record: _Record,
    kept: bytes,
    given: Mapping[str, RestoredVolume],
    info: RestoreInfo,
    *,
    is_first: bool,
) -> None:
    """Write a unit of which a part, or other values than the source's, are there."""
    if not record.is_image:
        if all(value["name"] in given for value in record.values):
            _write_same(stream, record, kept, given)
        elif is_first:
            stream.write(_bare(kept[record.header]))
        return
    (value,) = record.values
    header = kept[record.header if record.shown is None else record.shown]
    volume = given.get(value["name"])
    if volume is not None:
        stream.write(_header(header, volume, info))
        stream.write(bytes(-_write_values(stream, value, volume) % BLOCK))
    elif is_first:
        stream.write(_bare(header))


def _header(text: bytes, volume: RestoredVolume, info: RestoreInfo) -> bytes:
    """Header of a part of an image, or of one with loss."""
    cards = _cards(text)
    for axis, size in enumerate(volume.array.shape[::-1]):
        cards[f"NAXIS{axis + 1}"] = size
    for axis, start in enumerate(volume.start[::-1]):
        if start:
            _move(cards, axis + 1, start)
    if not info.lossless:
        cards.add_history(loss_note(info))
    return _text(cards)


def _move(cards: Any, axis: int, start: int) -> None:
    """Let a part of an image begin ``start`` pixels into it, for every coordinate system."""
    for letter in ("", *string.ascii_uppercase):
        key = f"CRPIX{axis}{letter}"
        if key in cards or f"CTYPE{axis}{letter}" in cards or f"CRVAL{axis}{letter}" in cards:
            cards[key] = cards.get(key, 0.0) - start
    if f"LTV{axis}" in cards:  # IRAF's place in the detector
        cards[f"LTV{axis}"] -= start * cards.get(f"LTM{axis}_{axis}", 1.0)


def _bare(text: bytes) -> bytes:
    """First header of a file without the values that it had."""
    cards = _cards(text)
    for key in [key for key in cards if key.startswith("NAXIS")][1:]:
        del cards[key]
    cards["NAXIS"] = 0
    for key in ("BSCALE", "BZERO", "BLANK", "GROUPS", "PCOUNT", "GCOUNT"):
        cards.remove(key, ignore_missing=True)
    return _text(cards)


def _cards(text: bytes) -> Any:
    """Cards to change; those that cannot be read cannot be written either and are left out."""
    from astropy.io.fits import Header

    with quiet():
        cards = Header([card for card in Header.fromstring(text).cards if _is_sound(card)])
        for key in ("CHECKSUM", "DATASUM"):
            cards.remove(key, ignore_missing=True)
    return cards


def _is_sound(card: Any) -> bool:
    from astropy.io.fits import VerifyError

    try:
        return bool(str(card))
    except (VerifyError, ValueError):
        return False


def _text(cards: Any) -> bytes:
    with quiet():
        return bytes(cards.tostring().encode("ascii", "replace"))
