"""libaom through FFmpeg, tuned for squared error. Encoder only; not part of the format.

libavif, which comes with imagecodecs, sets libaom to visual tuning and lets nobody change it; that
takes a quarter more bytes at equal error (decision 0018). Where ``imageio-ffmpeg`` is installed
(the extra ``av1``), its FFmpeg is run as a program of its own: raw slices in, temporal units out.
It never outlives the process that asked for it.
"""

from __future__ import annotations

import subprocess
from functools import cache

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import NumericalError
from psc_volumetric.methods.av1.child_process import run_child

__all__ = ["encode_units", "find_ffmpeg"]

Samples = NDArray[np.uint16]

SLOWEST, FASTEST = 0, 8  # of libaom's cpu-used in good quality
ENCODER = "libaom-av1"
TUNING = "tune=psnr:deltaq-mode=0"
LOOK_AHEAD = 48  # slices, the most libaom allows
SECONDS_PER_MEGAVOXEL = 600  # a slow machine at speed 2 needs about 20


@cache
def find_ffmpeg() -> str | None:
    """Path of an FFmpeg that writes AV1 with libaom, or None; looked for once per process."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        path = str(get_ffmpeg_exe())
        listed = subprocess.run(
            [path, "-hide_banner", "-encoders"],
            capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=True,
        )  # fmt: skip
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError):
        return None
    return path if f" {ENCODER} ".encode() in listed.stdout else None


def encode_units(ffmpeg: str, samples: Samples, quantiser: int, *, speed: int) -> bytes:
    """Temporal units of a stack of slices, low-overhead format.

    Parameters
    ----------
    ffmpeg : str
        Of :func:`find_ffmpeg`.
    samples : (n, y, x) uint16
        0 .. 4095.
    quantiser : int
        0 (finest) .. 63, libaom's own scale.
    speed : int
        libaom's effort, 0 (slowest) .. 8; above means 8.

    Raises
    ------
    NumericalError
        FFmpeg failed or took longer than any machine should.
    """
    slices, height, width = samples.shape
    words = (
        "-hide_banner -loglevel error -nostdin -f rawvideo -pix_fmt gray12le -r 25 "
        f"-s {width}x{height} -i pipe:0 -c:v {ENCODER} -crf {quantiser} -b:v 0 "
        f"-cpu-used {min(max(speed, SLOWEST), FASTEST)} -lag-in-frames {LOOK_AHEAD} "
        f"-g {slices} -threads 1 -row-mt 0 -color_range pc -aom-params {TUNING} -f obu pipe:1"
    )
    try:
        done = run_child(
            [ffmpeg, *words.split()],
            np.ascontiguousarray(samples, "<u2").tobytes(),
            timeout_s=60 + SECONDS_PER_MEGAVOXEL * samples.size / 1e6,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NumericalError(
            f"AV1 encoder: {ffmpeg} did not finish ({error})",
            kind="av1-encoder",
            hint="set IMAGEIO_FFMPEG_EXE to another FFmpeg, or uninstall imageio-ffmpeg",
        ) from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise NumericalError(
            f"AV1 encoder: {ffmpeg} ended with {done.returncode}: {last[0]}",
            kind="av1-encoder",
            hint="set IMAGEIO_FFMPEG_EXE to another FFmpeg, or uninstall imageio-ffmpeg",
        )
    return done.stdout
