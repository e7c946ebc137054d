"""Writing DICOM again: the identical files where possible, honest derived ones otherwise.

Lossless values on whole frames of natively stored files give byte-identical files. Whole frames of
compressed sources come back as Explicit VR Little Endian with their own UIDs, or verbatim when the
archive keeps the original files. Everything else (a region cut inside the frames, some frames of a
multi-frame file, lossy values) is a derived image, see ``adapters.dicom.derive``. Values are asked
for in slabs, and written at once: memory is bounded by a slab.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
)
from adapters.dicom.bits import BitUse, SparePlanes, bit_use, limits_of, words_of
from adapters.dicom.body import Body, stream_bytes
from adapters.dicom.derive import Derivation, Part, write_converted, write_derived
from adapters.dicom.layout import PixelLayout
from adapters.dicom.syntax import damage_errors
from adapters.errors import SourceError
from adapters.originals import original_of
from adapters.output import (
    check_stored_type,
    check_volumes_exist,
    unusable_record,
)
from adapters.source_files import safe_target
from adapters.staging import staged_folder

__all__ = ["restore_dicom"]

Box = tuple[int, int, int, int]  # first row, end row, first column, end column
_SLAB_BYTES = 8 << 20
_BODIES = ".bodies"
_OF_ALL_FILES = ("headers", "bits")


class _Shared(Mapping[str, bytes]):
    """Blobs; those that hold a piece of every file are asked for once, not once for each."""

    def __init__(self, blobs: Mapping[str, bytes]) -> None:
        self._blobs = blobs
        self._kept: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in _OF_ALL_FILES:
            return self._blobs[name]
        if name not in self._kept:
            self._kept[name] = self._blobs[name]
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)


@dataclass
class _FilePlan:
    """One file to write: its number and record, the frames to keep, ascending, and the box."""

    number: int
    record: dict[str, Any]
    box: Box
    frames: list[int] = field(default_factory=list)
    whole: bool = False
    index: dict[int, int] = field(default_factory=dict)
    body: Body | None = None
    planes: SparePlanes | None = None

    @property
    def use(self) -> BitUse:
        """How the words' bits are used."""
        return bit_use(self.record["bits"])


def restore_dicom(
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
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
        blobs = _Shared(blobs)
        blobs["headers"]
        for volume in volumes:
            check_stored_type(volume.array.dtype, np.dtype(document["dtype"]), "pixels")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise unusable_record("DICOM", error) from error
    with staged_folder(target) as work:
        for plan in plans.values():
            safe_target(work, str(plan.record["name"]))
        exact = info.lossless and all(plan.whole for plan in plans.values())
        try:
            written = _restored(document, blobs, volumes, plans, work, info, exact=exact)
        except damage_errors() as error:
            if isinstance(error, OSError):
                raise
            raise unusable_record("DICOM", error) from error
        return [
            WrittenFile(target / place.relative_to(work), number, outcome)
            for place, number, outcome in written
        ]


def _restored(
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    volumes: Sequence[RestoredVolume],
    plans: dict[int, _FilePlan],
    work: Path,
    info: RestoreInfo,
    *,
    exact: bool,
) -> list[tuple[Path, int, str]]:
    bodies = work / _BODIES
    bodies.mkdir()
    written = []
    todo = {}
    for number, plan in plans.items():
        original = original_of(document, blobs, number)
        if exact and original is not None:
            place = _place(work, plan)
            place.write_bytes(original)
            written.append((place, number, IDENTICAL))
            continue
        todo[number] = plan
        _begin(plan, document, blobs, work, bodies, exact=exact)
    for number, frame, planes in _frames(document, volumes, set(todo)):
        _add(todo[number], frame, planes, clip=not info.lossless)
    derivation = None if exact else Derivation(info, _seed(list(todo.values())))
    for plan in todo.values():
        written += _end(plan, document, blobs, work, derivation)
    shutil.rmtree(bodies)
    return sorted(written, key=lambda entry: entry[1])


def _plans(document: dict[str, Any], volumes: Sequence[RestoredVolume]) -> dict[int, _FilePlan]:
    """Find the files that the volumes touch, and which of their frames."""
    known = {record["name"]: record for record in document["volumes"]}
    check_volumes_exist(
        [(volume.name, volume.full_shape) for volume in volumes],
        {name: tuple(record["shape"]) for name, record in known.items()},
    )
    plans: dict[int, _FilePlan] = {}
    for volume in volumes:
        samples = int(document["samples"])
        if samples > 1 and volume.array.shape[0] != samples:
            raise SourceError(
                f"expected all {samples} samples of the colours, found {volume.array.shape[0]}",
                kind="bad-region",
            )
        (row, column), (height, width) = volume.start[-2:], volume.array.shape[-2:]
        box = (row, row + height, column, column + width)
        for owner in _owners(document, volume).ravel():
            if owner is None:
                continue
            number, frame = int(owner[0]), int(owner[1])
            plan = plans.setdefault(number, _FilePlan(number, document["files"][number], box))
            if plan.box != box:
                raise SourceError(
                    "volumes of one file must be cut to the same rows and columns",
                    kind="bad-region",
                )
            plan.frames.append(frame)
    if not plans:
        raise SourceError(
            "the region holds no frame of the source",
            kind="bad-region",
            hint="the segmentation has no pixel there; choose a larger region",
        )
    full: Box = (0, document["rows"], 0, document["columns"])
    for plan in plans.values():
        plan.frames.sort()
        plan.index = {frame: k for k, frame in enumerate(plan.frames)}
        plan.whole = plan.box == full and len(plan.frames) == plan.record["frames"]
    return dict(sorted(plans.items()))


def _owners(document: dict[str, Any], volume: RestoredVolume) -> Array:
    """Give file and frame, or None, of every plane of a region: an array of objects."""
    record = next(r for r in document["volumes"] if r["name"] == volume.name)
    skip = 1 if int(document["samples"]) > 1 else 0
    lead = volume.full_shape[skip:-2]
    owners = np.empty(math.prod(lead), object)
    if len(record["frames"]) != len(owners):
        raise ValueError(f"expected {len(owners)} frames, found {len(record['frames'])}")
    for k, owner in enumerate(record["frames"]):
        owners[k] = None if owner is None else (owner[0], owner[1])
    region = zip(volume.start[skip:-2], volume.array.shape[skip:-2], strict=True)
    key = tuple(slice(first, first + size) for first, size in region)
    return np.asarray(owners.reshape(lead)[key])


def _frames(
    document: dict[str, Any], volumes: Sequence[RestoredVolume], wanted: set[int]
) -> Iterator[tuple[int, int, Array]]:
    """Read all frames in slabs: file, frame, and planes (samples, rows, columns)."""
    for volume in volumes:
        owners = _owners(document, volume)
        skip = 1 if int(document["samples"]) > 1 else 0
        shape = volume.array.shape
        samples = (slice(0, shape[0]),) if skip else ()
        plane = math.prod(shape[-2:]) * (shape[0] if skip else 1) * volume.array.dtype.itemsize
        depth = max(1, _SLAB_BYTES // plane)
        for lead in np.ndindex(*owners.shape[:-1]):
            fixed = tuple(slice(i, i + 1) for i in lead)
            for start in range(0, owners.shape[-1], depth):
                stop = min(start + depth, owners.shape[-1])
                mine = list(owners[(*lead, slice(start, stop))])
                if not any(owner is not None and owner[0] in wanted for owner in mine):
                    continue
                rows, columns = slice(0, shape[-2]), slice(0, shape[-1])
                slab = volume.array[(*samples, *fixed, slice(start, stop), rows, columns)]
                slab = slab.reshape(shape[0] if skip else 1, stop - start, *shape[-2:])
                for k, owner in enumerate(mine):
                    if owner is not None and owner[0] in wanted:
                        yield int(owner[0]), int(owner[1]), slab[:, k]


def _place(work: Path, plan: _FilePlan) -> Path:
    place = safe_target(work, str(plan.record["name"]))
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _begin(
    plan: _FilePlan,
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    work: Path,
    bodies: Path,
    *,
    exact: bool,
) -> None:
    """Open the file's words: in place behind its head where it will be the source's bytes."""
    record, use = plan.record, plan.use
    layout = None if record["layout"] is None else PixelLayout(**record["layout"])
    if record["planes"] is not None:
        size = (document["samples"], document["rows"], document["columns"])
        data = _piece(blobs["bits"], record["planes"])
        plan.planes = SparePlanes(data, use, size, record["frames"])
    if exact and layout is not None:
        place = _place(work, plan)
        head = _piece(blobs["headers"], record["head"])
        place.write_bytes(head)
        plan.body = Body(place, layout, len(head))
        return
    plan.body = Body(bodies / f"{plan.number:06d}", _derived_layout(plan, document))


def _derived_layout(plan: _FilePlan, document: dict[str, Any]) -> PixelLayout:
    """How words lie in a derived or decoded file: little endian, samples interleaved."""
    first_row, end_row, first_column, end_column = plan.box
    rows, columns = end_row - first_row, end_column - first_column
    word, samples = plan.use.dtype, int(document["samples"])
    layout = plan.record["layout"]
    if plan.record["tiles"] is not None and plan.whole:
        grid = int(plan.record["tiles"]["grid"])
        return PixelLayout("mosaic", rows, columns, len(plan.frames), 1, word, grid=grid)
    order = "interleaved" if samples > 1 else "grey"
    if layout is not None and layout["order"] == "bits":
        order = "bits"
    return PixelLayout(order, rows, columns, len(plan.frames), samples, word)


def _add(plan: _FilePlan, frame: int, values: Array, *, clip: bool) -> None:
    """Turn a frame's values into words and put them into the file; no lossy one wraps."""
    assert plan.body is not None
    use = plan.use
    limits = limits_of(use)
    if clip and limits is not None:
        values = np.clip(values, *limits)
    planes = {} if plan.planes is None else plan.planes.of(frame)
    first_row, end_row, first_column, end_column = plan.box
    cut = {b: p[:, first_row:end_row, first_column:end_column] for b, p in planes.items()}
    index = frame if plan.body.base else plan.index[frame]
    plan.body.add(index, words_of(values, use, cut), values)


def _end(
    plan: _FilePlan,
    document: dict[str, Any],
    blobs: Mapping[str, bytes],
    work: Path,
    derivation: Derivation | None,
) -> list[tuple[Path, int, str]]:
    """Write what is around the words, and say what the files are."""
    record, body = plan.record, plan.body
    assert body is not None
    head, tail = (_piece(blobs["headers"], record[part]) for part in ("head", "tail"))
    place = _place(work, plan)
    if body.base:
        residue = record["residue"]
        body.finish(record["patches"], None if residue is None else _piece(blobs["bits"], residue))
        with place.open("ab") as stream:
            stream.write(tail)
        outcome = IDENTICAL if record["native"] else EQUAL_DATA
        return [(place, plan.number, outcome)]
    body.finish([], None)
    if derivation is None:
        write_converted(head, body, place, record)
        return [(place, plan.number, EQUAL_DATA)]
    part = Part(
        frames=plan.frames,
        box=plan.box,
        colours=record["photometric"],
        lossy_method=record["lossy_method"],
        tiles=None if plan.whole else record["tiles"],
        cut=not plan.whole,
    )
    outcome = CUT if derivation.info.lossless else LOSSY
    made = write_derived(head, body, place, part, derivation)
    return [(path, plan.number, outcome) for path in made]


def _seed(plans: Sequence[_FilePlan]) -> str:
    """Digest what makes derived files what they are: their sources, and the words they hold."""
    digest = hashlib.sha256()
    for plan in plans:
        assert plan.body is not None
        digest.update(str(plan.record["sha256"]).encode())
        digest.update(repr((plan.box, plan.frames)).encode())
        for block in stream_bytes(plan.body.path):
            digest.update(block)
    return digest.hexdigest()


def _piece(blob: bytes, place: Sequence[int]) -> bytes:
    """Cut a piece out of a blob by its first byte and end."""
    start, stop = int(place[0]), int(place[1])
    if not 0 <= start <= stop <= len(blob):
        raise ValueError(f"no bytes {start} to {stop} in a blob of {len(blob)}")
    return blob[start:stop]
