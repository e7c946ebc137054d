"""One DICOM file's facts: what is needed to group, sort and read it, and nothing personal.

Reads the data set up to the pixel data; the pixels stay where they are and are addressed by their
byte offset when they are stored natively. Nothing is allocated on a header's word alone: the
numbers of frames, rows and columns are compared with the bytes that are there first.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from adapters.dicom.frames import (
    Frame,
    FrameSet,
    frame_count,
    number,
    read_frames,
    text,
    without_scale,
)
from adapters.dicom.layout import PixelLayout
from adapters.dicom.meaning import (
    RealWorld,
    nominal_thickness,
    real_world_of,
    segmentation_facts,
)
from adapters.dicom.mosaic import Mosaic, is_mosaic, read_mosaic
from adapters.dicom.place import (
    check_image,
    check_length,
    check_samples,
    find_pixels,
    layout_of,
    samples_of,
    word_of,
)
from adapters.dicom.syntax import (
    damage_errors,
    data_stream,
    lossy_method,
    refuse_swapped,
    transfer_syntax,
)
from adapters.dicom.terms import known_colours, known_modality, known_unit
from adapters.dicom.words import words_of
from adapters.errors import SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["ImageFile", "looks_like_dicom", "read_header", "series_identity"]

_SCALE = ("RescaleSlope", "RescaleIntercept", "DoseGridScaling")
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_VR_CODES = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OW PN SH SL SS ST TM UI UL US".split()
)


@dataclass(frozen=True)
class ImageFile:
    """One readable DICOM image file.

    ``pixel_start`` and ``pixel_length`` address the pixel words in the file (of a deflated one:
    in its inflated bytes) when ``native``, and ``layout`` says how they lie there; otherwise the
    frames have to be decoded by pydicom. ``word`` is the NumPy type of a stored value. ``frames``
    has one entry per frame; the tiles of a mosaic are its frames, ``rows`` and ``columns`` those
    of a tile. ``identity`` is a digest of patient, study and series; ``identifies`` tells that the
    header names a person, and was not de-identified. ``words`` say what it shows.
    """

    path: Path
    identity: str
    identifies: bool
    instance_uid: str
    modality: str
    transfer_syntax: str
    layout: PixelLayout | None
    pixel_start: int
    pixel_length: int
    rows: int
    columns: int
    samples: int
    word: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    nominal_mm: float | None
    unit: str | None
    padding: tuple[float | int, ...]
    times_ms: tuple[float, ...] | None
    stacked: bool
    enhanced: bool
    embedded_overlay: bool
    lossy_stated: bool
    nonlinear: bool
    unreadable_scale: bool
    segment_labels: tuple[tuple[int, str], ...]
    segmentation: bool
    segmentation_facts: tuple[tuple[str, str | int], ...]
    real_world: RealWorld | None
    mosaic: Mosaic | None
    words: str
    unreadable_mosaic: bool
    frames: tuple[Frame, ...]

    @property
    def native(self) -> bool:
        """Whether the words lie in the file as they are."""
        return self.layout is not None

    @property
    def lossy_method(self) -> str | None:
        """Name of the lossy compression the transfer syntax stands for; None when it may be exact.

        Values as in LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1).
        """
        return lossy_method(self.transfer_syntax, self.photometric)

    @property
    def lossy_before(self) -> bool:
        """Whether an earlier step lost something, by the header or by the transfer syntax."""
        return self.lossy_stated or self.lossy_method is not None

    @property
    def exact_only(self) -> str | None:
        """Why the values must not be coded with loss, in words; None when they may be."""
        if self.samples > 1:
            return f"colour, {self.samples} samples per pixel"
        if self.bits_allocated == 1:
            return "one bit per pixel: a mask, not measurements"
        if self.segmentation:
            return "a segmentation, not measurements"
        if self.photometric == "PALETTE COLOR":
            return "indices into a palette, not measurements"
        if self.high_bit != self.bits_stored - 1 and self.word[0] != "f" and self.native:
            return (
                f"HighBit {self.high_bit} is not BitsStored {self.bits_stored} less one: readers "
                "do not agree on the values"
            )
        return None


def looks_like_dicom(path: Path) -> bool:
    """Tell whether a file has the DICOM prefix, or starts like a data set written without one."""
    with path.open("rb") as stream:
        start = stream.read(132)
    if start[128:132] == b"DICM":
        return True
    if len(start) < 16 or start[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    element = int.from_bytes(start[2:4], "little")
    implicit_length = int.from_bytes(start[4:8], "little")
    return element < 0x1200 and (start[4:6] in _VR_CODES or 0 < implicit_length < 128)


def series_identity(path: Path) -> str | None:
    """Give the digest of patient, study and series of a file that may be cut off, or None."""
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    try:
        with data_stream(path) as stream, disable_value_validation():
            return _identity(dcmread(stream, stop_before_pixels=True, force=True))
    except SourceError:
        return None
    except damage_errors():
        return None


def read_header(path: Path) -> ImageFile:
    """Read the facts of one file.

    Raises
    ------
    SourceError : kind ``"dicomdir"``, ``"no-pixels"``, ``"unsupported-samples"``,
        ``"unsupported-pixels"``, ``"no-decoder"``, ``"wrong-transfer-syntax"``, ``"too-big"``,
        ``"truncated"`` or ``"damaged"``.
    """
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    try:
        with data_stream(path) as stream, disable_value_validation():
            dataset = dcmread(stream, stop_before_pixels=True, force=True)
            return _facts(path, dataset, stream, deflated=isinstance(stream, io.BytesIO))
    except SourceError:
        raise
    except damage_errors() as error:
        raise SourceError(
            f"expected a readable DICOM data set, it breaks off or is damaged "
            f"({type(error).__name__})",
            kind="damaged",
            path=path,
        ) from error


def _facts(path: Path, dataset: Dataset, stream: BinaryIO, *, deflated: bool) -> ImageFile:
    # long: a line for each fact
    syntax = transfer_syntax(dataset, deflated=deflated)
    refuse_swapped(path, dataset)
    check_image(path, dataset)
    place = find_pixels(path, dataset, stream, syntax)
    check_samples(path, dataset, place)
    layout = layout_of(path, dataset, place, frame_count(dataset), syntax)
    check_length(path, dataset, stream, place, layout)
    found, mosaic, sheet = _frames(dataset)
    meaning = real_world_of(dataset, found.frames)
    frames = found.frames if meaning is None else meaning.applied(found.frames)
    unreadable_scale = _has_unreadable_scale(dataset)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if mosaic is not None:
        rows, columns = mosaic.tile_size(rows, columns)
        layout = _tiled(layout, mosaic, rows, columns)
    bits, high = int(dataset.BitsAllocated), dataset.get("HighBit")
    stored = int(dataset.get("BitsStored") or bits)
    return ImageFile(
        path=path,
        identity=_identity(dataset),
        identifies=_identifies(dataset),
        instance_uid=text(dataset, "SOPInstanceUID"),
        modality=known_modality(text(dataset, "Modality")),
        words=words_of(dataset),
        transfer_syntax=syntax,
        layout=layout,
        pixel_start=place.start,
        pixel_length=place.length,
        rows=rows,
        columns=columns,
        samples=samples_of(dataset),
        word=word_of(dataset, place),
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=stored - 1 if high is None else int(high),
        signed=bool(dataset.get("PixelRepresentation", 0)),
        photometric=known_colours(text(dataset, "PhotometricInterpretation")),
        nominal_mm=nominal_thickness(dataset),
        unit=None if unreadable_scale else _unit(dataset),
        padding=_padding(dataset, stored),
        times_ms=found.times_ms,
        stacked=found.stacked,
        enhanced=found.enhanced,
        embedded_overlay=_has_embedded_overlay(dataset),
        lossy_stated=text(dataset, "LossyImageCompression") == "01",
        nonlinear="ModalityLUTSequence" in dataset,
        unreadable_scale=unreadable_scale,
        segment_labels=_segment_labels(dataset),
        segmentation=text(dataset, "SOPClassUID") in _SEGMENTATIONS
        or text(dataset, "Modality").upper() == "SEG",
        segmentation_facts=segmentation_facts(dataset),
        real_world=meaning,
        mosaic=mosaic,
        unreadable_mosaic=sheet,
        frames=tuple(map(without_scale, frames)) if unreadable_scale else frames,
    )


def _frames(dataset: Dataset) -> tuple[FrameSet, Mosaic | None, bool]:
    """Give the frames; the tiles of a mosaic are its frames, one that is not understood is one."""
    found = read_frames(dataset)
    if not is_mosaic(dataset) or len(found.frames) > 1 or samples_of(dataset) > 1:
        return found, None, False
    (sheet,) = found.frames
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    mosaic = read_mosaic(dataset, sheet, rows, columns)
    if mosaic is None:
        return found, None, True
    return FrameSet(mosaic.frames(sheet, rows, columns), True, False), mosaic, False


def _tiled(
    layout: PixelLayout | None, mosaic: Mosaic, rows: int, columns: int
) -> PixelLayout | None:
    if layout is None:
        return None
    return PixelLayout(
        "mosaic", rows, columns, mosaic.tiles, 1, layout.word, layout.big_endian, grid=mosaic.grid
    )


def _identifies(dataset: Dataset) -> bool:
    names = ("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs")
    removed = text(dataset, "PatientIdentityRemoved").upper() == "YES"
    return not removed and any(text(dataset, name) for name in names)


def _identity(dataset: Dataset) -> str:
    """Digest what tells this series from those of other patients and studies."""
    names = ("PatientID", "IssuerOfPatientID", "PatientName", "StudyInstanceUID")
    parts = [text(dataset, name) for name in (*names, "SeriesInstanceUID")]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _unit(dataset: Dataset) -> str | None:
    """Give the unit of the values after scaling, of those that the standard defines.

    None where the frames of a file do not agree.
    """
    if "DoseGridScaling" in dataset:
        return known_unit(text(dataset, "DoseUnits"))
    is_ct = text(dataset, "Modality").upper() == "CT"
    found = set()
    for scaling in _scalings(dataset):
        kind = text(scaling, "RescaleType")
        stated = known_unit(kind) or known_unit(text(dataset, "Units"))
        if stated is None and is_ct and "RescaleSlope" in scaling and not kind:
            stated = "HU"
        found.add(stated)
    return found.pop() if len(found) == 1 else None


def _scalings(dataset: Dataset) -> list[Dataset]:
    """What states how values are scaled: functional groups where there are any."""
    groups = [
        group
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        for group in dataset.get(name) or ()
    ]
    found = [group.get("PixelValueTransformationSequence") for group in groups]
    return [sequence[0] for sequence in found if sequence] or [dataset]


def _has_unreadable_scale(dataset: Dataset) -> bool:
    """Whether values have a scale that is no number, so that nobody can say what they mean.

    One that is empty throughout is none.
    """
    for scaling in _scalings(dataset):
        stated = [name for name in _SCALE if name in scaling]
        unreadable = [name for name in stated if number(scaling, name) is None]
        if unreadable and (len(unreadable) < len(stated) or any(text(scaling, n) for n in stated)):
            return True
    return False


def _segment_labels(dataset: Dataset) -> tuple[tuple[int, str], ...]:
    labels = []
    for segment in dataset.get("SegmentSequence") or ():
        value = number(segment, "SegmentNumber")
        if value is not None:
            labels.append((int(value), text(segment, "SegmentLabel")))
    return tuple(labels)


def _padding(dataset: Dataset, stored: int) -> tuple[float | int, ...]:
    """Give padding sentinels as stored numbers: the value, or the ends of the padding range."""
    signed = bool(dataset.get("PixelRepresentation", 0))
    values: list[float | int] = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = dataset.get(name)
        if isinstance(value, int) and samples_of(dataset) == 1:
            word = value & ((1 << stored) - 1)
            negative = signed and word >> (stored - 1)
            values.append(word - (1 << stored) if negative else word)
        for prefix in ("Float", "DoubleFloat"):
            value = dataset.get(prefix + name)
            if isinstance(value, float) and math.isfinite(value):
                values.append(value)
    return tuple(sorted(set(values)))


def _has_embedded_overlay(dataset: Dataset) -> bool:
    return any(
        (group, 0x0102) in dataset and (group, 0x3000) not in dataset
        for group in range(0x6000, 0x601F, 2)
    )
