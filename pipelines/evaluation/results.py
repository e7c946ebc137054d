"""What an evaluation found: points of every codec on a volume, and ours against each peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.point import RatePoint

__all__ = ["Comparison", "VolumeResult"]


@dataclass(frozen=True)
class Comparison:
    """One of our streams against one peer, or another of ours, on one volume.

    Attributes
    ----------
    ours, peer : str
        Codecs; the peer may be ``"best peer"``, the smallest that kept the promise (or broke
        a bound by less than 10 %, which is marked in the tables but still a rival), or another
        of ours.
    setting : str
        The bound, ``"lossless"``, or empty for curves.
    bytes_percent : float or None
        Change of bytes: BD-rate for curves, else at the same promise; -20 is a fifth fewer.
    psnr_db : float or None
        BD-PSNR, positive when ours is better; None without curves or overlap.
    """

    ours: str
    peer: str
    setting: str
    bytes_percent: float | None
    psnr_db: float | None = None


@dataclass(frozen=True)
class VolumeResult:
    """Points of every codec on one volume.

    Attributes
    ----------
    name, group : str
        The volume, and the set it belongs to; averages are taken within a set.
    mode, shape, dtype, peak
        Mode of the evaluation; the volume and its data range in stored units.
    prior : str or None
        Prior of our points; None when the volume took a network-free method.
    points : tuple of RatePoint
        Ours first (codecs ``"ours-<variant>"``), then the peers.
    comparisons : tuple of Comparison
        Ours against each peer, and of curves the first of ours against the others.
    methods : dict
        Ours, by codec and setting: method of bricks -> (bricks, bytes).
    notes : tuple of str
        What was left out, and why.
    """

    name: str
    group: str
    mode: str
    shape: tuple[int, ...]
    dtype: str
    peak: float
    prior: str | None
    points: tuple[RatePoint, ...]
    comparisons: tuple[Comparison, ...]
    methods: dict[str, dict[str, tuple[int, int]]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Record in JSON types; PSNR is infinite where values agree exactly."""
        return {
            **vars(self),
            "shape": list(self.shape),
            "points": [point.to_dict() for point in self.points],
            "comparisons": [dict(vars(entry)) for entry in self.comparisons],
            "notes": list(self.notes),
        }
