"""From what a user chooses to the parameters that a ``psc`` stream carries."""

from __future__ import annotations

import math
from functools import singledispatch

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.methods.parameters import EFFORTS, CodecParameters
from psc_volumetric.methods.psc.fields import StreamParameters

__all__ = ["stream_parameters"]

FIRST_TIME, LAST_TIME = 0.8, 0.02  # of the single reverse pass, 1 = pure noise
FIRST_THRESHOLD, LAST_THRESHOLD = 8.0, 0.3  # quantiser steps
FINAL_SHARE = 0.25  # of the steps, at the end of the pass, keep the last threshold
LEVEL_SHARES = (0.375, 0.625, 1.0)  # of the steps, where levels 1, 2, 3 end
COARSE_RATIO = 1.0  # coarse step / step
STEP_LIMIT = (1 << 17) - 1  # of the format
PAPER_STEPS, PAPER_PARTICLES, PAPER_ROWS, PAPER_RESTORED = 25, 16, 12, 64  # PSC appendix A


@singledispatch
def stream_parameters(
    chosen: CodecParameters, levels: int, seed: int, *, coarser: float = 1.0
) -> StreamParameters:
    """Parameters as a stream carries them; tests register shorter ones for their own classes.

    Parameters
    ----------
    chosen : CodecParameters
    levels : int
        Noise levels of the prior; level ``i`` is time ``(i + 1) / levels``.
    seed : int
        Key of the noise.
    coarser : float
        Factor on the quantiser step.
    """
    scaled = round(chosen.step * coarser * (1 << SAMPLE_FRACTION_BITS))
    step = min(max(1, scaled), STEP_LIMIT)
    if chosen.setting == "paper":
        noise = _noise_levels(PAPER_STEPS, 1.0, 1.0 / PAPER_STEPS, levels)
        ends = _level_ends(chosen.rounds, (0.25, 0.5, 1.0))
        return StreamParameters(
            "restart", "pca", "float8", PAPER_PARTICLES, noise, (), step, step, ends,
            PAPER_ROWS, seed, PAPER_RESTORED // PAPER_PARTICLES,
        )  # fmt: skip
    steps, particles = EFFORTS[chosen.effort]
    noise = _noise_levels(steps, FIRST_TIME, LAST_TIME, levels)
    thresholds = tuple(_threshold(i, steps) for i in range(steps))
    coarse = max(1, round(step * COARSE_RATIO))
    ends = _level_ends(steps, LEVEL_SHARES)
    return StreamParameters(
        "single_pass", "structured", "uniform", particles, noise, thresholds, step, coarse,
        ends, 0, seed,
    )  # fmt: skip


def _noise_levels(steps: int, first: float, last: float, levels: int) -> tuple[int, ...]:
    times = [first + (last - first) * i / max(1, steps - 1) for i in range(steps)]
    return tuple(min(levels - 1, max(0, round(t * levels) - 1)) for t in times)


def _threshold(i: int, steps: int) -> int:
    """Falls geometrically, then stays; 256ths of a quantiser step."""
    span = steps - 1 - max(1, round(steps * FINAL_SHARE))
    share = min(1.0, i / span) if span > 0 else float(i > 0)
    ratio = LAST_THRESHOLD / FIRST_THRESHOLD
    return round(256 * FIRST_THRESHOLD * math.pow(ratio, share))


def _level_ends(steps: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(sorted({max(1, math.ceil(steps * share)) for share in shares}))
