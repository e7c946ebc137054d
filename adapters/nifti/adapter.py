"""NIfTI-1 and NIfTI-2 images as volumes: single files, compressed or not, and .hdr/.img pairs.

Stored integers are untouched; slope and intercept, sform and qform, units and extensions are kept.
File axes (x, y, z, t, ...) become array axes (..., t, z, y, x).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import (
    IDENTICAL_UNPACKED,
    Candidate,
    Coordinate,
    Discovery,
    FileRecord,
    Promise,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
    spacing_of,
)
from adapters.errors import SourceError
from adapters.gzipped import digest, is_gzip, read_start, spool
from adapters.nifti.data import NiftiArray, around, read_head
from adapters.nifti.header import NiftiHeader, affine_of, notes_of_scaling, parse_header
from adapters.nifti.restore import restore_nifti
from adapters.source_files import file_records, safe_name

__all__ = ["NiftiAdapter"]

_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
_PARTNERS = {".hdr": ".img", ".img": ".hdr", ".hdr.gz": ".img.gz", ".img.gz": ".hdr.gz"}
_AXES = ("x", "y", "z", "t", "v", "w", "u")
_LABELS = {1002: "labels", 1003: "names of regions", 2002: "numbers of nodes", 3007: "labels"}
_LABEL_NAMES = ("aseg", "aparc", "dseg", "label", "labels", "mask", "parcellation", "seg")
_LABEL_TABLES = (b"VALUE_LABEL_DTABLE", b"ATLAS_LABEL_TABLE")  # of AFNI's extension
_COMPONENTS = {
    "complex": ("real and imaginary parts are kept exactly", ("real", "imag")),
    "colour": ("colours are kept exactly", ("red", "green", "blue", "alpha")),
    "word": ("numbers of 128 bits are kept exactly, as words of 64", None),
}
_HEADER_BYTES = 540


class NiftiAdapter:
    """Reads and writes NIfTI; see ``adapters.base.Adapter``."""

    kind = "nifti"

    def sniff(self, path: Path) -> bool:
        """Tell by name; whether the name speaks the truth is checked in discovery."""
        return path.name.lower().endswith(_SUFFIXES)

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Give one candidate per image; a pair is one candidate."""
        candidates: dict[str, Candidate] = {}
        skipped: dict[Path, Skipped] = {}
        for path in files:
            paths: tuple[Path, ...] = (path,)
            try:
                paths = _image_files(path)
                header = parse_header(read_start(paths[0], _HEADER_BYTES), paths[0])
                if (header.layout == "pair") != (len(paths) == 2):
                    raise SourceError(
                        f"the header says its layout is {header.layout!r}, the file name does not",
                        kind="damaged",
                        path=path,
                    )
            except SourceError as error:
                sound = error.kind in ("no-volume", "unsupported-dtype", "unsupported-volume")
                for half in paths if sound else (path,):  # both halves can be kept as they are
                    skipped.setdefault(half, Skipped.of(half, error))
                continue
            key = paths[0].as_posix()
            candidates[key] = Candidate("nifti", safe_name(_stem(paths[0]), "nifti"), paths, key)
        return Discovery(tuple(candidates.values()), tuple(skipped.values()))

    def open(self, candidate: Candidate) -> SourceItem:
        """Open one image; a compressed one is decompressed to temporary disk space."""
        files = _open_files(candidate.paths)
        affine, notes = affine_of(files.header)
        document, blobs = _record(candidate.paths, files)
        return SourceItem(
            kind="nifti",
            name=candidate.name,
            volumes=(_volume(candidate.paths[-1], files, affine),),
            document=document,
            blobs=blobs,
            files=_promised(file_records(candidate.paths), candidate.paths, files),
            suggested_prior=None,
            notes=(*notes, *notes_of_scaling(files.header)),
        )

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write NIfTI of the same flavour; see ``adapters.nifti.restore``."""
        return restore_nifti(document, blobs, volumes, target, info)

    def content_sha256(self, path: Path) -> str:
        """Digest of the decompressed bytes."""
        return digest(path)


def _promised(
    records: Sequence[FileRecord], paths: Sequence[Path], files: _Files
) -> tuple[FileRecord, ...]:
    """Records with their promise: plain files come back identical, gzip streams unpacked so."""
    packed = "the gzip stream itself"
    digests = [files.sha256] if len(paths) == 1 else [_sha256(files.head), files.sha256]
    return tuple(
        record.promising(Promise(IDENTICAL_UNPACKED, packed, digest)) if is_gzip(path) else record
        for record, path, digest in zip(records, paths, digests, strict=True)
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return max((s for s in _SUFFIXES if name.endswith(s)), key=len, default="")


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(_suffix(path))]


def _image_files(path: Path) -> tuple[Path, ...]:
    """Give (file,) or (header, image) for one of the files of an image."""
    suffix = _suffix(path)
    if suffix not in _PARTNERS:
        return (path,)
    other, cased = _PARTNERS[suffix], path.name[len(_stem(path)) :]
    names = [other.upper(), other] if cased.isupper() else [other, other.upper()]
    found = [half for half in (path.with_name(_stem(path) + n) for n in names) if half.is_file()]
    if not found:
        raise SourceError(
            f"expected its other half {_stem(path) + names[0]!r} beside it, found none",
            kind="missing-pair",
            path=path,
        )
    partner = found[0]
    return (path, partner) if suffix.startswith(".hdr") else (partner, path)


@dataclass(frozen=True)
class _Files:
    """An opened image: its header, and the pieces around the voxels."""

    header: NiftiHeader
    head: bytes  # the single file up to its voxels, or the whole .hdr
    image_head: bytes  # a pair's .img up to its voxels
    tail: bytes
    sha256: str | None  # of the decompressed data file, when compressed


def _open_files(paths: Sequence[Path]) -> _Files:
    header = parse_header(read_start(paths[0], _HEADER_BYTES), paths[0])
    data = paths[-1]
    compressed = is_gzip(data)
    end = header.data_offset + header.data_bytes
    size = spool(data, end).size if compressed else data.stat().st_size
    if size < end:
        raise SourceError(
            f"expected {header.data_bytes} bytes of voxels at offset {header.data_offset}, "
            f"found {max(0, size - header.data_offset)}",
            kind="truncated",
            path=data,
            hint="the file is cut off; fetch it again from its source",
        )
    before, tail = around(data, header.data_offset, end)
    pair = len(paths) == 2
    return _Files(
        header=header,
        head=read_head(paths[0]) if pair else before,
        image_head=before if pair else b"",
        tail=tail,
        sha256=spool(data, end).sha256 if compressed else None,
    )


def _volume(data: Path, files: _Files, affine: Any) -> Volume:
    header, fields = files.header, files.header.fields
    component = header.component
    scaled = component is None or (component == "complex" and not header.intercept)
    names = _AXES[: len(header.shape) - (component is not None)][::-1]
    return Volume(
        name="image",
        array=NiftiArray(
            data, header.data_offset, header.shape, header.dtype.str, component is not None
        ),
        dims=names if component is None else (component, *names),
        affine=affine,
        spacing_mm=None if affine is None else spacing_of(affine),
        unit=None,
        slope=header.slope if scaled else None,
        intercept=header.intercept if scaled else None,
        special_values=(),
        coordinates=(*_time(header), *_component(header)),
        attrs={
            "format": header.flavour,
            "sform_code": int(fields["sform_code"]),
            "qform_code": int(fields["qform_code"]),
            "intent_code": int(fields["intent_code"]),
            "spatial_unit": header.spatial_unit,
            "time_unit": header.time_unit,
            "big_endian": header.dtype.str.startswith(">"),
        },
        exact_only=_exact_only(data, files),
    )


def _exact_only(data: Path, files: _Files) -> str | None:
    """Why the header or the name leaves no choice but exact values."""
    header = files.header
    if header.component is not None:
        return _COMPONENTS[header.component][0]
    intent = int(header.fields["intent_code"])
    if intent in _LABELS:
        return f"the header says that the values are {_LABELS[intent]} (intent {intent})"
    if any(table in files.head for table in _LABEL_TABLES):
        return "the header has a table of labels"
    last = re.split(r"[_.+-]", _stem(data).lower())[-1]
    return f"the file is named as {last!r}: labels" if last in _LABEL_NAMES else None


def _component(header: NiftiHeader) -> tuple[Coordinate, ...]:
    """Names of the numbers that a voxel has."""
    name = header.component
    words = None if name is None else _COMPONENTS[name][1]
    if name is None or words is None:
        return ()
    return (Coordinate(name, (name,), np.array(words[: header.components]), {}),)


def _time(header: NiftiHeader) -> tuple[Coordinate, ...]:
    if len(header.file_dims) < 4:
        return ()
    step, start = float(header.fields["pixdim"][4]), float(header.fields["toffset"])
    if not (np.isfinite(step) and step > 0 and np.isfinite(start)):
        return ()
    values = start + step * np.arange(header.shape[-4])
    return (Coordinate("t", ("t",), values, {"units": header.time_unit}),)


def _record(paths: Sequence[Path], files: _Files) -> tuple[dict[str, Any], dict[str, bytes]]:
    header = files.header
    document = {
        "document_version": 0,
        "flavour": header.flavour,
        "layout": header.layout,
        "names": [path.name for path in paths],
        "dtype": header.dtype.str,
        "components": header.component is not None,
        "shape": list(header.shape),
        "dims": list(header.file_dims),
        "data_offset": header.data_offset,
        "decompressed_sha256": files.sha256,
    }
    return document, {"head": files.head, "image_head": files.image_head, "tail": files.tail}
