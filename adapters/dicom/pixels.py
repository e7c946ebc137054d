"""Lazy values of DICOM frames, as pydicom's ``pixel_array`` gives them before any scaling.

Native grey frames are read from their place in the file, only the rows asked for; frames of other
layouts are unpacked whole, compressed ones decoded whole, and a few are remembered. No rescaling,
no windowing, no conversion of colours; bits that are not BitsStored are left out (`dicom_bits`).
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.dicom.bits import BitUse, find_use, limits_of, usual_bits, values_of
from adapters.dicom.decode import decode_frame
from adapters.dicom.header import ImageFile
from adapters.dicom.layout import PixelLayout
from adapters.dicom.syntax import data_stream
from adapters.errors import SourceError

__all__ = [
    "FrameArray",
    "FramePlace",
    "bit_use_of",
    "corner_value",
    "decoded_colours",
    "file_words",
    "place_frames",
    "probe_decoders",
    "read_bytes",
]

_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class FramePlace:
    """Where one plane lies: one sample of frame ``index`` of a file.

    ``offset`` is that of the frame's first word when it can be read in place, else -1; then
    ``layout`` unpacks it from the pixels at ``start``, or it is decoded when there is none.
    ``grid`` is the number of tiles along each side of a compressed mosaic, else 1.
    """

    path: Path
    index: int
    sample: int
    offset: int
    file_dtype: str
    use: BitUse
    layout: PixelLayout | None
    start: int
    whole_words: bool
    grid: int = 1


def place_frames(image: ImageFile, use: BitUse, sample: int) -> list[FramePlace]:
    """Give the place of one sample's plane of every frame of a file."""
    layout = image.layout
    in_place = layout is not None and layout.is_plain
    order = ">" if layout is not None and layout.big_endian else "<"
    nbytes = layout.frame_bits // 8 if layout is not None else 0
    return [
        FramePlace(
            path=image.path,
            index=i,
            sample=sample,
            offset=image.pixel_start + i * nbytes if in_place else -1,
            file_dtype=order + np.dtype(use.dtype).str[1:],
            use=use,
            layout=None if in_place else layout,
            start=image.pixel_start,
            whole_words=image.embedded_overlay,
            grid=image.mosaic.grid if image.mosaic is not None else 1,
        )
        for i in range(len(image.frames))
    ]


def bit_use_of(image: ImageFile, wider: frozenset[str] = frozenset()) -> BitUse:
    """Look at the words of a file and tell how the bits above BitsStored are used.

    Compressed pixels come as values, so that their other bits are as usual; only where the header
    speaks of an overlay inside the words are they looked at too. Files of the transfer syntaxes in
    ``wider`` come with larger values than BitsStored can hold (`probe_decoders`).
    """
    spare = image.bits_allocated - image.bits_stored
    usual = usual_bits(image.word, min(image.bits_stored, 8 * np.dtype(image.word).itemsize))
    if image.word[0] == "f" or image.bits_allocated == 1 or image.transfer_syntax in wider:
        return BitUse(image.word, 8 * np.dtype(image.word).itemsize, "")
    if spare == 0 or (not image.native and not image.embedded_overlay):
        return usual
    return find_use(image.word, image.bits_stored, file_words(image))


def file_words(image: ImageFile) -> Iterator[Array]:
    """Go through the words of every frame: (samples, rows, columns), as they are stored."""
    if image.layout is None:
        for place in place_frames(image, usual_bits(image.word, image.bits_stored), 0):
            yield _whole_frame(place).astype(np.dtype(image.word), copy=False)
        return
    with data_stream(image.path) as stream:

        def read(offset: int, length: int) -> bytes:
            stream.seek(image.pixel_start + offset)
            return stream.read(length)

        for index in range(len(image.frames)):
            try:
                yield image.layout.frame(read, index)
            except EOFError as error:
                raise _changed(image.path, str(error)) from error


def corner_value(image: ImageFile, use: BitUse) -> int | None:
    """Give the value all four corners of every native grey frame share, or None."""
    if image.layout is None or not image.layout.is_plain or image.word[0] == "f":
        return None
    found: set[int] = set()
    shape = (image.rows, image.columns)
    for place in place_frames(image, use, 0):
        frame = FrameArray((place,), shape, use.dtype)
        for row in {0, image.rows - 1}:
            ends = frame[row : row + 1, 0 : image.columns][:, [0, -1]]
            found.update(int(value) for value in ends.flat)
        if len(found) > 1:
            return None
    return found.pop()


def probe_decoders(images: Sequence[ImageFile]) -> frozenset[str]:
    """Decode one frame per compressed transfer syntax, so that a missing codec shows at once.

    Returns
    -------
    frozenset of str
        Transfer syntaxes whose decoder gives values that BitsStored cannot hold.

    Raises
    ------
    SourceError : kind ``"undecodable"``.
    """
    wider = set()
    compressed = {image.transfer_syntax: image for image in images if not image.native}
    for syntax, image in compressed.items():
        frame = decode_frame(image.path, 0)[0]
        limits = limits_of(usual_bits(image.word, image.bits_stored))
        if limits is not None and not limits[0] <= frame.min() <= frame.max() <= limits[1]:
            wider.add(syntax)
    return frozenset(wider)


def decoded_colours(image: ImageFile) -> str | None:
    """Give the photometric interpretation of a colour file's values, which decoding may change.

    Raises
    ------
    SourceError : kind ``"undecodable"``.
    """
    if image.samples == 1:
        return None
    if image.layout is None:
        return decode_frame(image.path, 0)[1]
    return "YBR_FULL" if image.layout.order == "ybr422" else None


@dataclass(frozen=True)
class FrameArray:
    """Planes stacked along leading axes: ([sample,] [leads ...,] z, y, x). See ``LazyArray``.

    ``places`` has None where a segmentation leaves a frame out because it is empty.
    """

    places: tuple[FramePlace | None, ...]
    shape: tuple[int, ...]
    type_name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return np.dtype(self.type_name)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        out = np.zeros(tuple(stop - start for start, stop in bounds), self.dtype)
        lead = self.shape[:-2]
        for index in itertools.product(*(range(start, stop) for start, stop in bounds[:-2])):
            place = self.places[int(np.ravel_multi_index(index, lead)) if lead else 0]
            where = tuple(i - start for i, (start, _) in zip(index, bounds[:-2], strict=True))
            if place is not None:
                out[where] = self._read(place, bounds[-2], bounds[-1])
        return out

    def _read(self, place: FramePlace, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
        if place.offset < 0:
            plane = _whole_frame(place)[place.sample]
            words = plane[rows[0] : rows[1], columns[0] : columns[1]]
        else:
            words = self._stored_rows(place, rows)[:, columns[0] : columns[1]]
        return values_of(words, place.use)

    def _stored_rows(self, place: FramePlace, rows: tuple[int, int]) -> Array:
        width = self.shape[-1]
        stored = np.dtype(place.file_dtype)
        wanted = (rows[1] - rows[0]) * width * stored.itemsize
        data = read_bytes(place.path, place.offset + rows[0] * width * stored.itemsize, wanted)
        return np.frombuffer(data, stored).reshape(-1, width)


def read_bytes(path: Path, offset: int, length: int) -> bytes:
    """Read a piece of a file; of a deflated one, of its inflated bytes.

    Raises
    ------
    SourceError : kind ``"truncated"``.
    """
    with data_stream(path) as stream:
        stream.seek(offset)
        data = stream.read(length)
    if len(data) != length:
        raise _changed(path, f"expected {length} bytes of pixel data, found {len(data)}")
    return data


def _changed(path: Path, what: str) -> SourceError:
    return SourceError(what, kind="truncated", path=path, hint="the file changed while it was read")


_cache: OrderedDict[tuple[Path, int, int, bool, int], Array] = OrderedDict()
_cache_lock = threading.Lock()


def _whole_frame(place: FramePlace) -> Array:
    """Give a frame as (samples, rows, columns), unpacked or decoded; the latest are kept."""
    path = place.path
    index = 0 if place.grid > 1 and place.layout is None else place.index
    key = (path, path.stat().st_mtime_ns, index, place.whole_words, place.grid)
    with _cache_lock:
        frame = _cache.get(key)
        if frame is not None:
            _cache.move_to_end(key)
    if frame is None:
        if place.layout is None:
            frame = decode_frame(path, index, whole_words=place.whole_words)[0]
        else:
            frame = place.layout.frame(
                lambda at, length: read_bytes(path, place.start + at, length), index
            )
        with _cache_lock:
            _cache[key] = frame
            while len(_cache) > 1 and sum(kept.nbytes for kept in _cache.values()) > _CACHE_BYTES:
                _cache.popitem(last=False)
    return frame if index == place.index and place.grid == 1 else _tile_of(frame, place)


def _tile_of(sheet: Array, place: FramePlace) -> Array:
    """Cut a tile out of a decoded mosaic; an unpacked one is a tile already."""
    if place.layout is not None:
        return sheet
    height, width = sheet.shape[-2] // place.grid, sheet.shape[-1] // place.grid
    row, column = divmod(place.index, place.grid)
    return sheet[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
