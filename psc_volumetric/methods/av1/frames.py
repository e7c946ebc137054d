"""Frames of 12-bit samples under AV1. Part of the format (SPEC section 3.7).

AV1's decoder is integer arithmetic without freedom (AV1 Bitstream & Decoding Process
Specification, AOM 2019, section 7.1: every conforming decoder gives the same samples), so a stream
means the same in every AV1 library. Here it is libaom for writing, through FFmpeg where it is
installed and else through libavif, and libavif with dav1d for reading, through imagecodecs.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError, ParameterError
from psc_volumetric.methods.av1.container import unwrap, wrap
from psc_volumetric.methods.av1.encoder import encode_units, find_ffmpeg
from psc_volumetric.methods.av1.units import split_units

__all__ = ["MAX_QUALITY", "SAMPLE_MAX", "decode_frames", "encode_frames", "quantiser_step"]

Samples = NDArray[np.uint16]

SAMPLE_MAX = 4095
MAX_QUALITY = 99  # 100 is the library's lossless mode for colours

# quantiser steps in eighths of a sample: Ac_Qlookup of the AV1 specification (7.12.2) for 12 bits
# at the 64 base_q_idx values that libaom's quantisers 0 .. 63 stand for
# fmt: off
STEPS = (
    4, 35, 75, 126, 183, 247, 314, 384, 456, 530, 604, 679, 753, 828, 902, 976, 1049, 1121, 1193,
    1264, 1335, 1405, 1474, 1543, 1627, 1758, 1889, 2020, 2150, 2281, 2411, 2605, 2798, 2992, 3185,
    3426, 3684, 3941, 4230, 4550, 4871, 5256, 5641, 6073, 6522, 7034, 7579, 8155, 8795, 9484, 10220,
    11020, 11885, 12813, 13821, 14925, 16110, 17390, 18766, 20270, 21902, 23662, 26047, 29247,
)
# fmt: on


def quantiser_step(quality: int) -> float:
    """Quantiser step of ``quality`` in samples; falls with quality."""
    return STEPS[_quantiser(quality)] / 8


def _quantiser(quality: int) -> int:
    """Quantiser of libaom, 0 .. 63, for a quality of libavif."""
    return ((100 - quality) * 63 + 50) // 100


def encode_frames(samples: Samples, quality: int, *, speed: int = 2) -> bytes:
    """AV1 stream of a stack of slices.

    Parameters
    ----------
    samples : (n, y, x) uint16
        0 .. 4095; 1 <= y, x <= 16384. Slices are one another's reference frames.
    quality : int
        0 (coarsest) .. 99; 64 of them differ, see :func:`quantiser_step`.
    speed : int
        libaom's effort, 0 (slowest) .. 10; changes the bytes, never how they decode.

    Returns
    -------
    bytes
        Temporal units, low-overhead format: what ``.obu`` files hold.

    Raises
    ------
    ParameterError
        Samples or quality out of range.
    """
    if not 0 <= quality <= MAX_QUALITY or int(samples.max(initial=0)) > SAMPLE_MAX:
        raise ParameterError(
            f"AV1: expected quality 0 .. {MAX_QUALITY} and samples up to {SAMPLE_MAX}, found "
            f"{quality!r} and {int(samples.max(initial=0))}",
            kind="bad-parameter",
        )
    shape = (samples.shape[0], samples.shape[1], samples.shape[2])
    ffmpeg = find_ffmpeg()
    if ffmpeg is not None:
        stream = encode_units(ffmpeg, samples, _quantiser(quality), speed=speed)
    else:
        stream = _encode_with_libavif(samples, quality, speed)
    split_units(stream, shape, what="AV1 encoder")
    return stream


def _encode_with_libavif(samples: Samples, quality: int, speed: int) -> bytes:
    # the library ignores the quality of single-channel input: three equal channels, then 4:0:0
    file = imagecodecs.avif_encode(
        np.repeat(samples[..., None], 3, axis=-1),
        quality,
        speed=speed,
        bitspersample=12,
        pixelformat="400",
        numthreads=1,
    )
    return unwrap(bytes(file))


def decode_frames(data: bytes, shape: tuple[int, int, int], *, what: str) -> Samples:
    """Slices of a stream from :func:`encode_frames`.

    Parameters
    ----------
    data : bytes
        The stream; checked completely at the level of headers before a decoder is called.
    shape : (n, y, x)
        Extents it has to have.
    what : str
        Place, for messages.

    Raises
    ------
    FormatError
        Not a stream of this shape and kind, or damaged inside.
    """
    units = split_units(data, shape, what=what)
    try:
        decoded = imagecodecs.avif_decode(wrap(units, shape[1], shape[2]), numthreads=1)
    except (imagecodecs.AvifError, ValueError) as error:
        raise FormatError(
            f"{what}: AV1 stream does not decode ({error})",
            kind="bad-av1",
            hint="the chunk is damaged, run `psc-archive verify`",
        ) from error
    if decoded.dtype != np.uint16 or decoded.size != shape[0] * shape[1] * shape[2]:
        raise FormatError(
            f"{what}: expected {shape} 12-bit samples, found {decoded.shape} {decoded.dtype}",
            kind="bad-av1",
        )
    samples: Samples = decoded.reshape(shape)
    return samples
