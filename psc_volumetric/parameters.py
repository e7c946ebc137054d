"""What a user chooses about the codec, and how that becomes the parameters a stream carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psc_volumetric.errors import ParameterError

__all__ = ["CodecParameters"]

# effort -> (denoising steps, particles); evaluations per tile = steps x particles.
EFFORTS = {
    1: (2, 4),
    2: (4, 4),
    3: (4, 8),
    4: (6, 8),
    5: (8, 8),
    6: (12, 8),
    7: (12, 16),
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
        larger. Default 0.5.
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
        if not 0.002 <= self.step <= 64:
            raise ParameterError(
                f"step must be 0.002..64 normalised units, found {self.step!r}", kind="bad-step"
            )
        if not 1 <= self.rounds <= 4096:
            raise ParameterError(
                f"rounds must be 1..4096, found {self.rounds!r}", kind="bad-rounds"
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CodecParameters:
        """Rebuild from :meth:`to_dict`; unknown keys are a ``TypeError``."""
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dictionary."""
        return asdict(self)
