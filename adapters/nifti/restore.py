"""Writing NIfTI again: the same header bytes for a whole volume, an adjusted header for a region.

A whole lossless volume gives the identical file (for ``.nii.gz``: the identical decompressed
bytes; the gzip stream itself depends on the compressor). A region changes dimensions, sform,
qform offset and time offset; lossy values add a comment extension that says so.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import (
    CUT,
    IDENTICAL,
    IDENTICAL_UNPACKED,
    LOSSY,
    Array,
    LazyArray,
    RestoredVolume,
    RestoreInfo,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.nifti.header import NiftiHeader, parse_header, usable_form
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

__all__ = ["restore_nifti"]

_SINGLE = (".nii", ".nii.gz")
_PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
_ALIGNED = 2  # NIFTI_XFORM_ALIGNED_ANAT
_COMMENT = 6  # extension code


def restore_nifti(
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """Write one image, as a single file or a pair like its source.

    Raises
    ------
    SourceError : kind ``"bad-region"``, ``"bad-target"``, ``"target-exists"``,
        ``"bad-document"``.
    """
    try:
        shape = tuple(int(size) for size in document["shape"])
        check_volumes_exist([(v.name, v.full_shape) for v in volumes], {"image": shape})
        header = parse_header(blobs["head"], Path(document["names"][0]))
        places = _places(document, target)
        dtype = np.dtype(document["dtype"])
        head, image_head, tail = (blobs[name] for name in ("head", "image_head", "tail"))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise unusable_record("NIfTI", error) from error
    volume = volumes[0]
    check_stored_type(volume.array.dtype, dtype, volume.name)
    voxels: Array | LazyArray = volume.array
    if header.component is not None:
        _check_components(volume, header.component)
        voxels = Interleaved(volume.array)
    if not volume.is_whole:
        head, tail = _cut_header(header, head, volume), b""
    if not info.lossless:
        head = _with_comment(header, head, info)
    identical = info.lossless and volume.is_whole
    packed = str(document["names"][0]).lower().endswith(".gz")
    written = []
    with staged_file(*places) as staged:
        if len(staged) == 2:
            _write(staged[0], [head], None, b"")
        lead = head if len(staged) == 1 else image_head
        _write(staged[-1], [lead], voxels, tail, dtype)
        for number, (path, work) in enumerate(zip(places, staged, strict=True)):
            same_packing = packed == work.name.lower().endswith(".gz")
            original = original_of(document, blobs, number) if identical and same_packing else None
            if original is not None:
                work.write_bytes(original)
            verbatim = original is not None or (same_packing and not packed)
            exact = IDENTICAL if verbatim else IDENTICAL_UNPACKED
            outcome = exact if identical else (CUT if info.lossless else LOSSY)
            written.append(WrittenFile(path, number, outcome))
    return written


@dataclass(frozen=True)
class Interleaved:
    """Values with their first axis last, as files hold voxels of several numbers."""

    values: Array | LazyArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return (*self.values.shape[1:], self.values.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one number."""
        return np.dtype(self.values.dtype)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        return np.moveaxis(np.asarray(self.values[(key[-1], *key[:-1])]), 0, -1)


def _check_components(volume: RestoredVolume, name: str) -> None:
    if volume.array.shape[0] != volume.full_shape[0]:
        raise SourceError(
            f"expected all {volume.full_shape[0]} numbers of a voxel along {name!r}, found "
            f"{volume.array.shape[0]}",
            kind="bad-region",
            hint=f"leave {name!r} out of the region",
        )


def _places(document: dict[str, Any], target: Path) -> list[Path]:
    names = [str(name) for name in document["names"]]
    suffixes = _SINGLE if len(names) == 1 else _PAIR
    own = safe_target(target, names[0]).name
    first = file_target(target, own, suffixes)
    known = _SINGLE + _PAIR
    if target.name.lower().endswith(known) and not target.is_dir() and first != target:
        raise SourceError(
            f"the source is a {document['layout']}, expected a target ending in one of {suffixes}",
            kind="bad-target",
            path=target,
        )
    if len(names) == 1:
        return [first]
    lower = first.name.lower()
    suffix = next(s for s in sorted(_PAIR, key=len, reverse=True) if lower.endswith(s))
    stem, packed = first.name[: -len(suffix)], ".gz" if suffix.endswith(".gz") else ""
    made = [f"{stem}{part}{packed}" for part in (".hdr", ".img")]
    cased = {name.lower(): name for name in names}  # what differs by its capitals alone
    return [first.with_name(cased.get(name.lower(), name)) for name in made]


def _write(
    path: Path,
    lead: Sequence[bytes],
    voxels: Array | LazyArray | None,
    tail: bytes,
    dtype: np.dtype[Any] | None = None,
) -> None:
    with path.open("wb") as raw:
        packed = path.name.lower().endswith(".gz")
        stream = gzip.GzipFile("", "wb", 6, raw, mtime=0) if packed else raw
        for part in lead:
            stream.write(part)
        if voxels is not None:
            for _, slab in slabs(voxels):
                stream.write(slab.astype(dtype or slab.dtype, copy=False).data)
        stream.write(tail)
        if packed:
            stream.close()


def _cut_header(header: NiftiHeader, head: bytes, volume: RestoredVolume) -> bytes:
    """Give the header bytes for a region; extensions and offsets stay as they are."""
    fields = header.fields.copy()
    axes = len(header.file_dims)
    start = volume.start[::-1]
    for axis, size in enumerate(volume.array.shape[::-1][:axes]):
        fields["dim"][axis + 1] = size
    corner = np.array([*start[:3], 1.0])
    _move(fields, header, corner)
    if axes > 3 and np.isfinite(fields["pixdim"][4]):
        fields["toffset"] = float(fields["toffset"]) + start[3] * float(fields["pixdim"][4])
    slices = (int(fields["dim_info"]) >> 4) & 3
    cut = [volume.array.shape[-n] != volume.full_shape[-n] for n in (1, 2, 3)]
    if cut[slices - 1] if slices else any(cut):
        for name in ("slice_start", "slice_end", "slice_code"):
            fields[name] = 0
    block = bytes(fields.binaryblock)
    return block + head[len(block) :]


def _move(fields: Any, header: NiftiHeader, corner: Array) -> None:
    """Put the place of a region into the forms; one that is no geometry loses its code."""
    sform, qform = usable_form(header, "sform"), usable_form(header, "qform")
    plain = usable_form(header, "voxel sizes")
    if sform is not None:
        for name, value in zip(("srow_x", "srow_y", "srow_z"), sform @ corner, strict=False):
            fields[name][3] = value
    elif qform is not None:
        fields["sform_code"] = 0
    if qform is not None:
        for name, value in zip("xyz", qform @ corner, strict=False):
            fields[f"qoffset_{name}"] = value
    elif sform is not None:
        fields["qform_code"] = 0
    if plain is not None:
        # Without codes readers centre the affine on the volume; a part needs its place in writing.
        plain[:, 3] = plain @ corner
        fields.set_sform(plain, code=_ALIGNED)


def _with_comment(header: NiftiHeader, head: bytes, info: RestoreInfo) -> bytes:
    """Add a comment extension that names the loss, behind the extensions that are there."""
    size = 348 if header.flavour == "nifti1" else 540
    extensions = head[size + 4 :] if head[size : size + 1] not in (b"", b"\0") else b""
    body = loss_note(info).encode()
    body += b"\0" * (-(len(body) + 8) % 16)
    order = "big" if header.dtype_order == ">" else "little"
    extension = (len(body) + 8).to_bytes(4, order) + _COMMENT.to_bytes(4, order) + body  # type: ignore[arg-type]
    kind = type(header.fields)
    fields = kind(head[:size], endianness=header.dtype_order, check=False)
    if header.layout == "single":
        fields["vox_offset"] = size + 4 + len(extensions) + len(extension)
    return bytes(fields.binaryblock) + b"\1\0\0\0" + extensions + extension
