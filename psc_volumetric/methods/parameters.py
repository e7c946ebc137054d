"""What a user chooses about lossy levels, whatever the method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psc_volumetric.errors import ParameterError

__all__ = [
    "EFFORTS",
    "FINEST_OF_PRIOR",
    "LARGEST_STEP",
    "SETTINGS",
    "SMALLEST_STEP",
    "CodecParameters",
]

SETTINGS = ("fast", "paper")
SMALLEST_STEP, LARGEST_STEP = 2e-9, 63.0  # of a range of 2: 30 bits; a few numbers a tile
FINEST_OF_PRIOR = 0.002

MOST_ROUNDS = 341  # of 12 rows, on one tile

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
    """Choices of an encoder; setting, effort and rounds are for the method ``psc``.

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
        the other methods take over where they may.
    rounds : int
        ``paper`` only: rounds of 12 rows.
    """

    setting: str = "fast"
    effort: int = 5
    step: float = 0.5
    rounds: int = 8

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS:
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
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise ParameterError(
                f"rounds must be 1..{MOST_ROUNDS}, found {self.rounds!r}",
                kind="bad-rounds",
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CodecParameters:
        """Rebuild from :meth:`to_dict`; unknown keys are a ``TypeError``."""
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return asdict(self)
