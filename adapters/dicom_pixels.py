"""Lazy stored values of DICOM frames.

Native grey frames are read from their place in the file, only the rows asked for; frames of other
layouts are unpacked whole, compressed ones decoded whole, and a few are remembered. Values are the
stored pixel words: no rescaling, no windowing, no conversion of colours, and no masking of high
bits that carry data.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.base import Array, selection_bounds
from adapters.dicom_header import ImageFile, damage_errors
from adapters.dicom_layout import PixelLayout
from adapters.errors import SourceError

__all__ = [
    "FrameArray",
    "FramePlace",
    "WordUse",
    "corner_word",
    "decoded_colours",
    "place_frames",
    "probe_decoders",
    "word_use",
]

_CACHE_BYTES = 64 << 20
_SCAN_WORDS = 4 << 20


@dataclass(frozen=True)
class WordUse:
    """How the bits above BitsStored are used.

    ``stored`` "plain": the word is the value. ``"short"``: a signed value whose unused high bits
    are zero; it is sign-extended on reading. ``"mixed"``: the bits carry something else (an
    overlay, or values wider than declared); the word is kept as it is.
    """

    stored: str
    dtype: str
    bits_stored: int


@dataclass(frozen=True)
class FramePlace:
    """Where one plane lies: one sample of frame ``index`` of a file.

    ``offset`` is that of the frame's first word when it can be read in place, else -1; then
    ``layout`` unpacks it from the pixels at ``start``, or it is decoded when there is none.
    """

    path: Path
    index: int
    sample: int
    offset: int
    file_dtype: str
    sign_bits: int  # bits to sign-extend from; 0 when the word is the value
    layout: PixelLayout | None
    start: int


def place_frames(image: ImageFile, use: WordUse, sample: int) -> list[FramePlace]:
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
            sign_bits=use.bits_stored if use.stored == "short" else 0,
            layout=None if in_place else layout,
            start=image.pixel_start,
        )
        for i in range(len(image.frames))
    ]


def word_use(image: ImageFile) -> WordUse:
    """Look at all pixel words of a file and tell how their high bits are used.

    Decoded (compressed) pixels are always "plain": their decoder delivers values.
    """
    spare = image.bits_allocated - image.bits_stored
    if image.layout is None or spare == 0 or np.dtype(image.word).kind == "f":
        return WordUse("plain", image.word, image.bits_stored)
    if image.high_bit != image.bits_stored - 1 or image.layout.order == "ybr422":
        return WordUse("mixed", image.word, image.bits_stored)
    words = _words(image, f"u{image.bits_allocated // 8}")
    zero = extended = True
    for start in range(0, len(words), _SCAN_WORDS):
        block = words[start : start + _SCAN_WORDS]
        high = block >> np.array(image.bits_stored, words.dtype)
        zero = zero and not high.any()
        if image.signed and extended:
            sign = (block >> np.array(image.bits_stored - 1, words.dtype)) & np.array(
                1, block.dtype
            )
            extended = np.array_equal(high, sign * np.array((1 << spare) - 1, words.dtype))
    if extended if image.signed else zero:
        return WordUse("plain", image.word, image.bits_stored)
    return WordUse("short" if zero else "mixed", image.word, image.bits_stored)


def corner_word(image: ImageFile) -> int | None:
    """Give the value all four corners of every native grey frame share, or None."""
    if image.layout is None or not image.layout.is_plain or np.dtype(image.word).kind == "f":
        return None
    frames = _words(image, image.word).reshape(-1, image.rows, image.columns)
    corners = frames[:, :: max(1, image.rows - 1), :: max(1, image.columns - 1)]
    first = int(corners.flat[0])
    return first if bool((corners == first).all()) else None


def probe_decoders(images: Sequence[ImageFile]) -> None:
    """Decode one frame per compressed transfer syntax, so that a missing codec shows at once.

    Raises
    ------
    SourceError : kind ``"undecodable"``.
    """
    compressed = {image.transfer_syntax: image for image in images if not image.native}
    for image in compressed.values():
        _decode(image.path, 0)


def decoded_colours(image: ImageFile) -> str | None:
    """Give the photometric interpretation of a colour file's values, which decoding may change.

    Raises
    ------
    SourceError : kind ``"undecodable"``.
    """
    if image.samples == 1:
        return None
    if image.layout is None:
        return str(_decode(image.path, 0)[1])
    return "YBR_FULL" if image.layout.order == "ybr422" else None


def _words(image: ImageFile, dtype: str) -> Array:
    """Map all words of a native file whose layout is whole words, samples in any order."""
    assert image.layout is not None
    order = ">" if image.layout.big_endian else "<"
    count = image.rows * image.columns * image.samples * len(image.frames)
    return np.memmap(image.path, order + dtype, "r", image.pixel_start, (count,))


@dataclass(frozen=True)
class FrameArray:
    """Planes stacked along leading axes: ([sample,] [t,] z, y, x). See ``LazyArray``."""

    places: tuple[FramePlace, ...]
    shape: tuple[int, ...]
    type_name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, native byte order."""
        return np.dtype(self.type_name)

    def __getitem__(self, key: tuple[slice, ...]) -> Array:
        bounds = selection_bounds(key, self.shape)
        out = np.empty(tuple(stop - start for start, stop in bounds), self.dtype)
        lead = self.shape[:-2]
        for index in itertools.product(*(range(start, stop) for start, stop in bounds[:-2])):
            place = self.places[int(np.ravel_multi_index(index, lead))]
            where = tuple(i - start for i, (start, _) in zip(index, bounds[:-2], strict=True))
            out[where] = self._read(place, bounds[-2], bounds[-1])
        return out

    def _read(self, place: FramePlace, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
        if place.offset < 0:
            plane = _whole_frame(place)[place.sample]
            words = plane[rows[0] : rows[1], columns[0] : columns[1]]
        else:
            words = self._stored_rows(place, rows)[:, columns[0] : columns[1]]
        values: Array = words.astype(self.dtype)
        if place.sign_bits:
            shift = 8 * values.itemsize - place.sign_bits
            values = (values << shift) >> shift
        return values

    def _stored_rows(self, place: FramePlace, rows: tuple[int, int]) -> Array:
        width = self.shape[-1]
        stored = np.dtype(place.file_dtype)
        wanted = (rows[1] - rows[0]) * width * stored.itemsize
        data = _read_bytes(place.path, place.offset + rows[0] * width * stored.itemsize, wanted)
        return np.frombuffer(data, stored).reshape(-1, width)


def _read_bytes(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(length)
    if len(data) != length:
        raise SourceError(
            f"expected {length} bytes of pixel data, found {len(data)}",
            kind="truncated",
            path=path,
            hint="the file changed while it was read",
        )
    return data


_cache: OrderedDict[tuple[Path, int, int], Array] = OrderedDict()
_cache_lock = threading.Lock()


def _whole_frame(place: FramePlace) -> Array:
    """Give a frame as (samples, rows, columns), unpacked or decoded; the latest are kept."""
    path = place.path
    key = (path, path.stat().st_mtime_ns, place.index)
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    if place.layout is None:
        frame = _decode(path, place.index)[0]
    else:
        frame = place.layout.frame(
            lambda at, length: _read_bytes(path, place.start + at, length), place.index
        )
    with _cache_lock:
        _cache[key] = frame
        while len(_cache) > 1 and sum(kept.nbytes for kept in _cache.values()) > _CACHE_BYTES:
            _cache.popitem(last=False)
    return frame


def _decode(path: Path, index: int) -> tuple[Array, str]:
    """Decode a frame: (samples, rows, columns), and the photometric interpretation it has now."""
    from pydicom import dcmread
    from pydicom.config import disable_value_validation
    from pydicom.pixels.decoders.base import get_decoder

    try:
        with disable_value_validation():
            dataset = dcmread(path, force=True)
            decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
            frame, facts = decoder.as_array(dataset, index=index, raw=True)
    except damage_errors() as error:
        raise SourceError(
            f"frame {index} cannot be decoded ({type(error).__name__}); the compressed pixel data "
            "is damaged or not supported by the installed decoders",
            kind="undecodable",
            path=path,
            hint="fetch the file again, or convert it to a native transfer syntax",
        ) from error
    colours = str(facts["photometric_interpretation"]).replace("YBR_FULL_422", "YBR_FULL")
    planes = frame[None] if frame.ndim == 2 else np.moveaxis(frame, -1, 0)
    return np.ascontiguousarray(planes), colours
