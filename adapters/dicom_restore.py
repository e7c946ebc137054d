"""Writing DICOM again: the identical files where possible, honest derived ones otherwise.

Lossless values on whole frames of natively stored files give byte-identical files. Whole frames of
compressed sources come back as Explicit VR Little Endian with their own UIDs, or verbatim when the
archive keeps the original files. Everything else (a
region cut inside the frames, some frames of a multi-frame file, lossy values) is a derived image,
see ``adapters.dicom_derive``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import (
    CUT,
    EQUAL_DATA,
    IDENTICAL,
    LOSSY,
    Array,
    RestoredVolume,
    RestoreInfo,
    WrittenFile,
    safe_target,
)
from adapters.dicom_derive import Derivation, Part, write_converted, write_derived
from adapters.dicom_header import damage_errors
from adapters.dicom_layout import PixelLayout
from adapters.errors import SourceError
from adapters.originals import original_of
from adapters.output import (
    check_stored_type,
    check_volumes_exist,
    unusable_record,
)
from adapters.staging import staged_folder

__all__ = ["restore_dicom"]

Box = tuple[int, int, int, int]  # first row, end row, first column, end column


@dataclass(frozen=True)
class _FilePlan:
    """One file to write: its number and record, and the frames (samples, rows, columns) to keep."""

    number: int
    record: dict[str, Any]
    frames: dict[int, Array]
    box: Box


def restore_dicom(
    document: dict[str, Any],
    blobs: dict[str, bytes],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
) -> list[WrittenFile]:
    """Write the files of the given volumes into a new or empty folder.

    Raises
    ------
    SourceError : kind ``"bad-region"``, ``"target-exists"``, ``"bad-document"``,
        ``"unsafe-name"``.
    """
    try:
        plans = _plans(document, volumes)
        blobs["headers"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise unusable_record("DICOM", error) from error
    derivation = _derivation(document, plans, info)
    written = []
    with staged_folder(target) as work:
        for plan in plans:
            place = safe_target(work, str(plan.record["name"]))
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                outcome = _write(plan, document, blobs, place, derivation)
            except damage_errors() as error:
                raise unusable_record("DICOM", error) from error
            path = target / place.relative_to(work)
            written.append(WrittenFile(path, plan.number, outcome))
    return written


def _plans(document: dict[str, Any], volumes: Sequence[RestoredVolume]) -> list[_FilePlan]:
    known = {record["name"]: record for record in document["volumes"]}
    check_volumes_exist(
        [(volume.name, volume.full_shape) for volume in volumes],
        {name: tuple(record["shape"]) for name, record in known.items()},
    )
    frames: dict[int, dict[int, Array]] = {}
    boxes: dict[int, Box] = {}
    samples = int(document["samples"])
    for volume in volumes:
        full, start, array = volume.full_shape, volume.start, volume.values
        if samples > 1:
            if array.shape[0] != samples:
                raise SourceError(
                    f"expected all {samples} samples of the colours, found {array.shape[0]}",
                    kind="bad-region",
                )
            full, start, array = full[1:], start[1:], np.moveaxis(array, 0, -3)
        else:
            array = np.expand_dims(array, -3)
        owners = np.array(known[volume.name]["frames"]).reshape(*full[:-2], 2)
        lead = tuple(
            slice(first, first + size)
            for first, size in zip(start[:-2], array.shape[:-3], strict=True)
        )
        planes = array.reshape(-1, *array.shape[-3:])
        (r, c), (height, width) = start[-2:], array.shape[-2:]
        for (file, frame), plane in zip(owners[lead].reshape(-1, 2), planes, strict=True):
            frames.setdefault(int(file), {})[int(frame)] = plane
            box = (r, r + height, c, c + width)
            if boxes.setdefault(int(file), box) != box:
                raise SourceError(
                    "volumes of one file must be cut to the same rows and columns",
                    kind="bad-region",
                )
    return [_FilePlan(f, document["files"][f], frames[f], boxes[f]) for f in sorted(frames)]


def _is_whole(plan: _FilePlan, document: dict[str, Any]) -> bool:
    full: Box = (0, document["rows"], 0, document["columns"])
    return plan.box == full and len(plan.frames) == plan.record["frames"]


def _derivation(
    document: dict[str, Any], plans: Sequence[_FilePlan], info: RestoreInfo
) -> Derivation | None:
    """Give what derived files share, or None when every file keeps its identity."""
    if info.lossless and all(_is_whole(plan, document) for plan in plans):
        return None
    digest = hashlib.sha256()
    for plan in plans:
        digest.update(str(plan.record["sha256"]).encode())
        digest.update(repr((plan.box, sorted(plan.frames))).encode())
        for frame in plan.frames.values():
            digest.update(np.ascontiguousarray(frame).tobytes())
    return Derivation(info=info, seed=digest.hexdigest())


def _write(
    plan: _FilePlan,
    document: dict[str, Any],
    blobs: dict[str, bytes],
    place: Path,
    derivation: Derivation | None,
) -> str:
    """Write one file and say what it is."""
    record, headers = plan.record, blobs["headers"]
    original = original_of(document, blobs, plan.number)
    if derivation is None and original is not None:
        place.write_bytes(original)
        return IDENTICAL
    head, tail = (headers[record[part][0] : record[part][1]] for part in ("head", "tail"))
    numbers = sorted(plan.frames)
    words = _words(np.stack([plan.frames[i] for i in numbers]), record, document)
    if derivation is None and record["native"]:
        body = bytearray(PixelLayout(**record["layout"]).pack(words))
        for offset, value in record["patches"] or ():
            body[offset] = value
        place.write_bytes(head + body + tail)
        return EQUAL_DATA if record["patches"] is None else IDENTICAL
    if derivation is None:
        write_converted(head, words, place, record)
        return EQUAL_DATA
    part = Part(numbers, plan.box, record["photometric"], record["lossy_method"])
    write_derived(head, words, place, part, derivation)
    return CUT if derivation.info.lossless else LOSSY


def _words(values: Array, record: dict[str, Any], document: dict[str, Any]) -> Array:
    """Turn stored values into the file's pixel words, native byte order."""
    dtype = np.dtype(document["dtype"])
    check_stored_type(values.dtype, dtype, "pixels")
    if record["high_bits"] == "short":
        values = np.bitwise_and(values, np.array((1 << document["bits_stored"]) - 1, dtype))
    return values
