"""VVC (H.266) through the FFmpeg of imageio-ffmpeg, where that has libvvenc.

The encoder takes ten bits and colour: planes of one constant value are added, which cost nothing.
"""

from __future__ import annotations

import subprocess
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import NumericalError
from psc_volumetric.methods.av1.child_process import run_child
from psc_volumetric.methods.av1.encoder import find_ffmpeg

__all__ = ["decode_vvc", "encode_vvc", "has_vvc"]

ENCODER = "libvvenc"
GREY = 512  # of both colour planes
SMALLEST, MULTIPLE = 64, 8  # rows and columns
RATE = 25  # slices that count as a second
TIMEOUT_S = 3600.0

Stack = NDArray[Any]


@cache
def has_vvc() -> bool:
    """Whether an FFmpeg with libvvenc is there; looked for once per process."""
    ffmpeg = find_ffmpeg()
    if ffmpeg is None:
        return False
    words = [ffmpeg, "-hide_banner", "-encoders"]
    try:
        listed = subprocess.run(
            words, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return f" {ENCODER} ".encode() in listed.stdout


def padded(size: int) -> int:
    """Rows or columns that are coded for so many."""
    return max(SMALLEST, -(-size // MULTIPLE) * MULTIPLE)


def encode_vvc(integers: Stack, quantiser: int) -> bytes:
    """Stream of a stack of slices (n, y, x) of 10 bits, preset slow, prediction between slices.

    Parameters
    ----------
    integers : (n, y, x) uint16
        0 .. 1023.
    quantiser : int
        0 (finest) .. 63.

    Raises
    ------
    NumericalError : FFmpeg failed (kind ``"vvc"``).
    """
    slices, rows, columns = integers.shape
    height, width = padded(rows), padded(columns)
    edges = [(0, 0), (0, height - rows), (0, width - columns)]
    luma = np.pad(integers, edges, mode="edge").astype("<u2").reshape(slices, -1)
    grey = np.full((slices, height * width // 2), GREY, "<u2")
    words = (
        f"-f rawvideo -pix_fmt yuv420p10le -r {RATE} -s {width}x{height} -i pipe:0 -c:v {ENCODER} "
        f"-qp {quantiser} -qpa 0 -period {-(-slices // RATE)} -preset slow -threads 1 -f vvc pipe:1"
    )
    return _run(words, np.concatenate([luma, grey], axis=1).tobytes())


def decode_vvc(data: bytes, shape: tuple[int, int, int]) -> Stack:
    """Slices (n, y, x) of a stream.

    Raises
    ------
    NumericalError : FFmpeg failed, or gave other extents (kind ``"vvc"``).
    """
    slices, rows, columns = shape
    height, width = padded(rows), padded(columns)
    raw = _run("-f vvc -threads 1 -i pipe:0 -f rawvideo -pix_fmt yuv420p10le pipe:1", data)
    samples = np.frombuffer(raw, "<u2")
    if samples.size != slices * height * width * 3 // 2:
        raise NumericalError(
            f"VVC: expected {slices} slices of {height} x {width}, found {samples.size} samples",
            kind="vvc",
        )
    luma = samples.reshape(slices, -1)[:, : height * width].reshape(slices, height, width)
    return luma[:, :rows, :columns]


def _run(words: str, data: bytes) -> bytes:
    ffmpeg = find_ffmpeg()
    assert ffmpeg is not None  # `has_vvc` was asked
    command = [ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin", *words.split()]
    done = run_child(command, data, timeout_s=TIMEOUT_S)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise NumericalError(f"VVC: FFmpeg ended with {done.returncode}: {last[0]}", kind="vvc")
    return done.stdout
