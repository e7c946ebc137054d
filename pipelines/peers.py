"""Other codecs on the same volume: how each is called, and what its bytes and error are.

Every peer works in memory on the whole volume as a stack of slices (n, y, x). Codecs for single
images code each slice, with one setting for all of them, and pay four bytes per slice for the
length that a container would have to store. What a decoder needs besides the stream (offset and
scale of the integers, dtype and shape where the stream lacks them) is counted as `SIDE_BYTES`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError
from psc_volumetric.metrics import psnr_db, rate_bpv

__all__ = ["PEERS", "SIDE_BYTES", "Peer", "RatePoint", "missing_peers", "peer_points"]

SIDE_BYTES = 32
_SLICE_BYTES = 4
_TOLERANCE = 0.02
_TRIES = 14

Stack = NDArray[np.generic]
Coded = tuple[int, Stack]


@dataclass(frozen=True)
class RatePoint:
    """One measured point of a rate-distortion curve.

    Attributes
    ----------
    codec : str
        Name of the codec.
    parameter : str
        The setting that gave the point, in the codec's own words.
    nbytes, rate_bpv : int, float
        Every byte, and bits per source voxel.
    psnr_db : float
        Peak is the data range of the volume.
    seconds : float
        Encoding and decoding of this point, one thread where the codec lets us choose; for ours
        encoding, which decodes as well.
    target_bpv : float or None
        The rate that was asked for, when one was.
    """

    codec: str
    parameter: str
    nbytes: int
    rate_bpv: float
    psnr_db: float
    seconds: float
    target_bpv: float | None = None

    def to_dict(self) -> dict[str, object]:
        """The point as plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Peer:
    """A codec to compare with.

    Attributes
    ----------
    name, title : str
        Word for the command line, and name for people.
    code : callable
        (stack (n, y, x) of a real dtype, parameter) -> (bytes counted, decoded stack).
    bounds : (float, float)
        Parameter range from the highest rate to the lowest.
    logarithmic : bool
        Whether the search halves the range in the logarithm of the parameter.
    label : str
        What the parameter is called.
    needs : str
        Distribution that provides it.
    """

    name: str
    title: str
    code: Callable[[Stack, float], Coded]
    bounds: tuple[float, float]
    logarithmic: bool
    label: str
    needs: str = "imagecodecs"


def _to_integers(stack: Stack, bits: int) -> tuple[NDArray[np.uint16], float, float]:
    """Integers of at most `bits` bits with the offset and scale that bring the values back."""
    low, high = float(stack.min()), float(stack.max())
    top = float(2**bits - 1)
    if stack.dtype.kind in "iub" and high - low <= top:
        scale = 1.0
    else:
        scale = (high - low) / top if high > low else 1.0
    integers = np.rint((stack.astype(np.float64) - low) / scale)
    return integers.astype(np.uint16), low, scale


def _from_integers(integers: Stack, low: float, scale: float) -> Stack:
    return integers.astype(np.float64) * scale + low


def _jpeg2000(stack: Stack, level: float) -> Coded:
    import imagecodecs

    encode: Any = imagecodecs.jpeg2k_encode  # its stub calls the PSNR level an integer
    integers, low, scale = _to_integers(stack, 16)
    bits = max(1, int(integers.max()).bit_length())
    size, slices = SIDE_BYTES, []
    for image in integers:
        data = encode(image, level=level, codecformat="j2k", reversible=False, bitspersample=bits)
        size += len(data) + _SLICE_BYTES
        slices.append(imagecodecs.jpeg2k_decode(data))
    return size, _from_integers(np.stack(slices), low, scale)


def _jpegxl(stack: Stack, distance: float) -> Coded:
    import imagecodecs

    low, high = float(stack.min()), float(stack.max())
    scale = (high - low) / 65535.0 if high > low else 1.0
    integers = np.rint((stack.astype(np.float64) - low) / scale).astype(np.uint16)
    size, slices = SIDE_BYTES, []
    for image in integers:
        data = imagecodecs.jpegxl_encode(image, distance=distance, effort=7, usecontainer=False)
        size += len(data) + _SLICE_BYTES
        slices.append(imagecodecs.jpegxl_decode(data).reshape(image.shape))
    return size, _from_integers(np.stack(slices), low, scale)


def _sperr(stack: Stack, bpv: float) -> Coded:
    import imagecodecs

    values = np.ascontiguousarray(stack, dtype=np.float32)
    data = imagecodecs.sperr_encode(values, bpv, "bpp", numthreads=1)
    return len(data) + SIDE_BYTES, imagecodecs.sperr_decode(data, numthreads=1)


def _sz3(stack: Stack, bound: float) -> Coded:
    import imagecodecs

    values = np.ascontiguousarray(stack, dtype=np.float32)
    span = float(values.max()) - float(values.min()) or 1.0
    data = imagecodecs.sz3_encode(values, "abs", abs=bound * span)
    decoded = imagecodecs.sz3_decode(data, values.shape, values.dtype)
    return len(data) + SIDE_BYTES, decoded


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


def _x265(stack: Stack, crf: float) -> Coded:
    integers, low, scale = _to_integers(stack, 12)
    pad = [(0, 0)] + [(0, max(64, n + n % 2) - n) for n in integers.shape[1:]]
    padded = np.ascontiguousarray(np.pad(integers, pad, mode="edge"))
    data = _x265_encode(padded, crf)
    decoded = _x265_decode(data)[:, : integers.shape[1], : integers.shape[2]]
    return len(data) + SIDE_BYTES, _from_integers(decoded, low, scale)


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("jpeg2000", "JPEG 2000, slices", _jpeg2000, (100.0, 10.0), False, "psnr level"),
        Peer("jpegxl", "JPEG XL e7, slices", _jpegxl, (0.05, 25.0), True, "distance"),
        Peer("sperr", "SPERR-3D", _sperr, (16.0, 0.002), True, "bpp"),
        Peer("sz3", "SZ3-3D", _sz3, (1e-5, 0.5), True, "abs / range"),
        Peer("x265", "x265 slow, 12-bit inter", _x265, (1.0, 51.0), False, "crf", "av"),
    )
}


def missing_peers(names: Sequence[str]) -> dict[str, str]:
    """Peers of the list that cannot run here, each with the reason in words."""
    found: dict[str, str] = {}
    for name in names:
        if name not in PEERS:
            raise ParameterError(
                f"unknown peer {name!r}; known are {', '.join(PEERS)}", kind="unknown-peer"
            )
        needs = PEERS[name].needs
        if importlib.util.find_spec(needs) is None:
            found[name] = f"{needs} is not installed (pip install 'psc-archive[bench]')"
    return found


def _measure(
    peer: Peer, stack: Stack, parameter: float, peak: float, mask: NDArray[np.bool_] | None
) -> RatePoint:
    begin = time.perf_counter()
    nbytes, decoded = peer.code(stack, parameter)
    seconds = time.perf_counter() - begin
    return RatePoint(
        codec=peer.name,
        parameter=f"{peer.label} {parameter:.4g}",
        nbytes=nbytes,
        rate_bpv=rate_bpv(nbytes, stack.size),
        psnr_db=psnr_db(stack, decoded, peak, mask),
        seconds=seconds,
    )


def _middle(low: float, high: float, logarithmic: bool) -> float:
    return float(np.sqrt(low * high)) if logarithmic else (low + high) / 2


def peer_points(
    peer: Peer,
    stack: Stack,
    targets_bpv: Sequence[float],
    *,
    peak: float,
    mask: NDArray[np.bool_] | None = None,
) -> list[RatePoint]:
    """One point per target rate, found by halving the parameter range.

    Parameters
    ----------
    peer : Peer
    stack : (n, y, x) array
        Whole volume, without NaN.
    targets_bpv : sequence of float
        Rates to come close to. The nearest point tried is given with its true rate, also where
        the codec cannot go as low or as high as asked.
    peak : float
        Data range of the volume.
    mask : bool array, optional
        Voxels that count for PSNR.

    Returns
    -------
    list of RatePoint, one per target, in the order of the targets.
    """
    tried: dict[float, RatePoint] = {}

    def at(parameter: float) -> RatePoint:
        if parameter not in tried:
            tried[parameter] = _measure(peer, stack, parameter, peak, mask)
        return tried[parameter]

    return [_nearest(peer, at, tried, target) for target in targets_bpv]


def _nearest(
    peer: Peer, at: Callable[[float], RatePoint], tried: dict[float, RatePoint], target: float
) -> RatePoint:
    fine, coarse = peer.bounds
    if peer.name == "sperr":
        at(min(max(target, coarse), fine))
    else:
        for parameter, point in tried.items():
            if point.rate_bpv >= target and abs(parameter - coarse) < abs(fine - coarse):
                fine = parameter
            elif point.rate_bpv < target and abs(parameter - fine) < abs(coarse - fine):
                coarse = parameter
        if at(peer.bounds[1]).rate_bpv >= target:
            coarse = fine = peer.bounds[1]
        for _ in range(_TRIES if fine != coarse else 0):
            middle = _middle(fine, coarse, peer.logarithmic)
            rate = at(middle).rate_bpv
            if abs(rate - target) <= _TOLERANCE * target:
                break
            fine, coarse = (middle, coarse) if rate > target else (fine, middle)
    best = min(tried.values(), key=lambda point: abs(np.log(point.rate_bpv / target)))
    return RatePoint(**{**best.to_dict(), "target_bpv": target})  # type: ignore[arg-type]
