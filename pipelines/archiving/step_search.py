"""The search for the quantiser step that gives a number of bytes or a squared error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psc_volumetric.methods.parameters import LARGEST_STEP, SMALLEST_STEP

__all__ = ["CLOSE", "FIRST_STEP", "Trial", "search"]

FIRST_STEP = 0.5
SLOPES = {"bpv": -1.2, "psnr": 1.3}  # of log bytes and log squared error over log step
CLOSE = {"bpv": 0.008, "psnr": 0.009}  # when a search stops: less than half of what is allowed
MOST_TRIALS = 16
FARTHEST = 6.0  # from one step to the next, logarithm


@dataclass(frozen=True)
class Trial:
    """A step and the quantity (bytes, or squared error) it gave."""

    step: float
    quantity: float


def search(
    measure: Callable[[float], float], wanted: float, *, kind: str, start: float
) -> tuple[Trial, bool]:
    """Find the step at which a quantity is closest to what is wanted.

    Parameters
    ----------
    measure : callable
        Step -> bytes (kind ``"bpv"``, falling) or squared error (``"psnr"``, rising).
    wanted : float
        The quantity, above 0.
    start : float
        First step to try.

    Returns
    -------
    best : Trial
    is_close : bool
        Whether it is within ``CLOSE``; False when the steps end before, or the quantity jumps.
    """
    slope = SLOPES[kind]
    low, high = math.log(SMALLEST_STEP), math.log(LARGEST_STEP)
    x, best = math.log(start), Trial(start, math.inf)
    trials: list[tuple[float, float]] = []
    for _ in range(MOST_TRIALS):
        step = float(f"{min(max(math.exp(x), SMALLEST_STEP), LARGEST_STEP):.6g}")
        trial = Trial(step, measure(step))
        gap = _gap(trial, wanted)
        if abs(gap) < abs(_gap(best, wanted)) or not trials:
            best = trial
        if abs(gap) <= CLOSE[kind]:
            return best, True
        x = math.log(step)
        if (gap > 0) == (slope < 0):
            low = max(low, x)
        else:
            high = min(high, x)
        if high - low < 1e-4:
            break
        trials.append((x, gap))
        x = _next(trials, slope, low, high)
    return best, False


def _gap(trial: Trial, wanted: float) -> float:
    """Logarithm of quantity over wanted; a quantity of 0 counts as very small."""
    return math.log(max(trial.quantity, 1e-300) / wanted)


def _next(trials: Sequence[tuple[float, float]], slope: float, low: float, high: float) -> float:
    """Logarithm of the next step: by secant; inside a bracket by turns with halves of it."""
    x, gap = trials[-1]
    other = min((t for t in trials if t[1] * gap < 0), key=lambda t: abs(t[0] - x), default=None)
    if other is not None:
        share = 0.5 if len(trials) % 2 else gap / (gap - other[1])
        return x + (other[0] - x) * min(max(share, 0.05), 0.95)
    if len(trials) > 1:
        before, then = trials[-2]
        found = (gap - then) / (x - before) if x != before else slope
        slope = math.copysign(min(max(abs(found), 0.08), 4.0), slope)
    wanted = x - min(max(gap / slope, -FARTHEST), FARTHEST)
    return min(max(wanted, low), high)
