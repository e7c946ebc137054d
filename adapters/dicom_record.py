"""What an archive keeps of DICOM files so that they can be written again.

For a native transfer syntax: every byte before and after the pixel words, their layout, and the
few bytes whose unused bits the layout does not tell, so that putting the words back gives the
identical file. For compressed pixels: the data set before the pixel data; the compressed bit stream
itself is kept only when asked for (``adapters.originals``).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.base import EQUAL_DATA, IDENTICAL, FileRecord, Promise
from adapters.dicom_derive import parse_head, to_explicit_little
from adapters.dicom_header import ImageFile, damage_errors, read_header
from adapters.dicom_layout import PixelLayout, patches_of
from adapters.dicom_pixels import FrameArray, WordUse, decoded_colours, place_frames, word_use
from adapters.errors import SourceError

__all__ = ["content_sha256", "describe_files"]

# Decoding changes how colours are stored, and says so when the compressed image had lost something.
_CHANGED_BY_DECODING = (
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "LossyImageCompression",
    "LossyImageCompressionMethod",
)


def describe_files(
    images: Sequence[ImageFile], uses: Sequence[WordUse], records: Sequence[FileRecord]
) -> tuple[dict[str, Any], dict[str, bytes], list[Promise]]:
    """Give the document (without its volumes), the blobs and the promises of a stack of files.

    The blob ``"headers"`` is the concatenation of all heads and tails; the document has their
    byte ranges.
    """
    parts: list[bytes] = []
    position = 0

    def keep(data: bytes) -> list[int]:
        nonlocal position
        parts.append(data)
        position += len(data)
        return [position - len(data), position]

    files, promises = [], []
    for image, use, record in zip(images, uses, records, strict=True):
        head, tail = _pieces(image)
        patches = None if image.layout is None else _patches(image, image.layout)
        files.append(
            {
                "name": record.name,
                "head": keep(head),
                "tail": keep(tail),
                "native": image.native,
                "layout": None if image.layout is None else image.layout.to_dict(),
                "patches": patches,
                "photometric": decoded_colours(image),
                "lossy_method": image.lossy_method,
                "frames": len(image.frames),
                "sha256": record.sha256,
                "high_bits": use.stored,
            }
        )
        promises.append(_promise(image, patches))
    first = images[0]
    document = {
        "document_version": 0,
        "rows": first.rows,
        "columns": first.columns,
        "samples": first.samples,
        "dtype": uses[0].dtype,
        "bits_stored": first.bits_stored,
        "files": files,
    }
    return document, {"headers": b"".join(parts)}, promises


def _promise(image: ImageFile, patches: list[list[int]] | None) -> Promise:
    if image.layout is None:
        from pydicom.uid import UID

        name = UID(image.transfer_syntax).name
        return Promise(EQUAL_DATA, f"{name} becomes Explicit VR Little Endian, decoded")
    if patches is None:
        return Promise(EQUAL_DATA, "bits that no pixel uses")
    return Promise(IDENTICAL)


def _patches(image: ImageFile, layout: PixelLayout) -> list[list[int]] | None:
    if layout.is_plain or (layout.order in ("interleaved", "planar") and not layout.swapped):
        return []  # whole words: nothing is unused
    with image.path.open("rb") as stream:
        stream.seek(image.pixel_start)
        return patches_of(layout, stream.read(layout.nbytes))


def _pieces(image: ImageFile) -> tuple[bytes, bytes]:
    if image.layout is not None:
        used = image.layout.nbytes
        with image.path.open("rb") as stream:
            head = stream.read(image.pixel_start)
            stream.seek(image.pixel_start + used)
            return head, stream.read()
    if image.pixel_start:
        with image.path.open("rb") as stream:
            return stream.read(image.pixel_start), b""
    return _inflated(image), b""


def _inflated(image: ImageFile) -> bytes:
    """Write a deflated data set, less its pixels, as Explicit VR Little Endian."""
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRLittleEndian

    buffer = io.BytesIO()
    try:
        dataset = dcmread(image.path, force=True)
        if "PixelData" in dataset:
            del dataset.PixelData
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(buffer, enforce_file_format=False)
    except damage_errors() as error:
        raise SourceError(
            f"the deflated data set cannot be written out ({type(error).__name__})",
            kind="damaged",
            path=image.path,
        ) from error
    return buffer.getvalue()


def content_sha256(path: Path) -> str:
    """Give a digest of one file's stored words and of the data set before them.

    It does not depend on the transfer syntax: the elements are taken as Explicit VR Little Endian,
    without group lengths and without those that say how colours are stored and whether an earlier
    step lost something.
    """
    image = read_header(path)
    use = word_use(image)
    digest = hashlib.sha256()
    for sample in range(image.samples):
        places = tuple(place_frames(image, use, sample))
        frames = FrameArray(places, (len(places), image.rows, image.columns), use.dtype)
        for i in range(len(places)):
            plane = frames[i : i + 1, 0 : image.rows, 0 : image.columns]
            digest.update(plane.astype(plane.dtype.newbyteorder("<")).tobytes())
    dataset = parse_head(_pieces(image)[0])
    for element in list(dataset):
        if element.tag.element == 0 or element.keyword in _CHANGED_BY_DECODING:
            del dataset[element.tag]
    digest.update(to_explicit_little(dataset))
    return digest.hexdigest()
