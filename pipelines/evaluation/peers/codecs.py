"""How each peer is called: a stack of slices (n, y, x) to streams and back.

Every peer works in memory on the whole volume. Codecs for single images code each slice, with one
setting for all of them, and pay four bytes per slice for the length that a container would have
to store. What a decoder needs besides the streams (offset and scale of the integers, dtype and
shape where a stream lacks them) is counted as `SIDE_BYTES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SIDE_BYTES",
    "Coded",
    "code_av1",
    "code_htj2k",
    "code_jpeg2000",
    "code_jpegxl",
    "code_sperr",
    "code_sz3",
    "code_vvc",
    "code_x265",
    "code_zfp",
    "code_zfp_rate",
    "floats_for",
    "to_integers",
]

SIDE_BYTES = 32
_SLICE_BYTES = 4

Stack = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Coded:
    """A coded volume.

    Attributes
    ----------
    streams : list of bytes
        One for the volume, or one per slice.
    decode : callable
        Gives the volume back from the streams, (n, y, x).
    """

    streams: list[bytes]
    decode: Callable[[], Stack]

    @property
    def nbytes(self) -> int:
        """Every byte: streams, their lengths where there are several, and side information."""
        lengths = _SLICE_BYTES * len(self.streams) if len(self.streams) > 1 else 0
        return SIDE_BYTES + lengths + sum(map(len, self.streams))


def to_integers(
    stack: Stack, bits: int, *, fill: bool = False
) -> tuple[NDArray[np.uint16], float, float]:
    """Integers of at most `bits` bits with the offset and scale that bring the values back.

    Integers that fit are only shifted, unless ``fill`` asks for the whole range of the bits.
    """
    low, high = float(stack.min()), float(stack.max())
    top = float(2**bits - 1)
    if stack.dtype.kind in "iub" and high - low <= top and not fill:
        scale = 1.0
    else:
        scale = (high - low) / top if high > low else 1.0
    integers = np.rint((stack.astype(np.float64) - low) / scale)
    return integers.astype(np.uint16), low, scale


def _from_integers(integers: Stack, low: float, scale: float) -> Stack:
    return integers.astype(np.float64) * scale + low


def floats_for(stack: Stack) -> Stack:
    """Floats that hold every value exactly where doubles can: single precision when enough."""
    narrow = stack.dtype == np.float32 or (stack.dtype.kind in "iu" and stack.dtype.itemsize < 4)
    return np.ascontiguousarray(stack, dtype=np.float32 if narrow else np.float64)


def code_jpeg2000(stack: Stack, level: float) -> Coded:
    """JPEG 2000, irreversible, slice by slice, to a PSNR level in dB."""
    import imagecodecs

    encode: Any = imagecodecs.jpeg2k_encode  # its stub calls the PSNR level an integer
    integers, low, scale = to_integers(stack, 16)
    bits = max(1, int(integers.max()).bit_length())
    form = {"codecformat": "j2k", "reversible": False, "bitspersample": bits}
    streams = [encode(image, level=level, **form) for image in integers]
    return _slices(streams, imagecodecs.jpeg2k_decode, low, scale, stack.shape)


def code_htj2k(stack: Stack, quantiser: float) -> Coded:
    """High-throughput JPEG 2000, irreversible, slice by slice, with a quantiser step."""
    import imagecodecs

    integers, low, scale = to_integers(stack, 16, fill=True)
    streams = [imagecodecs.htj2k_encode(i, quantiser, reversible=False) for i in integers]
    return _slices(streams, imagecodecs.htj2k_decode, low, scale, stack.shape)


def code_jpegxl(stack: Stack, distance: float) -> Coded:
    """JPEG XL, effort 7, slice by slice, to a Butteraugli distance."""
    import imagecodecs

    integers, low, scale = to_integers(stack, 16, fill=True)
    form: Any = {"distance": distance, "effort": 7, "usecontainer": False, "numthreads": 1}
    streams = [imagecodecs.jpegxl_encode(image, **form) for image in integers]
    return _slices(streams, imagecodecs.jpegxl_decode, low, scale, stack.shape)


def _slices(
    streams: list[Any],
    decode: Callable[[bytes], Stack],
    low: float,
    scale: float,
    shape: tuple[int, ...],
) -> Coded:
    def back() -> Stack:
        slices = [decode(stream).reshape(shape[1:]) for stream in streams]
        return _from_integers(np.stack(slices), low, scale)

    return Coded(streams, back)


def code_sperr(stack: Stack, bpv: float) -> Coded:
    """SPERR in three dimensions, to a rate in bits per voxel."""
    import imagecodecs

    data = bytes(imagecodecs.sperr_encode(floats_for(stack), bpv, "bpp", numthreads=1))
    return Coded([data], lambda: imagecodecs.sperr_decode(data, numthreads=1))


def code_sz3(stack: Stack, bound: float) -> Coded:
    """SZ3 in three dimensions, absolute error bound as a share of the data range."""
    import imagecodecs

    values = floats_for(stack)
    span = float(values.max()) - float(values.min()) or 1.0
    data = bytes(imagecodecs.sz3_encode(values, "abs", abs=bound * span))
    return Coded([data], lambda: imagecodecs.sz3_decode(data, values.shape, values.dtype))


def _zfp(stack: Stack, level: float, mode: str) -> Coded:
    import imagecodecs

    encode: Any = imagecodecs.zfp_encode  # its stub calls the level an integer
    data = encode(floats_for(stack), level, mode=mode, execution="serial")
    return Coded([data], lambda: imagecodecs.zfp_decode(data))


def code_zfp(stack: Stack, tolerance: float) -> Coded:
    """ZFP in three dimensions, fixed accuracy, tolerance as a share of the data range."""
    span = float(stack.max()) - float(stack.min()) or 1.0
    return _zfp(stack, tolerance * span, "accuracy")


def code_zfp_rate(stack: Stack, bpv: float) -> Coded:
    """ZFP in three dimensions, fixed rate in bits per voxel (random access)."""
    return _zfp(stack, bpv, "rate")


def code_av1(stack: Stack, quality: float) -> Coded:
    """AV1 (libaom) as one 12-bit gray sequence with prediction between slices, encoded as ours is.

    Values use the whole of the twelve bits. The coded pictures are counted, no container.
    """
    from psc_volumetric.methods.av1.frames import decode_frames, encode_frames

    integers, low, scale = to_integers(stack, 12, fill=True)
    slices, height, width = integers.shape
    data = encode_frames(integers, round(quality))

    def back() -> Stack:
        decoded = decode_frames(data, (slices, height, width), what="AV1")
        return _from_integers(decoded, low, scale)

    return Coded([data], back)


def code_vvc(stack: Stack, quantiser: float) -> Coded:
    """VVC (libvvenc), preset slow, 10 bits, one sequence with prediction between slices.

    Values use the whole of the ten bits.
    """
    from pipelines.evaluation.peers.vvc import decode_vvc, encode_vvc

    integers, low, scale = to_integers(stack, 10, fill=True)
    slices, rows, columns = integers.shape
    data = encode_vvc(integers, round(quantiser))
    return Coded(
        [data], lambda: _from_integers(decode_vvc(data, (slices, rows, columns)), low, scale)
    )


def code_x265(stack: Stack, crf: float) -> Coded:
    """x265 (FFmpeg), preset slow, 12-bit gray with prediction between slices."""
    integers, low, scale = to_integers(stack, 12)
    shape = stack.shape
    pad = [(0, 0)] + [(0, max(64, n + n % 2) - n) for n in shape[1:]]
    data = _x265_encode(np.ascontiguousarray(np.pad(integers, pad, mode="edge")), crf)

    def back() -> Stack:
        return _from_integers(_x265_decode(data)[:, : shape[1], : shape[2]], low, scale)

    return Coded([data], back)


def _x265_encode(integers: Stack, crf: float) -> bytes:
    import av

    context: Any = av.CodecContext.create("libx265", "w")
    context.height, context.width = integers.shape[1:]
    context.pix_fmt = "gray12le"
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25, 1)
    context.options = {
        "preset": "slow",
        "tune": "psnr",
        "x265-params": f"crf={crf:.4f}:keyint=-1:range=full:info=0:log-level=none:pools=1",
    }
    packets: list[bytes] = []
    for number, image in enumerate(integers):
        frame = av.VideoFrame.from_ndarray(image, format="gray12le")
        frame.pts = number
        packets.extend(bytes(packet) for packet in context.encode(frame))
    packets.extend(bytes(packet) for packet in context.encode(None))
    return b"".join(packets)


def _x265_decode(data: bytes) -> Stack:
    import av

    context: Any = av.CodecContext.create("hevc", "r")
    frames = []
    for packet in [*context.parse(data), *context.parse(b"")]:
        frames.extend(context.decode(packet))
    frames.extend(context.decode(None))
    return np.stack([frame.to_ndarray() for frame in frames])
