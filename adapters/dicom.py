"""DICOM series and multi-frame files as volumes.

One candidate is one stack of single-frame files, or one multi-frame file (an enhanced file with
several orientations gives several volumes). Geometry policy: evenly spaced slices get an affine,
sheared when the gantry was tilted; unevenly spaced ones, and frames without positions, get none.
The positions of all slices are in ``attrs`` and in the ``slice_position`` coordinate either way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import (
    Candidate,
    Coordinate,
    Discovery,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    Volume,
    WrittenFile,
    file_records,
    safe_name,
)
from adapters.dicom_geometry import Stack, stack_slices
from adapters.dicom_header import ImageFile, looks_like_dicom, read_header
from adapters.dicom_pixels import (
    FrameArray,
    FramePlace,
    WordUse,
    corner_word,
    decoded_colours,
    place_frames,
    probe_decoders,
    word_use,
)
from adapters.dicom_record import content_sha256, describe_files
from adapters.dicom_restore import restore_dicom
from adapters.dicom_series import frame_table, has_geometry, split_into_stacks
from adapters.errors import SourceError

__all__ = ["DicomAdapter"]

_PRIORS = {"MR": "mr-head", "CT": "ct-body"}
_LEAST_CT_HU = -1024.0  # below this, a CT value outside the field of view is padding


class DicomAdapter:
    """Reads and writes DICOM; see ``adapters.base.Adapter``."""

    kind = "dicom"

    def sniff(self, path: Path) -> bool:
        """Tell whether the file starts like DICOM."""
        return looks_like_dicom(path)

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Group files into stacks; see ``adapters.dicom_series`` for the rules."""
        images, skipped, cut_off = [], [], set()
        for path in files:
            try:
                images.append(read_header(path))
            except SourceError as error:
                skipped.append(Skipped.of(path, error))
                if error.kind == "truncated":
                    cut_off.add(read_header(path, whole=False).series_uid)
        stacks, refused = split_into_stacks(images)
        for group, why in refused:
            skipped += [Skipped.of(image.path, why) for image in group]
        # A slice that is cut off must not vanish from its series without a word.
        for stack in (stack for stack in stacks if stack[0].series_uid in cut_off):
            reason = "its series holds a truncated file; fetch that again, or remove it"
            skipped += [Skipped(image.path, reason, "truncated") for image in stack]
        stacks = [stack for stack in stacks if stack[0].series_uid not in cut_off]
        per_series: dict[str, int] = {}
        for stack in stacks:
            uid = stack[0].series_uid
            per_series[uid] = per_series.get(uid, 0) + 1
        candidates = [_candidate(stack, per_series[stack[0].series_uid] > 1) for stack in stacks]
        return Discovery(tuple(candidates), tuple(skipped))

    def open(self, candidate: Candidate) -> SourceItem:
        """Open one stack; raises ``SourceError`` when its files no longer make one stack."""
        images = [read_header(path) for path in candidate.paths]
        stacks, refused = split_into_stacks(images)
        for _, error in refused:
            raise error
        if len(stacks) != 1:
            raise SourceError(
                f"expected files of one stack, found {len(stacks)} stacks",
                kind="mixed-series",
                hint="run discovery on the folder again",
            )
        return _item(candidate, stacks[0])

    def restore(
        self,
        document: dict[str, Any],
        blobs: dict[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write a DICOM series; see ``adapters.dicom_restore``."""
        return restore_dicom(document, blobs, volumes, target, info)

    def content_sha256(self, path: Path) -> str:
        """Digest of the stored words of all frames and of the data set around them."""
        return content_sha256(path)


def _candidate(stack: Sequence[ImageFile], split: bool) -> Candidate:
    first = stack[0]
    digest = hashlib.sha256((first.series_uid or str(first.path)).encode()).hexdigest()[:8]
    name = safe_name(f"{first.modality.lower() or 'dicom'}-{digest}", "dicom")
    key = first.series_uid or first.path.name
    if split:
        members = "\n".join(str(image.path) for image in stack)
        key = f"{key}#{hashlib.sha256(members.encode()).hexdigest()[:8]}"
    return Candidate("dicom", name, tuple(image.path for image in stack), key)


@dataclass(frozen=True)
class _Part:
    """Frames of one volume: ``table`` holds numbers into the item's flat list of frames."""

    name: str
    table: np.ndarray
    dims: tuple[str, ...]
    stack: Stack | None


def _item(candidate: Candidate, images: Sequence[ImageFile]) -> SourceItem:
    probe_decoders(images)
    uses = _common_use([word_use(image) for image in images])
    places = [
        [p for image, use in zip(images, uses, strict=True) for p in place_frames(image, use, s)]
        for s in range(images[0].samples)
    ]
    padding, notes = _special_words(images)
    if uses[0].stored == "mixed":
        notes.append("bits above BitsStored carry data (overlay or wider values): words kept whole")
    if any(image.lossy_before for image in images):
        notes.append("the source was already compressed with loss")
    volumes, volume_records = [], []
    for part in _parts(images):
        volumes.append(_volume(part, images, places, uses[0], padding))
        notes += part.stack.notes() if part.stack else ["no slice positions: no affine"]
        volume_records.append(_volume_record(part, images))
    records = file_records([image.path for image in images])
    document, blobs, promises = describe_files(images, uses, records)
    document["volumes"] = volume_records
    return SourceItem(
        kind="dicom",
        name=candidate.name,
        volumes=tuple(volumes),
        document=document,
        blobs=blobs,
        files=tuple(r.promising(p) for r, p in zip(records, promises, strict=True)),
        suggested_prior=_PRIORS.get(images[0].modality),
        notes=tuple(dict.fromkeys(notes)),
    )


def _common_use(uses: list[WordUse]) -> list[WordUse]:
    """One file with data in its high bits makes the words of all files stay whole."""
    if any(use.stored == "mixed" for use in uses):
        return [WordUse("mixed", use.dtype, use.bits_stored) for use in uses]
    return uses


def _special_words(
    images: Sequence[ImageFile],
) -> tuple[tuple[float | int, ...], list[str]]:
    stated = sorted({value for image in images for value in image.padding})
    if stated:
        return tuple(stated), []
    first = images[0]
    corners = {corner_word(image) for image in images} if first.modality == "CT" else set()
    corner = corners.pop() if len(corners) == 1 else None
    slope, intercept = first.frames[0].slope or 1.0, first.frames[0].intercept or 0.0
    if corner is not None and corner * slope + intercept < _LEAST_CT_HU:
        return (corner,), [f"all corners hold {corner}: taken as padding outside the field of view"]
    return (), []


def _parts(images: Sequence[ImageFile]) -> list[_Part]:
    first = images[0]
    frames = [frame for image in images for frame in image.frames]
    if not first.stacked or not all(has_geometry(frame) for frame in frames):
        lead = "t" if len(images) == 1 and len(frames) > 1 else "z"
        return [_Part("image", np.arange(len(frames)), (lead, "y", "x"), None)]
    tables = frame_table(frames) if first.enhanced else [np.arange(len(frames))]
    parts = []
    for number, table in enumerate(tables):
        suffix = f"_{number}" if len(tables) > 1 else ""
        lead_dims = ("t" + suffix, "z" + suffix) if table.ndim == 2 else ("z" + suffix,)
        row = [frames[i] for i in table.reshape(-1, table.shape[-1])[0]]
        stack = stack_slices(
            np.array([frame.position for frame in row]),
            row[0].orientation or (),
            (row[0].pixel_spacing or (1.0, 1.0))[:2],
            first.nominal_mm,
        )
        parts.append(_Part("image" + suffix, table, (*lead_dims, "y", "x"), stack))
    return parts


def _volume(
    part: _Part,
    images: Sequence[ImageFile],
    places: Sequence[Sequence[FramePlace]],
    use: WordUse,
    padding: tuple[float | int, ...],
) -> Volume:
    first = images[0]
    frames = [frame for image in images for frame in image.frames]
    chosen = [frames[i] for i in part.table.ravel()]
    slopes = [frame.slope for frame in chosen]
    intercepts = [frame.intercept for frame in chosen]
    attrs = _attrs(part, images, use)
    usable = not first.nonlinear and not (use.stored == "mixed" and first.embedded_overlay)
    uniform = len(set(slopes)) == len(set(intercepts)) == 1
    if usable and not uniform:
        shape = part.table.shape
        attrs["slice_slope"] = np.array([s or 1.0 for s in slopes]).reshape(shape).tolist()
        attrs["slice_intercept"] = np.array([i or 0.0 for i in intercepts]).reshape(shape).tolist()
    return Volume(
        name=part.name,
        array=FrameArray(
            places=tuple(planes[i] for planes in places for i in part.table.ravel()),
            shape=(*_samples(first), *part.table.shape, first.rows, first.columns),
            type_name=use.dtype,
        ),
        dims=(*("sample" for _ in _samples(first)), *part.dims),
        affine=part.stack.affine if part.stack else None,
        spacing_mm=part.stack.spacing_mm if part.stack else None,
        unit=_unit(first) if usable else None,
        slope=slopes[0] if usable and uniform else None,
        intercept=intercepts[0] if usable and uniform else None,
        special_values=padding,
        coordinates=_coordinates(part, first),
        attrs=attrs,
        exact_only=first.exact_only,
    )


def _samples(image: ImageFile) -> tuple[int, ...]:
    """Give the length of the axis of samples; nothing for grey images, which have none."""
    return (image.samples,) if image.samples > 1 else ()


def _unit(image: ImageFile) -> str | None:
    if image.rescale_type and image.rescale_type != "US":
        return image.rescale_type
    return "HU" if image.modality == "CT" and image.frames[0].slope is not None else None


def _attrs(part: _Part, images: Sequence[ImageFile], use: WordUse) -> dict[str, Any]:
    first = images[0]
    attrs: dict[str, Any] = {
        "modality": first.modality,
        "photometric_interpretation": decoded_colours(first) or first.photometric,
        "bits_allocated": first.bits_allocated,
        "bits_stored": first.bits_stored,
        "high_bits": use.stored,
        "transfer_syntaxes": sorted({image.transfer_syntax for image in images}),
        "lossy_before": any(image.lossy_before for image in images),
    }
    if part.stack is not None:
        frames = [frame for image in images for frame in image.frames]
        row = [frames[i] for i in part.table.reshape(-1, part.table.shape[-1])[0]]
        attrs["slice_spacing"] = "irregular" if part.stack.affine is None else "regular"
        attrs["image_positions_lps_mm"] = [list(frame.position or ()) for frame in row]
        attrs["image_orientation_lps"] = list(row[0].orientation or ())
        attrs["pixel_spacing_mm"] = list(row[0].pixel_spacing or ())
        attrs["gantry_tilt_degrees"] = round(part.stack.tilt_degrees, 4)
    return attrs


def _coordinates(part: _Part, image: ImageFile) -> tuple[Coordinate, ...]:
    if part.stack is not None:
        suffix = part.dims[-3][1:]
        meaning = {"units": "mm", "long_name": "position along the slice normal"}
        name, dim = "slice_position" + suffix, part.dims[-3]
        return (Coordinate(name, (dim,), part.stack.distances_mm, meaning),)
    if part.dims[0] == "t" and image.frame_time_ms:
        times = np.arange(part.table.size) * image.frame_time_ms
        return (Coordinate("t", ("t",), times, {"units": "ms"}),)
    return ()


def _volume_record(part: _Part, images: Sequence[ImageFile]) -> dict[str, Any]:
    owners = [(f, i) for f, image in enumerate(images) for i in range(len(image.frames))]
    return {
        "name": part.name,
        "shape": [*_samples(images[0]), *part.table.shape, images[0].rows, images[0].columns],
        "frames": [list(owners[i]) for i in part.table.ravel()],
    }
