"""One DICOM file's facts: what is needed to group, sort and read it, and nothing personal.

Reads the data set up to the pixel data; the pixels stay where they are and are addressed by their
byte offset when they are stored natively.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from adapters.dicom_frames import Frame, number, read_frames, text
from adapters.errors import SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["ImageFile", "damage_errors", "looks_like_dicom", "read_header"]

_DICOMDIR = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_VR_CODES = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OW PN SH SL SS ST TM UI UL US".split()
)


@cache
def damage_errors() -> tuple[type[Exception], ...]:
    """Give what pydicom raises on damaged data sets."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        InvalidDicomError,
        BytesLengthException,
        EOFError,
        OSError,
        struct.error,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        NotImplementedError,
        IndexError,
        OverflowError,
        RecursionError,
        RuntimeError,
    )


@dataclass(frozen=True)
class ImageFile:
    """One readable single-sample DICOM image file.

    ``pixel_start`` and ``pixel_length`` address the pixel words in the file when ``native``;
    otherwise the frames have to be decoded by pydicom. ``frames`` has one entry per frame.
    """

    path: Path
    series_uid: str
    modality: str
    transfer_syntax: str
    native: bool
    big_endian: bool
    pixel_start: int
    pixel_length: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    nominal_mm: float | None
    rescale_type: str | None
    padding: tuple[int, ...]
    frame_time_ms: float | None
    stacked: bool
    enhanced: bool
    embedded_overlay: bool
    lossy_before: bool
    nonlinear: bool
    frames: tuple[Frame, ...]

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native frame."""
        return self.rows * self.columns * self.bits_allocated // 8


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


def read_header(path: Path, *, whole: bool = True) -> ImageFile:
    """Read the facts of one file; ``whole`` refuses files whose pixel data is cut off.

    Raises
    ------
    SourceError : kind ``"dicomdir"``, ``"no-pixels"``, ``"unsupported-samples"``,
        ``"unsupported-pixels"``, ``"no-decoder"``, ``"truncated"`` or ``"damaged"``.
    """
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    try:
        with path.open("rb") as stream, disable_value_validation():
            dataset = dcmread(stream, stop_before_pixels=True, force=True)
            image = _facts(path, dataset, stream)
    except SourceError:
        raise
    except damage_errors() as error:
        raise SourceError(
            f"expected a readable DICOM data set, it breaks off or is damaged "
            f"({type(error).__name__})",
            kind="damaged",
            path=path,
        ) from error
    if whole:
        _check_length(image)
    return image


def _facts(path: Path, dataset: Dataset, stream: BinaryIO) -> ImageFile:
    syntax = _transfer_syntax(dataset)
    _check_is_image(path, dataset)
    _check_samples(path, dataset)
    native, start, length = _pixel_place(path, dataset, stream, syntax)
    big_endian = syntax == _BIG_ENDIAN
    frames, stacked, enhanced = read_frames(dataset)
    return ImageFile(
        path=path,
        series_uid=text(dataset, "SeriesInstanceUID"),
        modality=text(dataset, "Modality").upper(),
        transfer_syntax=syntax,
        native=native and not (big_endian and dataset.BitsAllocated == 8),
        big_endian=big_endian,
        pixel_start=start,
        pixel_length=length,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        bits_allocated=int(dataset.BitsAllocated),
        bits_stored=int(dataset.get("BitsStored") or dataset.BitsAllocated),
        high_bit=int(dataset.get("HighBit") or int(dataset.BitsAllocated) - 1),
        signed=bool(dataset.get("PixelRepresentation", 0)),
        photometric=text(dataset, "PhotometricInterpretation"),
        nominal_mm=number(dataset, "SliceThickness") or number(dataset, "SpacingBetweenSlices"),
        rescale_type=text(dataset, "RescaleType") or text(dataset, "Units") or None,
        padding=_padding(dataset),
        frame_time_ms=number(dataset, "FrameTime"),
        stacked=stacked,
        enhanced=enhanced,
        embedded_overlay=_has_embedded_overlay(dataset),
        lossy_before=text(dataset, "LossyImageCompression") == "01",
        nonlinear="ModalityLUTSequence" in dataset,
        frames=frames,
    )


def _transfer_syntax(dataset: Dataset) -> str:
    stated = dataset.file_meta.get("TransferSyntaxUID")
    if stated:
        return str(stated)
    implicit, little = dataset.original_encoding
    if not little:
        return _BIG_ENDIAN
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"


def _check_is_image(path: Path, dataset: Dataset) -> None:
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DICOMDIR:
        raise SourceError("a DICOMDIR index holds no image", kind="dicomdir", path=path)
    if "Rows" not in dataset or "Columns" not in dataset or "BitsAllocated" not in dataset:
        raise SourceError(
            "expected an image, found a DICOM object without rows and columns",
            kind="no-pixels",
            path=path,
        )


def _pixel_place(
    path: Path, dataset: Dataset, stream: BinaryIO, syntax: str
) -> tuple[bool, int, int]:
    """Give (native, offset of the pixel words, their length) and check that they can be read."""
    if syntax == _DEFLATED:
        return False, 0, 0
    start = stream.tell()
    head = stream.read(12)
    little = syntax != _BIG_ENDIAN
    order = "<" if little else ">"
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != (0x7FE0, 0x0010):
        raise SourceError(
            "expected integer pixel data, found none",
            kind="unsupported-pixels" if head[:2] in (b"\xe0\x7f", b"\x7f\xe0") else "no-pixels",
            path=path,
        )
    implicit = dataset.original_encoding[0] and head[4:6] not in (b"OB", b"OW", b"UN")
    value = start + (8 if implicit else 12)
    (length,) = struct.unpack(f"{order}I", head[4:8] if implicit else head[8:12])
    if length != 0xFFFFFFFF:
        return True, value, int(length)
    _check_decoder(path, syntax)
    return False, start, 0


def _check_decoder(path: Path, syntax: str) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        available = get_decoder(UID(syntax)).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise SourceError(
            f"no decoder is installed for the transfer syntax {UID(syntax).name!r} ({syntax})",
            kind="no-decoder",
            path=path,
            hint="install a pydicom decoder plugin for it, or convert the files to a native syntax",
        )


def _check_samples(path: Path, dataset: Dataset) -> None:
    samples = int(dataset.get("SamplesPerPixel", 1))
    photometric = text(dataset, "PhotometricInterpretation")
    if samples != 1 or photometric == "PALETTE COLOR":
        raise SourceError(
            f"expected one grey sample per pixel, found {samples} with photometric interpretation "
            f"{photometric!r}; colour images are not supported yet",
            kind="unsupported-samples",
            path=path,
        )
    if int(dataset.Rows) < 1 or int(dataset.Columns) < 1:
        raise SourceError("expected at least one row and column", kind="damaged", path=path)
    stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    if dataset.BitsAllocated in (8, 16, 32) and not 1 <= stored <= dataset.BitsAllocated:
        raise SourceError(
            f"expected 1 to {dataset.BitsAllocated} bits stored, found {stored}",
            kind="damaged",
            path=path,
        )
    if dataset.BitsAllocated not in (8, 16, 32):
        raise SourceError(
            f"expected 8, 16 or 32 bits allocated, found {dataset.BitsAllocated!r}",
            kind="unsupported-pixels",
            path=path,
        )


def _check_length(image: ImageFile) -> None:
    if not image.native:
        return
    expected = image.frame_bytes * len(image.frames)
    found = min(image.pixel_length, image.path.stat().st_size - image.pixel_start)
    if found < expected:
        raise SourceError(
            f"expected {expected} bytes of pixel data at offset {image.pixel_start}, found {found}",
            kind="truncated",
            path=image.path,
            hint="the file is cut off; fetch it again from its source",
        )


def _padding(dataset: Dataset) -> tuple[int, ...]:
    """Give padding sentinels as stored numbers: the value, or the ends of the padding range."""
    bits = int(dataset.BitsAllocated)
    signed = bool(dataset.get("PixelRepresentation", 0))
    values = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = dataset.get(name)
        if isinstance(value, int):
            word = value & ((1 << bits) - 1)
            negative = signed and word >> (bits - 1)
            values.append(word - (1 << bits) if negative else word)
    return tuple(sorted(set(values)))


def _has_embedded_overlay(dataset: Dataset) -> bool:
    return any(
        (group, 0x0102) in dataset and (group, 0x3000) not in dataset
        for group in range(0x6000, 0x601F, 2)
    )
