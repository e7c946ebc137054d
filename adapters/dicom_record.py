"""What an archive keeps of DICOM files so that they can be written again.

For a native transfer syntax: every byte before and after the pixel words, so that putting the
words back gives the identical file. For compressed pixels: the data set before the pixel data;
the compressed bit stream itself is not kept.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from adapters.base import FileRecord
from adapters.dicom_header import ImageFile, damage_errors
from adapters.dicom_pixels import WordUse
from adapters.errors import SourceError

__all__ = ["describe_files"]


def describe_files(
    images: Sequence[ImageFile], uses: Sequence[WordUse], records: Sequence[FileRecord]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Give the document (without its volumes) and the blobs of a stack of files.

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

    files = []
    for image, use, record in zip(images, uses, records, strict=True):
        head, tail = _pieces(image)
        files.append(
            {
                "name": record.name,
                "head": keep(head),
                "tail": keep(tail),
                "native": image.native,
                "big_endian": image.big_endian,
                "frames": len(image.frames),
                "sha256": record.sha256,
            }
        )
        files[-1]["high_bits"] = use.stored
    first = images[0]
    document = {
        "document_version": 0,
        "rows": first.rows,
        "columns": first.columns,
        "dtype": uses[0].dtype,
        "bits_stored": first.bits_stored,
        "files": files,
    }
    return document, {"headers": b"".join(parts)}


def _pieces(image: ImageFile) -> tuple[bytes, bytes]:
    if image.native:
        used = image.frame_bytes * len(image.frames)
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
