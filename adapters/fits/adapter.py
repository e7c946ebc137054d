"""FITS files: images of every header unit as stored, all else as the bytes it is.

A file is its headers, values and padding, one behind the other: it comes back byte for byte. An
image in compressed tiles is shown as any other image; these tiles depend on who made them, so that
exact archives keep the original beside the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapters.base import (
    EQUAL_DATA,
    IDENTICAL,
    IDENTICAL_UNPACKED,
    Candidate,
    Discovery,
    Promise,
    RestoredVolume,
    RestoreInfo,
    SideArray,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.fits.axes import Axes, attributes_of, axes_of
from adapters.fits.blocks import units_of, value_of
from adapters.fits.data import FitsArray, TileArray, content
from adapters.fits.digest import content_sha256
from adapters.fits.hdu import BYTES, IMAGE, NOTHING, TABLE, TILES, Hdu, hdus_of
from adapters.fits.restore import SUFFIXES, restore_fits
from adapters.gzipped import MOST_AROUND, is_gzip, spool, too_much_around
from adapters.kept import Kept
from adapters.originals import original_blob
from adapters.source_files import file_records, safe_name

__all__ = ["FitsAdapter"]

_MARKS = ("BADPIX", "BPM", "DQ", "FLAG", "FLAGS", "MASK", "SEG", "SEGM", "SEGMENTATION")
_TILED = "how its tiles are compressed"


class FitsAdapter:
    """Reads and writes FITS; see ``adapters.base.Adapter``."""

    kind = "fits"

    def sniff(self, path: Path) -> bool:
        """Tell by name, or by the first card of every FITS file."""
        if path.name.lower().endswith(SUFFIXES):
            return True
        with path.open("rb") as stream:
            return stream.read(30) == b"SIMPLE  =                    T"

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Give one candidate per file that can be read."""
        candidates, skipped = [], []
        for path in files:
            try:
                _require_astropy(path)
                _look(path)
            except SourceError as error:
                skipped.append(Skipped.of(path, error))
                continue
            name = safe_name(_stem(path), "fits")
            candidates.append(Candidate("fits", name, (path,), path.as_posix()))
        return Discovery(tuple(candidates), tuple(skipped))

    def open(self, candidate: Candidate) -> SourceItem:
        """Read the headers of one file; all values are read later."""
        (path,) = candidate.paths
        _require_astropy(path)
        hdus = _look(path)
        notes: list[str] = []
        images = [hdu for hdu in hdus if hdu.kind in (IMAGE, TILES) and len(hdu.shape) > 1]
        notes += [
            f"{hdu.name}: BSCALE or BZERO is no number: stored values are shown, without a unit"
            for hdu in hdus
            if hdu.unreadable_scale
        ]
        axes = axes_of(images, notes)
        taken = {name for names, _ in axes for name in names}
        hdus = [replace(h, name=f"{h.name}_HDU") if h.name in taken else h for h in hdus]
        named = dict(zip((hdu.unit.number for hdu in images), axes, strict=True))
        document, blobs = _record(path, hdus)
        tiled = any(hdu.kind == TILES for hdu in hdus)
        promise = _promise(path, hdus[-1].unit.end, tiled=tiled)
        return SourceItem(
            kind="fits",
            name=candidate.name,
            volumes=tuple(
                _volume(path, hdus, hdu, named[hdu.unit.number], tiled=tiled)
                for hdu in hdus
                if hdu.unit.number in named
            ),
            document=document,
            blobs=blobs,
            files=tuple(r.promising(promise) for r in file_records([path])),
            suggested_prior=None,
            notes=tuple(notes),
            arrays=tuple(
                array
                for hdu in hdus
                if hdu.kind != NOTHING and hdu.unit.number not in named
                for array in _arrays(path, hdus, hdu)
            ),
            groups={"": attributes_of(hdus[0].shown)} if hdus[0].kind == NOTHING else {},
            bytes_beyond_remaking=(_TILED,) if tiled else (),
        )

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write the file again, or one with part of it; see ``adapters.fits.restore``."""
        return restore_fits(document, blobs, volumes, target, info)

    def content_sha256(self, path: Path) -> str:
        """Digest of cards and values, however tiles are compressed."""
        return content_sha256(path)


def _require_astropy(path: Path) -> None:
    if find_spec("astropy") is None:
        raise SourceError(
            "FITS files take the extra 'fits' of psc-archive, found no astropy",
            kind="extra-missing",
            path=path,
            hint="pip install 'psc-archive[fits]'",
        )


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz").removesuffix(".fz")
    return name.rpartition(".")[0] or name


def _look(path: Path) -> list[Hdu]:
    return hdus_of(path, units_of(path))


def _promise(path: Path, end: int, *, tiled: bool) -> Promise:
    if tiled:
        return Promise(EQUAL_DATA, _TILED)
    if is_gzip(path):
        return Promise(IDENTICAL_UNPACKED, "the gzip stream itself", spool(path, end).sha256)
    return Promise(IDENTICAL)


def _volume(path: Path, hdus: Sequence[Hdu], hdu: Hdu, axes: Axes, *, tiled: bool) -> Volume:
    names, coordinates = axes
    attrs = _attributes(hdu)
    unit = value_of(hdu.shown, "BUNIT")
    marks = hdu.dtype.kind != "f" and hdu.name.split("_")[0].upper() in _MARKS
    return Volume(
        name=hdu.name,
        array=_array(path, hdus, hdu),
        dims=names,
        affine=None,
        spacing_mm=None,
        unit=unit.strip() or None if isinstance(unit, str) and not hdu.unreadable_scale else None,
        slope=hdu.slope,
        intercept=hdu.intercept,
        special_values=() if hdu.blank is None else (hdu.blank,),
        coordinates=coordinates,
        attrs=attrs,
        exact_only=f"the image is named {hdu.name!r}: marks" if marks else None,
        kept=Kept("fits", None, ((original_blob(0), hdu.unit.number),)) if tiled else None,
    )


def _attributes(hdu: Hdu) -> dict[str, Any]:
    attrs = attributes_of(hdu.shown)
    return attrs if hdu.blank is None else attrs | {"_FillValue": hdu.seen.type(hdu.blank)}


def _array(path: Path, hdus: Sequence[Hdu], hdu: Hdu) -> FitsArray | TileArray:
    end, dtype = hdus[-1].unit.end, hdu.dtype.str
    if hdu.kind == TILES:
        return TileArray(path, end, hdu.unit.number, hdu.shape, dtype, hdu.flipped)
    return FitsArray(path, end, hdu.unit.data, hdu.shape, dtype, hdu.flipped)


def _arrays(path: Path, hdus: Sequence[Hdu], hdu: Hdu) -> list[SideArray]:
    """What an image of one axis, a table or an unknown unit is shown as."""
    axes = {IMAGE: ("x",), TILES: ("x",), TABLE: ("row", "byte"), BYTES: ("byte",)}[hdu.kind]
    dims = tuple(f"{hdu.name}_{axis}" for axis in axes)
    attrs = _attributes(hdu)
    if hdu.slope is not None and hdu.intercept is not None:
        attrs |= {"scale_factor": hdu.slope, "add_offset": hdu.intercept}
    unit = attrs.get("BUNIT")
    if hdu.kind in (IMAGE, TILES) and isinstance(unit, str) and not hdu.unreadable_scale:
        attrs["units"] = unit
    arrays = [SideArray(hdu.name, _array(path, hdus, hdu), dims, attrs)] if hdu.value_bytes else []
    beside = hdu.unit.data_bytes - hdu.value_bytes
    if hdu.kind == TABLE and beside:
        heap = FitsArray(
            path, hdus[-1].unit.end, hdu.unit.data + hdu.value_bytes, (beside,), hdu.dtype.str
        )
        arrays.append(SideArray(f"{hdu.name}_heap", heap, (f"{hdu.name}_heap_byte",), {}))
    return arrays


def _record(path: Path, hdus: Sequence[Hdu]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Where every byte of the file comes from, and those that are no values."""
    last = hdus[-1].unit.end
    whole = content(path, last)
    if len(whole) - last > MOST_AROUND:
        raise too_much_around(path, f"has {len(whole) - last} bytes behind its last unit")
    kept = bytearray()

    def keep(data: bytes) -> list[int]:
        kept.extend(data)
        return [len(kept) - len(data), len(kept)]

    records = []
    for hdu in hdus:
        unit = hdu.unit
        end = len(whole) if unit is hdus[-1].unit else unit.end
        behind = unit.data + unit.data_bytes
        tiled = hdu.kind == TILES
        records.append(
            {
                "header": keep(whole[unit.start : unit.data].tobytes()),
                "values": [] if hdu.kind == NOTHING else _values(hdu),
                "rest": keep(whole[behind:end].tobytes()),
                "shown": keep(hdu.shown.tostring().encode("ascii", "replace")) if tiled else None,
            }
        )
    document = {"document_version": 0, "names": [path.name], "hdus": records}
    return document, {"kept": bytes(kept)}


def _values(hdu: Hdu) -> list[dict[str, Any]]:
    image = hdu.kind in (IMAGE, TILES) and len(hdu.shape) > 1
    own = {
        "volume" if image else "array": hdu.name,
        "dtype": hdu.dtype.str,
        "flipped": hdu.flipped,
        "shape": list(hdu.shape),
    }
    beside = hdu.unit.data_bytes - hdu.value_bytes
    heap = {"array": f"{hdu.name}_heap", "dtype": "|u1", "flipped": False, "shape": [beside]}
    values = [own] if hdu.value_bytes else []
    return [*values, heap] if hdu.kind == TABLE and beside else values
