"""Where the pixel words of a file are, how they lie, and whether they are all there."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from adapters.dicom.frames import frame_count, text
from adapters.dicom.layout import PixelLayout
from adapters.dicom.syntax import BIG_ENDIAN, check_decoder, is_implicit, is_native_syntax
from adapters.errors import SourceError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "PIXELS",
    "PixelPlace",
    "check_image",
    "check_length",
    "check_samples",
    "find_pixels",
    "layout_of",
    "samples_of",
    "word_of",
]

_DICOMDIR = "1.2.840.10008.1.3.10"
PIXELS, _FLOATS, _DOUBLES = (0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009)
_PIXEL_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_MOST_SAMPLES = 4
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True)
class PixelPlace:
    """Where the pixel element is: offset of its words, their length, element and VR.

    Of compressed pixels ``start`` is the offset of the element itself, ``value`` that of the
    first item.
    """

    native: bool
    start: int
    length: int
    tag: tuple[int, int] = PIXELS
    vr: str = ""
    value: int = 0


def check_image(path: Path, dataset: Dataset) -> None:
    """Refuse what is no image; raises ``SourceError`` of kind ``"dicomdir"``, ``"no-pixels"``.

    What reads as elements that do not exist is ``"damaged"``.
    """
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DICOMDIR:
        raise SourceError("a DICOMDIR index holds no image", kind="dicomdir", path=path)
    if "SOPClassUID" not in dataset and _is_nonsense(dataset):
        raise SourceError(
            "expected a readable DICOM data set, found elements that the standard does not have",
            kind="damaged",
            path=path,
        )
    if "Rows" not in dataset or "Columns" not in dataset or "BitsAllocated" not in dataset:
        raise SourceError(
            "expected an image, found a DICOM object without rows and columns",
            kind="no-pixels",
            path=path,
        )


def _is_nonsense(dataset: Dataset) -> bool:
    """Whether there is no element of the standard, or one that the standard does not have."""
    from pydicom.datadict import dictionary_has_tag

    tags = [tag for tag in dataset.keys() if not tag.is_private]  # noqa: SIM118
    known = [dictionary_has_tag(tag) or tag.element == 0 for tag in tags]
    return not known or not all(known)


def find_pixels(path: Path, dataset: Dataset, stream: BinaryIO, syntax: str) -> PixelPlace:
    """Find the pixel element, at the stream's place, and check that it can be read.

    Raises
    ------
    SourceError : kind ``"no-pixels"``, ``"no-decoder"`` or ``"wrong-transfer-syntax"``.
    """
    start = stream.tell()
    head = stream.read(12)
    order = "<" if syntax != BIG_ENDIAN else ">"
    tag = struct.unpack(f"{order}HH", head[:4]) if len(head) >= 8 else (0, 0)
    if tag not in (PIXELS, _FLOATS, _DOUBLES):
        raise SourceError("expected pixel data, found none", kind="no-pixels", path=path)
    implicit = head[4:6] not in _PIXEL_VRS and is_implicit(dataset)
    value = start + (8 if implicit else 12)
    (length,) = struct.unpack(f"{order}I", head[4:8] if implicit else head[8:12])
    vr = "" if implicit else head[4:6].decode("ascii", "replace")
    if (length != _UNDEFINED) != is_native_syntax(syntax):
        found = "encapsulated" if length == _UNDEFINED else "native"
        raise SourceError(
            f"the transfer syntax does not fit the pixel data, which is {found}",
            kind="wrong-transfer-syntax",
            path=path,
            hint="correct the transfer syntax in the file's header",
        )
    if length != _UNDEFINED:
        return PixelPlace(True, value, int(length), tag, vr, value)
    check_decoder(path, syntax)
    return PixelPlace(False, start, 0, tag, vr, value)


def samples_of(dataset: Dataset) -> int:
    """Samples per pixel."""
    return int(dataset.get("SamplesPerPixel") or 1)


def word_of(dataset: Dataset, place: PixelPlace) -> str:
    """NumPy type of a stored value, without byte order."""
    if place.tag != PIXELS:
        return "f4" if place.tag == _FLOATS else "f8"
    sign = "i" if dataset.get("PixelRepresentation", 0) else "u"
    return f"{sign}{max(1, int(dataset.BitsAllocated) // 8)}"


def layout_of(
    path: Path, dataset: Dataset, place: PixelPlace, frames: int, syntax: str
) -> PixelLayout | None:
    """Give how native words lie; None for compressed pixels.

    Raises
    ------
    SourceError : kind ``"damaged"``.
    """
    if not place.native:
        return None
    samples, bits, big_endian = (
        samples_of(dataset),
        int(dataset.BitsAllocated),
        syntax == BIG_ENDIAN,
    )
    size = (int(dataset.Rows), int(dataset.Columns), frames, samples)
    order = "bits" if bits == 1 else "grey"
    if samples > 1:
        order = "planar" if dataset.get("PlanarConfiguration") == 1 else "interleaved"
    swapped = big_endian and bits <= 8 and place.vr == "OW"
    layout = PixelLayout(order, *size, word_of(dataset, place), big_endian and bits > 8, swapped)
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


def check_samples(path: Path, dataset: Dataset, place: PixelPlace) -> None:
    """Refuse sizes and types of pixels that make no sense, or that nobody reads.

    Raises
    ------
    SourceError : kind ``"damaged"``, ``"unsupported-samples"`` or ``"unsupported-pixels"``.
    """
    samples, bits = samples_of(dataset), int(dataset.BitsAllocated)
    if int(dataset.Rows) < 1 or int(dataset.Columns) < 1:
        raise SourceError("expected at least one row and column", kind="damaged", path=path)
    if frame_count(dataset) < 1:
        raise SourceError(
            f"expected at least one frame, found NumberOfFrames {frame_count(dataset)}",
            kind="damaged",
            path=path,
        )
    if not 1 <= samples <= _MOST_SAMPLES:
        raise SourceError(
            f"expected 1 to {_MOST_SAMPLES} samples per pixel, found {samples}",
            kind="unsupported-samples",
            path=path,
        )
    known = {PIXELS: (1, 8, 16, 32), _FLOATS: (32,), _DOUBLES: (64,)}[place.tag]
    if bits not in known or (bits == 1 and samples > 1):
        raise SourceError(
            f"expected {', '.join(map(str, known))} bits allocated, found {bits} with {samples} "
            "sample(s) per pixel",
            kind="unsupported-pixels",
            path=path,
        )
    stored = int(dataset.get("BitsStored") or bits)
    if place.tag == PIXELS and not 1 <= stored <= bits:
        raise SourceError(
            f"expected 1 to {bits} bits stored, found {stored}", kind="damaged", path=path
        )


def check_length(
    path: Path,
    dataset: Dataset,
    stream: BinaryIO,
    place: PixelPlace,
    layout: PixelLayout | None,
) -> None:
    """Check that all frames the header speaks of are in the file.

    Raises
    ------
    SourceError : kind ``"truncated"``.
    """
    end = stream.seek(0, 2)
    if layout is None:
        _check_fragments(path, frame_count(dataset), stream, place, end)
        return
    expected = layout.nbytes
    found = min(place.length, end - place.start)
    if found < expected:
        raise SourceError(
            f"expected {expected} bytes of pixel data at offset {place.start}, found {found}",
            kind="truncated",
            path=path,
            hint="the file is cut off; fetch it again from its source",
        )


def _check_fragments(
    path: Path, frames: int, stream: BinaryIO, place: PixelPlace, end: int
) -> None:
    """Walk the items of encapsulated pixel data: an offset table, then one or more per frame."""
    stream.seek(place.value)
    found, position = -1, place.value  # the offset table is no fragment
    while position < end:
        stream.seek(position)
        head = stream.read(8)
        if head[:4] != _ITEM or len(head) < 8:
            break
        position += 8 + int.from_bytes(head[4:8], "little")
        found += position <= end
    ended = position > end or (position < end and head[:4] != _END)
    if ended or found < frames:
        raise SourceError(
            f"expected {frames} compressed frame(s), found {max(0, found)} complete piece(s) "
            f"before offset {min(position, end)}",
            kind="truncated",
            path=path,
            hint="the file is cut off; fetch it again from its source",
        )
