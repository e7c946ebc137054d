"""Other codecs that keep every bit, or keep every error below a bound, on the same volume.

Each result is decoded and compared: a peer that breaks its promise is shown as such. Where values
are integers, decoded floats are rounded, which lets codecs for floats work with a bound raised by
just under one half: the same grid of 2 k + 1 values that JPEG-LS uses for a largest error of k.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.peers.codecs import Coded, floats_for, to_integers
from pipelines.evaluation.point import CodedSize, RatePoint, Reference, cpu_seconds
from psc_volumetric.metrics import rate_bpv

__all__ = [
    "BOUNDED_PEERS",
    "LOSSLESS_PEERS",
    "ExactPeer",
    "bounded_point",
    "exact_point",
    "lossless_point",
]

_ALMOST_HALF = 0.499

Stack = NDArray[Any]


@dataclass(frozen=True)
class ExactPeer:
    """A codec with a guarantee.

    Attributes
    ----------
    name, title : str
        Word for the command line, and name for people.
    code : callable
        (stack (n, y, x), bound in stored units; ignored without loss) -> `Coded`.
    only_integers : bool
        Whether values must be integers that span at most 16 bits.
    """

    name: str
    title: str
    code: Callable[[Stack, float], Coded]
    only_integers: bool = False

    def refuses(self, stack: Stack) -> str | None:
        """Why the peer cannot code the volume, in words; None when it can."""
        if not self.only_integers:
            return None
        if stack.dtype.kind not in "iu":
            return "codes integers only"
        if int(stack.max()) - int(stack.min()) > 65535:
            return "codes 16 bits at most"
        return None


def _images(
    stack: Stack, encode: Callable[[Any, int], Any], decode: Callable[[bytes], Stack]
) -> Coded:
    """Each slice as an image of unsigned integers; ``encode`` gets the bits that they need."""
    integers, low, _ = to_integers(stack, 16)
    bits = max(1, int(integers.max()).bit_length())
    images = integers.astype(np.uint8) if bits <= 8 else integers
    streams = [bytes(encode(image, bits)) for image in images]
    shape, dtype = stack.shape, stack.dtype

    def back() -> Stack:
        slices = np.stack([decode(stream).reshape(shape[1:]) for stream in streams])
        return (slices.astype(np.int64) + int(low)).astype(dtype)

    return Coded(streams, back)


def _jpegxl(stack: Stack, _: float, *, effort: int = 7) -> Coded:
    import imagecodecs

    form: Any = {"lossless": True, "effort": effort, "usecontainer": False, "numthreads": 1}
    return _images(
        stack, lambda image, _: imagecodecs.jpegxl_encode(image, **form), imagecodecs.jpegxl_decode
    )


def _jpegls(stack: Stack, bound: float) -> Coded:
    import imagecodecs

    return _images(
        stack,
        lambda image, _: imagecodecs.jpegls_encode(image, int(bound)),
        imagecodecs.jpegls_decode,
    )


def _htj2k(stack: Stack, _: float) -> Coded:
    import imagecodecs

    return _images(
        stack,
        lambda image, _: imagecodecs.htj2k_encode(image, reversible=True),
        imagecodecs.htj2k_decode,
    )


def _jpeg2000(stack: Stack, _: float) -> Coded:
    import imagecodecs

    form: Any = {"codecformat": "j2k", "reversible": True}
    return _images(
        stack,
        lambda image, bits: imagecodecs.jpeg2k_encode(image, bitspersample=bits, **form),
        imagecodecs.jpeg2k_decode,
    )


def _zstd(stack: Stack, _: float) -> Coded:
    import imagecodecs

    size, shape, dtype = stack.dtype.itemsize, stack.shape, stack.dtype
    shuffled = imagecodecs.bitshuffle_encode(stack.tobytes(), itemsize=size)
    data = bytes(imagecodecs.zstd_encode(shuffled, 9))

    def back() -> Stack:
        plain = imagecodecs.bitshuffle_decode(imagecodecs.zstd_decode(data), itemsize=size)
        return np.frombuffer(plain, dtype).reshape(shape)

    return Coded([data], back)


def _pcodec(stack: Stack, _: float) -> Coded:
    import imagecodecs

    shape, dtype = stack.shape, stack.dtype
    wide = stack.astype(f"{dtype.kind}2") if dtype.itemsize == 1 else stack
    data = bytes(imagecodecs.pcodec_encode(np.ascontiguousarray(wide), 8))
    return Coded(
        [data], lambda: imagecodecs.pcodec_decode(data, shape, wide.dtype.str).astype(dtype)
    )


def _zfp_reversible(stack: Stack, _: float) -> Coded:
    import imagecodecs

    dtype = stack.dtype
    wide: Any = dtype
    if dtype.kind in "iu":
        wide = np.int32 if dtype.itemsize < 4 or dtype == np.int32 else np.int64
    values = np.ascontiguousarray(stack, dtype=wide)
    data = bytes(imagecodecs.zfp_encode(values, mode="reversible", execution="serial"))
    return Coded([data], lambda: imagecodecs.zfp_decode(data).astype(dtype))


def _grid(stack: Stack, bound: float) -> float:
    """Bound for a codec of floats whose results are rounded when the values are integers."""
    return bound + _ALMOST_HALF if stack.dtype.kind in "iu" else bound


def _sperr(stack: Stack, bound: float) -> Coded:
    import imagecodecs

    values, level = floats_for(stack), _grid(stack, bound)
    data = bytes(imagecodecs.sperr_encode(values, level, "pwe", numthreads=1))
    return Coded([data], lambda: imagecodecs.sperr_decode(data, numthreads=1))


def _sz3(stack: Stack, bound: float) -> Coded:
    import imagecodecs

    values = floats_for(stack)
    data = bytes(imagecodecs.sz3_encode(values, "abs", abs=_grid(stack, bound)))
    shape, dtype = values.shape, values.dtype
    return Coded([data], lambda: imagecodecs.sz3_decode(data, shape, dtype))


def _zfp(stack: Stack, bound: float) -> Coded:
    import imagecodecs

    encode: Any = imagecodecs.zfp_encode  # its stub calls the tolerance an integer
    level = _grid(stack, bound)
    data = bytes(encode(floats_for(stack), level, mode="accuracy", execution="serial"))
    return Coded([data], lambda: imagecodecs.zfp_decode(data))


LOSSLESS_PEERS: dict[str, ExactPeer] = {
    peer.name: peer
    for peer in (
        ExactPeer("jpegxl", "JPEG XL e7, slices", _jpegxl, only_integers=True),
        ExactPeer(
            "jpegxl-e9", "JPEG XL e9, slices", partial(_jpegxl, effort=9), only_integers=True
        ),
        ExactPeer("jpeg2000", "JPEG 2000, slices", _jpeg2000, only_integers=True),
        ExactPeer("jpegls", "JPEG-LS, slices", _jpegls, only_integers=True),
        ExactPeer("htj2k", "HTJ2K, slices", _htj2k, only_integers=True),
        ExactPeer("pcodec", "pcodec", _pcodec),
        ExactPeer("zfp", "ZFP-3D reversible", _zfp_reversible),
        ExactPeer("zstd", "zstd-9, bit planes", _zstd),
    )
}

BOUNDED_PEERS: dict[str, ExactPeer] = {
    peer.name: peer
    for peer in (
        ExactPeer("sperr", "SPERR-3D", _sperr),
        ExactPeer("sz3", "SZ3-3D", _sz3),
        ExactPeer("jpegls", "JPEG-LS, slices", _jpegls, only_integers=True),
        ExactPeer("zfp", "ZFP-3D accuracy", _zfp),
    )
}


def _timed(peer: ExactPeer, stack: Stack, bound: float) -> tuple[CodedSize, Stack]:
    begin = cpu_seconds()
    coded = peer.code(stack, bound)
    middle = cpu_seconds()
    decoded = coded.decode()
    end = cpu_seconds()
    text = f"bound {bound:.6g}" if bound else "lossless"
    size = CodedSize(peer.name, text, coded.nbytes, middle - begin, end - middle, bound or None)
    return size, decoded


def lossless_point(peer: ExactPeer, stack: NDArray[np.generic]) -> RatePoint:
    """Code a volume without loss and check every bit.

    Parameters
    ----------
    peer : ExactPeer
        One of `LOSSLESS_PEERS` that does not refuse the volume.
    stack : (n, y, x) array
        Stored values, special values and NaN included.

    Returns
    -------
    RatePoint
        ``holds`` tells whether all bits came back.
    """
    size, decoded = _timed(peer, stack, 0.0)
    same = decoded.dtype == stack.dtype and decoded.tobytes() == stack.tobytes()
    return exact_point(size, stack.size, holds=same)


def exact_point(size: CodedSize, voxels: int, *, holds: bool) -> RatePoint:
    """A point of a codec that keeps every bit; without ``holds`` nothing is known of its error."""
    return RatePoint(
        **vars(size),
        rate_bpv=rate_bpv(size.nbytes, voxels),
        psnr_db=math.inf if holds else math.nan,
        max_error=0.0 if holds else math.nan,
        holds=holds,
    )


def bounded_point(peer: ExactPeer, reference: Reference, bound: float) -> RatePoint:
    """Code a volume with a largest error in stored units, and check it voxel by voxel.

    Returns
    -------
    RatePoint
        With the largest error that was found over measured voxels; ``holds`` is False where it
        is larger than the bound.
    """
    size, decoded = _timed(peer, reference.stack, bound)
    if reference.stack.dtype.kind in "iu":
        decoded = np.rint(decoded)
    return reference.point(size, decoded, bound)
