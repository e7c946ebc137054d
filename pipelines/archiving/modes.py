"""What an archive promises for each of its variables: every bit, a largest error, or neither.

The archive's mode is what the user asked for. A variable may get more: label maps, colours and
masks are kept exactly in every mode, because an approximation of them means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.base import Volume
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.suggested_bound import BUDGET, suggested_bound
from pipelines.archiving.value_range import SampledRange, judge, too_small
from psc_volumetric.errors import ParameterError

__all__ = ["VariableMode", "decide"]


@dataclass(frozen=True)
class VariableMode:
    """How one variable is kept.

    Attributes
    ----------
    mode : str
        ``"lossless"``, ``"bounded"`` or ``"lossy"``.
    max_error : float or None
        Bound of the bounded level in stored units; None without one.
    base : str
        Lossy method below the exact levels: ``"auto"``, the name of one, or ``"none"``.
    reason : str or None
        Why the variable is kept exactly though less was asked for, or has no lossy levels.
    range : SampledRange or None
        Range of the stored values; None where nobody needed it.
    limits : (least, largest) or None
        Stored values that the source format can hold; no level leaves them.
    needs_prior : bool
        Whether bricks are coded with a prior.
    budget : float or None
        Share of the bytes that the bounded level of a lossless variable may add to a brick, which
        has none where it would add more; None where the level was asked for, or is none.
    """

    mode: str
    max_error: float | None
    base: str
    reason: str | None
    range: SampledRange | None
    limits: tuple[float | int, float | int] | None = None
    needs_prior: bool = False
    budget: float | None = None

    @property
    def peak(self) -> float | None:
        """Largest minus least value of the volume, the peak of PSNR; None without one."""
        return None if self.range is None else self.range.span

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record for the archive's attributes."""
        return {
            "mode": self.mode,
            "max_error": self.max_error,
            "base": self.base,
            "reason": self.reason,
            "peak": self.peak,
            "limits": None if self.limits is None else list(self.limits),
        }


def decide(volume: Volume, options: ArchiveOptions, *, may_carry: bool = True) -> VariableMode:
    """Decide how a volume is kept; reads its values only where the answer depends on them.

    ``may_carry`` says whether the archive has room for a prior, which travels with it.

    Raises
    ------
    ParameterError : the bound reaches past the range of the values (kind ``"bad-bound"``), or is in
        physical units that the source does not have (kind ``"no-physical-unit"``).
    """
    if options.lossy_base == "none" and options.max_error is None:
        bound = suggested_bound(volume) if options.may_refine else None
        budget = None if bound is None else BUDGET
        return VariableMode("lossless", bound, "none", None, None, budget=budget)
    small = too_small(volume)
    if volume.exact_only or (small and options.max_error is None):
        return VariableMode("lossless", None, "none", volume.exact_only or small, None)
    sampled, reason = judge(volume)
    if reason is not None:
        return VariableMode("lossless", None, "none", reason, sampled)
    base, limits, tries_prior = options.lossy_base, volume.limits, options.tries_prior
    if small:
        return _without_base(volume, options, sampled, small)
    tries_prior = tries_prior and may_carry
    if options.max_error is None:
        return VariableMode(options.mode, None, base, None, sampled, limits, tries_prior)
    bound = _stored_bound(volume, options, sampled)
    if np.dtype(volume.array.dtype).kind in "iu":
        bound = float(math.floor(bound))
        if not bound:
            why = "the largest error allowed is below one stored unit"
            return VariableMode("lossless", None, base, why, sampled, limits, tries_prior)
    return VariableMode(options.mode, bound, base, None, sampled, limits, tries_prior)


def _without_base(
    volume: Volume, options: ArchiveOptions, sampled: SampledRange | None, why: str
) -> VariableMode:
    """Values within the bound, coded from one another without a lossy method below."""
    bound = _stored_bound(volume, options, sampled)
    if np.dtype(volume.array.dtype).kind in "iu":
        bound = float(math.floor(bound))
    mode = options.mode if bound else "lossless"
    mode = "bounded" if mode == "lossy" else mode
    return VariableMode(mode, bound or None, "none", why, sampled, volume.limits)


def _stored_bound(volume: Volume, options: ArchiveOptions, sampled: SampledRange | None) -> float:
    """Largest error in stored units."""
    assert options.max_error is not None and sampled is not None
    span = sampled.span
    if options.max_error_unit == "relative":
        return options.max_error * span
    bound = options.max_error
    if options.max_error_unit == "physical":
        bound /= _largest_slope(volume)
    if not bound < span:
        raise ParameterError(
            f"variable {volume.name!r}: expected a largest error below {span:g}, the range of its "
            f"stored values, found {bound:g}",
            kind="bad-bound",
            hint="--max-error-unit relative takes a share of each variable's range",
        )
    return bound


def _largest_slope(volume: Volume) -> float:
    """Physical units per stored unit, the largest where it varies by slice.

    Raises
    ------
    ParameterError : nothing says what a stored unit is (kind ``"no-physical-unit"``).
    """
    table = volume.attrs.get("slice_slope")
    if table is None and volume.slope is None and volume.unit is None:
        raise ParameterError(
            f"variable {volume.name!r}: expected a scale for a largest error in physical units, "
            "found neither a slope nor a unit in the source",
            kind="no-physical-unit",
            hint="give the error in stored units, or as a share of the range with "
            "--max-error-unit relative",
        )
    slopes = np.abs(np.asarray(volume.slope or 1.0 if table is None else table, np.float64))
    return float(slopes.max()) or 1.0
