"""What an archive keeps of DICOM files so that they can be written again.

For a native transfer syntax: every byte before and after the pixel words, their layout, the bits
beside the values, and the bytes whose unused bits the layout does not tell, so that putting the
values back gives the identical file. For compressed pixels: the data set before the pixel data; the
compressed bit stream itself is kept only when asked for (``adapters.originals``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import EQUAL_DATA, IDENTICAL, Array, FileRecord, Promise
from adapters.dicom.bits import BitUse, pack_planes, values_of
from adapters.dicom.decode import decode_frame
from adapters.dicom.derive import parse_head, to_explicit_little
from adapters.dicom.header import ImageFile, read_header
from adapters.dicom.layout import patches_of, residue_of
from adapters.dicom.pixels import (
    bit_use_of,
    decoded_colours,
    file_words,
    probe_decoders,
    read_bytes,
)
from adapters.dicom.syntax import DEFLATED, data_stream
from adapters.dicom.terms import known_syntax

__all__ = ["content_sha256", "describe_files", "words_sha256"]

# Decoding changes how colours are stored, and says so when the compressed image had lost something.
_CHANGED_BY_DECODING = (
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "LossyImageCompression",
    "LossyImageCompressionMethod",
    "BitsStored",
    "HighBit",
)


def describe_files(
    images: Sequence[ImageFile], uses: Sequence[BitUse], records: Sequence[FileRecord]
) -> tuple[dict[str, Any], dict[str, bytes], list[Promise]]:
    """Give the document (without its volumes), the blobs and the promises of a series' files.

    The blob ``"headers"`` is the concatenation of all heads and tails, ``"bits"`` that of planes
    and residues beside the values; the document has their byte ranges.
    """
    headers, bits = _Joined(), _Joined()
    files, promises = [], []
    for image, use, record in zip(images, uses, records, strict=True):
        head, tail = _pieces(image)
        patches, residue = _unused(image)
        planes = pack_planes(file_words(image), use) if use.planes else None
        files.append(
            {
                "name": record.name,
                "head": headers.keep(head),
                "tail": headers.keep(tail),
                "native": image.native and image.transfer_syntax != DEFLATED,
                "layout": None if image.layout is None else image.layout.to_dict(),
                "patches": patches,
                "residue": None if residue is None else bits.keep(residue),
                "bits": {"dtype": use.dtype, "stored": use.stored, "spare": use.spare},
                "planes": None if planes is None else bits.keep(planes),
                "photometric": decoded_colours(image),
                "lossy_method": image.lossy_method,
                "frames": len(image.frames),
                "tiles": _tiles(image),
                "sha256": record.sha256,
            }
        )
        promises.append(_promise(image))
    first = images[0]
    document = {
        "document_version": 0,
        "rows": first.rows,
        "columns": first.columns,
        "samples": first.samples,
        "dtype": uses[0].dtype,
        "files": files,
    }
    blobs = {"headers": headers.data}
    if bits.data:
        blobs["bits"] = bits.data
    return document, blobs, promises


class _Joined:
    """Pieces of bytes put behind one another."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def keep(self, data: bytes) -> list[int]:
        """Add a piece and give its place: first byte and end."""
        self._parts.append(data)
        self._size += len(data)
        return [self._size - len(data), self._size]

    @property
    def data(self) -> bytes:
        """All pieces."""
        return b"".join(self._parts)


def _promise(image: ImageFile) -> Promise:
    if image.layout is not None and image.transfer_syntax != DEFLATED:
        return Promise(IDENTICAL)
    from pydicom.uid import UID

    name = UID(known_syntax(image.transfer_syntax)).name
    return Promise(EQUAL_DATA, f"{name} becomes Explicit VR Little Endian, decoded")


def _tiles(image: ImageFile) -> dict[str, Any] | None:
    """Give what is needed to write slices of a mosaic as images of their own."""
    if image.mosaic is None:
        return None
    return {
        "grid": image.mosaic.grid,
        "positions": [list(frame.position or ()) for frame in image.frames],
    }


def _unused(image: ImageFile) -> tuple[list[list[int]], bytes | None]:
    """Give bytes of native pixels that no value tells: a few patches, or all as a residue."""
    layout = image.layout
    if layout is None or layout.is_plain:
        return [], None
    if layout.order in ("interleaved", "planar") and not layout.swapped:
        return [], None  # whole words: nothing is unused
    stored = read_bytes(image.path, image.pixel_start, layout.nbytes)
    packed = layout.pack(np.stack(list(file_words(image))))
    patches = patches_of(packed, stored)
    return ([], residue_of(packed, stored)) if patches is None else (patches, None)


def _pieces(image: ImageFile) -> tuple[bytes, bytes]:
    """Give all bytes before the pixel words and, of native ones, all behind them."""
    with data_stream(image.path) as stream:
        head = stream.read(image.pixel_start)
        if image.layout is None:
            return head, b""
        stream.seek(image.pixel_start + image.layout.nbytes)
        return head, stream.read()


def words_sha256(image: ImageFile, use: BitUse | None = None) -> str:
    """Give a digest of the values of all frames, and of overlays inside the words.

    It depends on values only: not on byte order, packing, compression, or bits without meaning.
    """
    used = use or bit_use_of(image, probe_decoders([image]))
    digest = hashlib.sha256()
    for words in _stored_frames(image):
        values = values_of(words, used)
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
        if image.embedded_overlay:
            spare = used.planes
            digest.update(repr(spare).encode() + pack_planes([words], used))
    return digest.hexdigest()


def _stored_frames(image: ImageFile) -> Iterator[Array]:
    """Go through frames as the file has them: a mosaic is its whole sheet, unused tiles too."""
    if image.mosaic is None:
        yield from file_words(image)
    elif image.layout is None:
        yield decode_frame(image.path, 0)[0].astype(np.dtype(image.word), copy=False)
    else:
        layout, grid = image.layout, image.layout.grid
        data = read_bytes(image.path, image.pixel_start, layout.nbytes)
        yield np.frombuffer(data, layout.dtype).reshape(1, grid * layout.rows, -1)


def content_sha256(path: Path) -> str:
    """Give a digest of one file's values and of the data set before them.

    It does not depend on the transfer syntax: the elements are taken as Explicit VR Little Endian,
    without group lengths and without those that say how values are stored and whether an earlier
    step lost something.

    Raises
    ------
    SourceError : the file cannot be read.
    """
    image = read_header(path)
    digest = hashlib.sha256(words_sha256(image).encode())
    dataset = parse_head(_pieces(image)[0])
    for element in list(dataset):
        if element.tag.element == 0 or element.keyword in _CHANGED_BY_DECODING:
            del dataset[element.tag]
    digest.update(to_explicit_little(dataset))
    return digest.hexdigest()
