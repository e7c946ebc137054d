"""What a user chooses about the codec, and how that becomes the parameters a stream carries."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from psc_volumetric.bitstream.constants import MAX_TILE_ROWS, SAMPLE_FRACTION_BITS
from psc_volumetric.bitstream.header import StreamParameters
from psc_volumetric.errors import ParameterError

__all__ = ["FINEST_OF_PRIOR", "LARGEST_STEP", "SMALLEST_STEP", "CodecParameters"]

SMALLEST_STEP, LARGEST_STEP = 2e-9, 63.0  # of a range of 2: 30 bits; a few numbers a tile
FINEST_OF_PRIOR = 0.002

FIRST_TIME, LAST_TIME = 0.8, 0.02  # of the single reverse pass, 1 = pure noise
FIRST_THRESHOLD, LAST_THRESHOLD = 8.0, 0.3  # quantiser steps
FINAL_SHARE = 0.25  # of the steps, at the end of the pass, keep the last threshold
LEVEL_SHARES = (0.375, 0.625, 1.0)  # of the steps, where levels 1, 2, 3 end
COARSE_RATIO = 1.0  # coarse step / step
STEP_LIMIT = (1 << 17) - 1  # of the format
PAPER_STEPS, PAPER_PARTICLES, PAPER_ROWS = 25, 16, 12  # PSC appendix A

# effort -> (denoising steps, particles); evaluations per tile = steps x particles.
EFFORTS = {
    1: (2, 4),
    2: (4, 4),
    3: (8, 4),
    4: (12, 4),
    5: (16, 4),
    6: (16, 8),
    7: (24, 8),
    8: (16, 16),
    9: (19, 16),
}


@dataclass(frozen=True)
class CodecParameters:
    """Choices for the ``psc`` method.

    Parameters
    ----------
    setting : str
        ``"fast"`` (one reverse pass, structured rows, uniform quantiser) or ``"paper"``
        (restart, PCA rows, float8; PSC Algorithms 1 and 2).
    effort : int
        1..9; network evaluations per tile from 8 to 304. ``fast`` only; 5 means 64.
    step : float
        Quantiser step in normalised units (the intensity range is 2); smaller is better and
        larger. Default 0.5. The prior's own steps end at 1/2048, and from ``FINEST_OF_PRIOR`` on
        classical methods take over where they may.
    rounds : int
        ``paper`` only: rounds of 12 rows.
    """

    setting: str = "fast"
    effort: int = 5
    step: float = 0.5
    rounds: int = 8

    def __post_init__(self) -> None:
        if self.setting not in ("fast", "paper"):
            raise ParameterError(
                f"setting must be 'fast' or 'paper', found {self.setting!r}", kind="bad-setting"
            )
        if self.effort not in EFFORTS:
            raise ParameterError(f"effort must be 1..9, found {self.effort!r}", kind="bad-effort")
        if not SMALLEST_STEP <= self.step <= LARGEST_STEP:
            raise ParameterError(
                f"step must be {SMALLEST_STEP:.2g}..{LARGEST_STEP:g} normalised units, found "
                f"{self.step!r}",
                kind="bad-step",
            )
        if not 1 <= self.rounds <= MAX_TILE_ROWS // PAPER_ROWS:
            raise ParameterError(
                f"rounds must be 1..{MAX_TILE_ROWS // PAPER_ROWS}, found {self.rounds!r}",
                kind="bad-rounds",
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CodecParameters:
        """Rebuild from :meth:`to_dict`; unknown keys are a ``TypeError``."""
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return asdict(self)

    def stream(self, levels: int, seed: int, *, coarser: float = 1.0) -> StreamParameters:
        """Parameters as a stream carries them.

        Parameters
        ----------
        levels : int
            Noise levels of the prior; level ``i`` is time ``(i + 1) / levels``.
        seed : int
            Key of the noise.
        coarser : float
            Factor on the quantiser step.
        """
        scaled = round(self.step * coarser * (1 << SAMPLE_FRACTION_BITS))
        step = min(max(1, scaled), STEP_LIMIT)
        if self.setting == "paper":
            noise = _noise_levels(PAPER_STEPS, 1.0, 1.0 / PAPER_STEPS, levels)
            ends = _level_ends(self.rounds, (0.25, 0.5, 1.0))
            return StreamParameters(
                "restart", "pca", "float8", PAPER_PARTICLES, noise, (), step, step, ends,
                PAPER_ROWS, seed,
            )  # fmt: skip
        steps, particles = EFFORTS[self.effort]
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
