"""DICOM series and multi-frame files as volumes.

One candidate is one series of files that make a grid, or one multi-frame file (an enhanced file
with several orientations gives several volumes). Geometry policy: evenly spaced slices get an
affine, sheared when the gantry was tilted; unevenly spaced ones, and frames without positions, get
none. The positions of all slices are in ``attrs`` and in the ``slice_position`` coordinate either
way. What cannot be sorted into a grid is kept as a list of frames: nothing is refused for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.base import (
    Candidate,
    Discovery,
    RestoredVolume,
    RestoreInfo,
    Skipped,
    SourceItem,
    WrittenFile,
)
from adapters.dicom.bits import BitUse
from adapters.dicom.header import ImageFile, looks_like_dicom, read_header
from adapters.dicom.pixels import bit_use_of, corner_value, place_frames, probe_decoders
from adapters.dicom.record import content_sha256, describe_files
from adapters.dicom.restore import restore_dicom
from adapters.dicom.series import Series, group_series
from adapters.dicom.skipped import copies_of, cut_off_series, shortened
from adapters.dicom.terms import archive_name
from adapters.dicom.volume import in_order, parts_of, volume_of, volume_record
from adapters.errors import SourceError
from adapters.source_files import file_records

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
        """Group files into series; see ``adapters.dicom.series`` for the rules."""
        images: list[ImageFile] = []
        errors: list[SourceError] = []
        for path in files:
            try:
                images.append(read_header(path))
            except SourceError as error:
                errors.append(error)
        skipped = [Skipped.of(e.path, e) for e in errors if e.path is not None]
        lost = cut_off_series(errors)
        candidates = []
        for series in group_series(images):
            # A slice that is cut off must not vanish from its series without a word.
            if series.images[0].identity in lost:
                skipped += shortened(series)
                continue
            candidates.append(_candidate(series))
            skipped += copies_of(series)
        return Discovery(tuple(candidates), tuple(skipped))

    def open(self, candidate: Candidate) -> SourceItem:
        """Open one series; raises ``SourceError`` when its files no longer make one."""
        found = group_series([read_header(path) for path in candidate.paths])
        if len(found) != 1:
            raise SourceError(
                f"expected files of one series, found {len(found)}",
                kind="mixed-series",
                hint="run discovery on the folder again",
            )
        return _item(candidate, found[0])

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write a DICOM series; see ``adapters.dicom.restore``."""
        return restore_dicom(document, blobs, volumes, target, info)

    def content_sha256(self, path: Path) -> str:
        """Digest of the values of all frames and of the data set around them."""
        return content_sha256(path)


def _candidate(series: Series) -> Candidate:
    images = in_order(series.images)
    paths = [image.path for image in images] + [copy.path for copy, _ in series.copies]
    name = archive_name(images[0].modality, series.key)
    return Candidate("dicom", name, tuple(paths), series.key)


def _item(candidate: Candidate, series: Series) -> SourceItem:
    images = in_order(series.images)
    wider = probe_decoders(images)
    uses = [bit_use_of(image, wider) for image in images]
    padding, notes = _special_values(images, uses)
    notes += _notes(images, uses, series)
    places = [
        [p for image, use in zip(images, uses, strict=True) for p in place_frames(image, use, s)]
        for s in range(images[0].samples)
    ]
    volumes, volume_records = [], []
    for part in parts_of(images):
        volumes.append(volume_of(part, images, places, uses, padding))
        volume_records.append(volume_record(part, images))
        notes += part.notes
    by_path = dict(zip(candidate.paths, file_records(candidate.paths), strict=True))
    records = [by_path[image.path] for image in images]
    document, blobs, promises = describe_files(images, uses, records)
    document["volumes"] = volume_records
    document["copies"] = [
        {"name": by_path[copy.path].name, "of": by_path[original.path].name}
        | {"size": by_path[copy.path].size, "sha256": by_path[copy.path].sha256}
        for copy, original in series.copies
    ]
    return SourceItem(
        kind="dicom",
        name=candidate.name,
        volumes=tuple(volumes),
        document=document,
        blobs=blobs,
        files=tuple(r.promising(p) for r, p in zip(records, promises, strict=True)),
        suggested_prior=_PRIORS.get(images[0].modality),
        words=images[0].words,
        notes=tuple(dict.fromkeys(notes)),
        identifies=any(image.identifies for image in images),
    )


def _notes(images: Sequence[ImageFile], uses: Sequence[BitUse], series: Series) -> list[str]:
    notes = []
    if any(use.planes for use in uses):
        notes.append(
            "bits above BitsStored carry something of their own (an overlay, or junk): "
            "kept exactly, beside the values"
        )
    if any(image.lossy_before for image in images):
        notes.append("the source was already compressed with loss")
    if images[0].nonlinear:
        notes.append("a ModalityLUTSequence maps values to physical ones: stored values are shown")
    if images[0].real_world is not None and images[0].real_world.scales is None:
        notes.append(
            "a parametric map without one linear mapping to real-world values: stored values are "
            "shown"
        )
    if images[0].unreadable_scale:
        notes.append(
            "the scale of the values (RescaleSlope, RescaleIntercept or DoseGridScaling) is no "
            "number: stored values are shown, without a unit"
        )
    if any(i.layout and i.pixel_length > i.layout.nbytes + i.layout.nbytes % 2 for i in images):
        notes.append("pixel data hold more than the header's frames: the rest is kept, not shown")
    if series.copies:
        notes.append(
            f"{len(series.copies)} file(s) are copies of others (same SOPInstanceUID, same "
            "pixels): left out; the archive's source document names them"
        )
    return notes


def _special_values(
    images: Sequence[ImageFile], uses: Sequence[BitUse]
) -> tuple[tuple[float | int, ...], list[str]]:
    stated = sorted({value for image in images for value in image.padding})
    if stated:
        return tuple(stated), []
    first = images[0]
    if first.modality != "CT":
        return (), []
    corners = {corner_value(image, use) for image, use in zip(images, uses, strict=True)}
    corner = corners.pop() if len(corners) == 1 else None
    frame = first.frames[0]
    slope = 1.0 if frame.slope is None else frame.slope
    if corner is not None and corner * slope + (frame.intercept or 0.0) < _LEAST_CT_HU:
        return (corner,), [f"all corners hold {corner}: taken as padding outside the field of view"]
    return (), []
