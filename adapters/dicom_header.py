"""One DICOM file's facts: what is needed to group, sort and read it, and nothing personal.

Reads the data set up to the pixel data; the pixels stay where they are and are addressed by their
byte offset when they are stored natively.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from adapters.dicom_frames import Frame, number, read_frames, text
from adapters.dicom_layout import PixelLayout
from adapters.errors import SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["ImageFile", "damage_errors", "looks_like_dicom", "read_header"]

_DICOMDIR = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_LOSSY_METHODS = {  # transfer syntaxes that always lose something, and the method's name
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
_JPEG2000 = "1.2.840.10008.1.2.4.91"  # irreversible when its colours are YBR_ICT
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_PIXELS, _FLOATS, _DOUBLES = (0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009)
_PIXEL_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_MOST_SAMPLES = 4
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
        NotImplementedError,  # pydicom, for an encoding that it does not know
        IndexError,
        OverflowError,
        RecursionError,
        RuntimeError,
    )


@dataclass(frozen=True)
class ImageFile:
    """One readable DICOM image file.

    ``pixel_start`` and ``pixel_length`` address the pixel words in the file when ``native``, and
    ``layout`` says how they lie there; otherwise the frames have to be decoded by pydicom.
    ``word`` is the NumPy type of a stored value. ``frames`` has one entry per frame.
    """

    path: Path
    series_uid: str
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
    rescale_type: str | None
    padding: tuple[float | int, ...]
    frame_time_ms: float | None
    stacked: bool
    enhanced: bool
    embedded_overlay: bool
    lossy_stated: bool
    nonlinear: bool
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
        if self.transfer_syntax == _JPEG2000 and self.photometric == "YBR_ICT":
            return "ISO_15444_1"
        return _LOSSY_METHODS.get(self.transfer_syntax)

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
        if self.photometric == "PALETTE COLOR":
            return "indices into a palette, not measurements"
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
    place = _pixel_place(path, dataset, stream, syntax)
    _check_samples(path, dataset, place)
    frames, stacked, enhanced = read_frames(dataset)
    return ImageFile(
        path=path,
        series_uid=text(dataset, "SeriesInstanceUID"),
        modality=text(dataset, "Modality").upper(),
        transfer_syntax=syntax,
        layout=_layout(path, dataset, place, len(frames), big_endian=syntax == _BIG_ENDIAN),
        pixel_start=place.start,
        pixel_length=place.length,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples=_samples(dataset),
        word=_word(dataset, place),
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
        lossy_stated=text(dataset, "LossyImageCompression") == "01",
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


@dataclass(frozen=True)
class _PixelPlace:
    """Where the pixel element is: offset of its words, their length, element and VR."""

    native: bool
    start: int
    length: int
    tag: tuple[int, int] = _PIXELS
    vr: str = ""


def _pixel_place(path: Path, dataset: Dataset, stream: BinaryIO, syntax: str) -> _PixelPlace:
    """Find the pixel element and check that it can be read."""
    if syntax == _DEFLATED:
        return _PixelPlace(False, 0, 0)
    start = stream.tell()
    head = stream.read(12)
    order = "<" if syntax != _BIG_ENDIAN else ">"
    tag = struct.unpack(f"{order}HH", head[:4]) if len(head) >= 8 else (0, 0)
    if tag not in (_PIXELS, _FLOATS, _DOUBLES):
        raise SourceError("expected pixel data, found none", kind="no-pixels", path=path)
    implicit = dataset.original_encoding[0] and head[4:6] not in _PIXEL_VRS
    value = start + (8 if implicit else 12)
    (length,) = struct.unpack(f"{order}I", head[4:8] if implicit else head[8:12])
    vr = "" if implicit else head[4:6].decode("ascii", "replace")
    if length != 0xFFFFFFFF:
        return _PixelPlace(True, value, int(length), tag, vr)
    _check_decoder(path, syntax)
    return _PixelPlace(False, start, 0, tag, vr)


def _samples(dataset: Dataset) -> int:
    return int(dataset.get("SamplesPerPixel") or 1)


def _word(dataset: Dataset, place: _PixelPlace) -> str:
    """NumPy type of a stored value, without byte order."""
    if place.tag != _PIXELS:
        return "f4" if place.tag == _FLOATS else "f8"
    sign = "i" if dataset.get("PixelRepresentation", 0) else "u"
    return f"{sign}{max(1, int(dataset.BitsAllocated) // 8)}"


def _layout(
    path: Path, dataset: Dataset, place: _PixelPlace, frames: int, *, big_endian: bool
) -> PixelLayout | None:
    if not place.native:
        return None
    samples, bits = _samples(dataset), int(dataset.BitsAllocated)
    size = (int(dataset.Rows), int(dataset.Columns), frames, samples)
    order = "bits" if bits == 1 else "grey"
    if samples > 1:
        order = "planar" if dataset.get("PlanarConfiguration") == 1 else "interleaved"
    swapped = big_endian and bits <= 8 and place.vr == "OW"
    layout = PixelLayout(order, *size, _word(dataset, place), big_endian and bits > 8, swapped)
    subsampled = text(dataset, "PhotometricInterpretation") == "YBR_FULL_422"
    if subsampled and samples == 3 and bits == 8 and place.length < layout.nbytes:
        if size[1] % 2:
            raise SourceError(
                f"expected an even number of columns for YBR_FULL_422, found {size[1]}",
                kind="damaged",
                path=path,
            )
        return PixelLayout("ybr422", *size, layout.word, big_endian=False, swapped=swapped)
    return layout


def _check_decoder(path: Path, syntax: str) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        available = get_decoder(UID(syntax)).is_available
    except NotImplementedError:  # pydicom's answer to a syntax that it has no decoder class for
        available = False
    if not available:
        raise SourceError(
            f"no decoder is installed for the transfer syntax {UID(syntax).name!r} ({syntax})",
            kind="no-decoder",
            path=path,
            hint="install a pydicom decoder plugin for it, or convert the files to a native syntax",
        )


def _check_samples(path: Path, dataset: Dataset, place: _PixelPlace) -> None:
    samples, bits = _samples(dataset), int(dataset.BitsAllocated)
    if int(dataset.Rows) < 1 or int(dataset.Columns) < 1:
        raise SourceError("expected at least one row and column", kind="damaged", path=path)
    if samples > _MOST_SAMPLES:
        raise SourceError(
            f"expected 1 to {_MOST_SAMPLES} samples per pixel, found {samples}",
            kind="unsupported-samples",
            path=path,
        )
    known = {_PIXELS: (1, 8, 16, 32), _FLOATS: (32,), _DOUBLES: (64,)}[place.tag]
    if bits not in known or (bits == 1 and samples > 1):
        raise SourceError(
            f"expected {', '.join(map(str, known))} bits allocated, found {bits} with {samples} "
            "sample(s) per pixel",
            kind="unsupported-pixels",
            path=path,
        )
    stored = int(dataset.get("BitsStored") or bits)
    if place.tag == _PIXELS and not 1 <= stored <= bits:
        raise SourceError(
            f"expected 1 to {bits} bits stored, found {stored}", kind="damaged", path=path
        )


def _check_length(image: ImageFile) -> None:
    if image.layout is None:
        return
    expected = image.layout.nbytes
    found = min(image.pixel_length, image.path.stat().st_size - image.pixel_start)
    if found < expected:
        raise SourceError(
            f"expected {expected} bytes of pixel data at offset {image.pixel_start}, found {found}",
            kind="truncated",
            path=image.path,
            hint="the file is cut off; fetch it again from its source",
        )


def _padding(dataset: Dataset) -> tuple[float | int, ...]:
    """Give padding sentinels as stored numbers: the value, or the ends of the padding range."""
    bits = int(dataset.BitsAllocated)
    signed = bool(dataset.get("PixelRepresentation", 0))
    values: list[float | int] = []
    for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = dataset.get(name)
        if isinstance(value, int) and _samples(dataset) == 1:
            word = value & ((1 << bits) - 1)
            negative = signed and word >> (bits - 1)
            values.append(word - (1 << bits) if negative else word)
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
