"""A pydicom decoder plug-in over imagecodecs, for what no other installed plug-in reads.

JPEG Lossless (what most archives of hospitals send) and 12-bit JPEG have no decoder in pydicom's
own dependencies; the other compressed syntaxes are offered as a second opinion, tried when the
first plug-in fails. JPEG XL is not known to pydicom 3.0 at all, so `decode_jpeg_xl` is called
directly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.base import Array

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder, DecodeRunner

__all__ = ["DECODER_DEPENDENCIES", "JPEG_XL", "PLUGIN", "decode_jpeg_xl", "decoder_for"]

PLUGIN = "imagecodecs"
JPEG_XL = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112))

_JPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51))
_JPEG_LOSSLESS = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70))
_JPEG_LS = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
_JPEG2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
_ALL = _JPEG | _JPEG_LOSSLESS | _JPEG_LS | _JPEG2000

# pydicom asks a plug-in's module for this name.
DECODER_DEPENDENCIES = dict.fromkeys(_ALL, ("numpy", "imagecodecs"))

_lock = threading.Lock()


def is_available(uid: str) -> bool:
    """Tell pydicom whether the codecs for a transfer syntax are there."""
    return uid in _ALL and all(codec.available for codec in _codecs(uid))


def decoder_for(uid: str) -> Decoder | None:
    """Give pydicom's decoder of a transfer syntax, this plug-in added; None when none can read it.

    Other plug-ins are asked first.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        decoder = get_decoder(UID(uid))
    except NotImplementedError:  # pydicom's answer to a syntax that it has no decoder class for
        return None
    with _lock:
        known = not decoder.is_encapsulated or PLUGIN in decoder.available_plugins
        if uid in _ALL and not known:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))
    return decoder if decoder.is_available else None


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame for pydicom; samples interleaved, colours left as they are coded."""
    uid = str(runner.transfer_syntax)
    values = _decoded(uid, source)
    if values.ndim == 3:
        runner.set_option("planar_configuration", 0)
    allocated = 8 * values.dtype.itemsize
    if allocated != runner.bits_allocated:
        runner.set_option("bits_allocated", allocated)
        if runner.bits_stored > allocated:
            runner.set_option("bits_stored", allocated)
    expected = runner.rows * runner.columns * runner.samples_per_pixel
    if values.size != expected:
        raise ValueError(f"expected {expected} samples, found {values.size}")
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def decode_jpeg_xl(source: bytes) -> Array:
    """Decode one JPEG XL frame: (rows, columns) or (rows, columns, samples)."""
    import imagecodecs

    return np.asarray(imagecodecs.jpegxl_decode(source))


def _codecs(uid: str) -> tuple[Any, ...]:
    import imagecodecs

    if uid in _JPEG:
        return (imagecodecs.JPEG8,)
    if uid in _JPEG_LOSSLESS:
        return (imagecodecs.LJPEG, imagecodecs.JPEGSOF3, imagecodecs.JPEG8)
    return (imagecodecs.JPEGLS,) if uid in _JPEG_LS else (imagecodecs.JPEG2K, imagecodecs.HTJ2K)


def _decoded(uid: str, source: bytes) -> Array:
    import imagecodecs

    if uid in _JPEG:
        return _plain_jpeg(source)
    if uid in _JPEG_LOSSLESS:
        return _first(
            source,
            (imagecodecs.jpeg8_decode, imagecodecs.jpegsof3_decode, imagecodecs.ljpeg_decode),
        )
    if uid in _JPEG_LS:
        return np.asarray(imagecodecs.jpegls_decode(source))
    return _first(source, (imagecodecs.jpeg2k_decode, imagecodecs.htj2k_decode))


def _plain_jpeg(source: bytes) -> Array:
    """Decode baseline or extended JPEG without a transform of colours."""
    import imagecodecs

    grey = np.asarray(imagecodecs.jpeg8_decode(source))
    if grey.ndim == 2:
        return grey
    return np.asarray(imagecodecs.jpeg8_decode(source, colorspace="YCBCR", outcolorspace="YCBCR"))


def _first(source: bytes, decoders: tuple[Callable[[bytes], Any], ...]) -> Array:
    """Give the answer of the first decoder that takes the stream."""
    for decode in decoders[:-1]:
        try:
            return np.asarray(decode(source))
        except (RuntimeError, ValueError):  # imagecodecs' errors are RuntimeErrors
            continue
    return np.asarray(decoders[-1](source))
