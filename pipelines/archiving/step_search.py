"""The search for the quantiser step that gives a number of bytes or a squared error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psc_volumetric.methods.parameters import LARGEST_STEP, SMALLEST_STEP

__all__ = ["CLOSE", "FIRST_STEP", "Trial", "search", "search_by_drafts"]

FIRST_STEP = 0.5
SLOPES = {"bpv": -1.2, "psnr": 1.3}  # of log bytes and log squared error over log step
CLOSE = {"bpv": 0.008, "psnr": 0.009}  # when a search stops: less than half of what is allowed
MOST_TRIALS = 16
MOST_ROUNDS = 3  # of drafts
NEAR = 2  # times as far off is near enough after them, and within what is promised
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


def search_by_drafts(
    draft: Callable[[float], float],
    measure: Callable[[float], float],
    wanted: float,
    *,
    kind: str,
    start: float,
) -> tuple[Trial, bool]:
    """As `search`, with something quicker that is off by a factor that hardly changes.

    The step is found with the quick one, measured once, and found again with the factor that came
    out of it. If that comes nowhere near, the search is the usual one from there.

    Parameters
    ----------
    draft : callable
        As ``measure``, quicker, and roughly so much.
    measure, wanted, kind, start
        As `search` has them.
    """
    factor, best, step = 1.0, Trial(start, math.inf), start
    for _ in range(MOST_ROUNDS):
        tried, _ = search(_times(factor, draft), wanted, kind=kind, start=step)
        if abs(_gap(tried, wanted)) > NEAR * CLOSE[kind]:
            break
        step, found = tried.step, Trial(tried.step, measure(tried.step))
        if abs(_gap(found, wanted)) < abs(_gap(best, wanted)):
            best = found
        if abs(_gap(best, wanted)) <= CLOSE[kind]:
            return best, True
        factor *= found.quantity / tried.quantity
    if abs(_gap(best, wanted)) <= NEAR * CLOSE[kind]:
        return best, True
    return search(measure, wanted, kind=kind, start=best.step)


def _times(factor: float, function: Callable[[float], float]) -> Callable[[float], float]:
    return lambda step: factor * function(step)


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
