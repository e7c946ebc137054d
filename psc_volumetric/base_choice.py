"""Which base method codes a brick: the prior, or a classical one that is smaller at its error.

Encoder only; a reader finds the method in the header.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.av1_brick import Av1Source
from psc_volumetric.bitstream.header import BrickHeader, IntensityMapping
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.bitstream.wire import FieldWriter
from psc_volumetric.classical_brick import ClassicalSource, Trial
from psc_volumetric.codec import EncodedBase
from psc_volumetric.coding.plain import SpecialMap
from psc_volumetric.parameters import FINEST_OF_PRIOR, CodecParameters
from psc_volumetric.wavelet_brick import WaveletSource

if TYPE_CHECKING:
    from psc_volumetric.prior import Prior

__all__ = ["encode_base", "grid_bound"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]
Coding = tuple[ClassicalSource, Trial]

METHODS = ("psc", "av1", "wavelet")
PSC_KINDS = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}
HOPELESS = 1.35  # bytes of a quick search over the best ones; the slow one saves 5 to 25 %
TOLERANCE = 0.03  # share of the error below the one wanted
SLOPE = 1.2  # of the logarithm of the squared error over that of the quantiser step
MOST_TRIALS = 6
SLOWLY = 1.05  # quantiser step of the slow encoder over that of the quick one, at equal error


def encode_base(
    values: Values,
    *,
    base: str,
    header: BrickHeader,
    mapping: IntensityMapping | None,
    parameters: CodecParameters,
    prior: Prior | None,
    special: SpecialMap | None,
    limits: ValueLimits | None = None,
    seed: int,
    device: str,
    tile: Triple | None,
    lossy: bool,
) -> EncodedBase | None:
    """Code the base of a brick with the method asked for, or with the better one.

    Parameters are those of :func:`psc_volumetric.codec.encode_brick`; ``lossy`` says that no exact
    level follows. None when no method can or should code the brick.
    """
    if mapping is None or base == "none":
        return None
    step = parameters.step * (mapping.high - mapping.low) / 2
    sources = [
        kind(values, special, limits)
        for kind in (WaveletSource, Av1Source)
        if base in ("auto", kind.METHOD) and kind.fits(values, special)
    ]
    psc = None
    fine = parameters.step < FINEST_OF_PRIOR and any(s.reaches(step) for s in sources)
    if fine and base == "auto":
        prior = None  # a network has nothing to tell about the last bits
    if base in ("auto", "psc") and prior is not None and _prior_fits(values.dtype, mapping):
        from psc_volumetric.psc_brick import encode_psc

        psc = encode_psc(
            values, header=replace(header, method="psc"), mapping=mapping, parameters=parameters,
            prior=prior, special=special, limits=limits, seed=seed, device=device,
        )  # fmt: skip
    if not sources or (lossy and psc is None and grid_bound(values, special, step) is not None):
        return psc
    whole = tile or header.valid
    if psc is not None:
        return _better(sources, psc, whole)
    if base == "auto":
        # exact levels alone are smaller than on top of a base nobody asked for
        return _without_prior(sources, step, whole) if lossy else None
    source = _best_variant(sources[0], step)
    return replace(source.finish(source.code(step), whole), choice=f"{base}: asked for")


def grid_bound(values: Values, special: SpecialMap | None, step: float) -> float | None:
    """Bound of a grid in place of a lossy method, where no method has steps as fine as ``step``.

    The wavelet divides the range of a brick into 22 bits; a bounded layer has 31. None where the
    wavelet goes, and for types that it does not code.
    """
    if not WaveletSource.fits(values, special) or WaveletSource(values, special).reaches(step):
        return None
    half = step / 2
    return half if values.dtype.kind == "f" else float(max(math.floor(half), 1))


def _without_prior(sources: Sequence[ClassicalSource], step: float, tile: Triple) -> EncodedBase:
    """The better of the classical codings at the error that the first one has at ``step``."""
    source, others = _best_variant(sources[0], step), sources[1:]
    trial = source.code(step)
    sizes = {source.METHOD: len(trial.data)}
    if others and trial.mse > 0:
        (source, trial), more = _smallest(others, trial.mse, (source, trial))
        sizes |= more
    why = f"{source.METHOD}: no prior for these values" + _against(source.METHOD, sizes)
    return replace(source.finish(trial, tile), choice=why, compared=_compared(sizes))


def _better(sources: Sequence[ClassicalSource], psc: EncodedBase, tile: Triple) -> EncodedBase:
    """The smallest coding of a brick; classical ones have at most the error of the prior's."""
    mse = float(np.mean(sources[0].error(psc.levels[-1]) ** 2))
    if not mse > 0:
        return replace(psc, choice="psc: no error")
    nbytes = _nbytes(psc)
    best, sizes = _smallest(sources, mse, None, limit=nbytes)
    chosen = psc
    if best is not None:
        coded = best[0].finish(best[1], tile)
        sizes[coded.method] = _nbytes(coded)
        chosen = coded if sizes[coded.method] < nbytes else psc
    sizes["psc"] = nbytes
    why = f"{chosen.method}{_against(chosen.method, sizes)} at RMSE {math.sqrt(mse):.4g}"
    return replace(chosen, choice=why, compared=_compared(sizes))


@overload
def _smallest(
    sources: Sequence[ClassicalSource], mse: float, best: Coding
) -> tuple[Coding, dict[str, int]]: ...
@overload
def _smallest(
    sources: Sequence[ClassicalSource], mse: float, best: None, limit: float
) -> tuple[Coding | None, dict[str, int]]: ...
def _smallest(
    sources: Sequence[ClassicalSource], mse: float, best: Coding | None, limit: float = math.inf
) -> tuple[Coding | None, dict[str, int]]:
    """The smallest coding with at most an error, and the bytes of every one looked at.

    A coding of ``limit`` bytes or more is none; one far above that, or above the best so far, in
    a quick search is not searched slowly.
    """
    sizes = {}
    start = math.sqrt(20 * mse)
    for one in sources:
        if not one.reaches(math.sqrt(12 * mse)):
            continue
        source = _best_variant(one, start)
        trial = _search(source, mse, start, quick=True)
        most = HOPELESS * (limit if best is None else len(best[1].data))
        if len(trial.data) <= most and source.IS_SLOW and trial.mse <= mse * (1 + TOLERANCE):
            trial = _search(source, mse, trial.step * SLOWLY, quick=False)
        sizes[source.METHOD] = len(trial.data)
        if trial.mse <= mse and len(trial.data) < (limit if best is None else len(best[1].data)):
            best = (source, trial)
    return best, sizes


def _best_variant(source: ClassicalSource, step: float) -> ClassicalSource:
    """The way of coding a brick that a quick coding at ``step`` finds cheapest.

    Bytes and error differ at a step; the slope of a rate-distortion curve puts them together. An
    error near or below that of rounding to integers is not worth what the curve says.
    """
    rounding = 1 / 12 if source.values.dtype.kind != "f" else 1e-300
    variants = source.variants()
    if len(variants) == 1:
        return variants[0]

    def cost(other: ClassicalSource) -> float:
        trial = other.code(step, quick=True)
        return math.log(len(trial.data)) + math.log(trial.mse + rounding) / SLOPE

    return min(variants, key=cost)


def _nbytes(base: EncodedBase) -> int:
    """Bytes of a base with its header fields."""
    fields = FieldWriter()
    for part in (base.psc, base.classical):
        if part is not None:
            part.write(fields)
    return len(fields) + sum(len(data) for _, data in base.sections)


def _against(name: str, sizes: dict[str, int]) -> str:
    """``": 100 bytes against 120 of psc"``; empty if nothing else was coded."""
    others = [f"{sizes[other]} of {other}" for other in METHODS if other in sizes and other != name]
    return f": {sizes[name]} bytes against {' and '.join(others)}" if others else ""


def _compared(sizes: dict[str, int]) -> tuple[int, int, int]:
    psc, av1, wavelet = (sizes.get(name, 0) for name in METHODS)
    return psc, av1, wavelet


def _search(source: ClassicalSource, wanted: float, start: float, *, quick: bool) -> Trial:
    """The coding whose squared error is nearest to the one wanted, and not above it.

    Secants of logarithms, kept between the nearest steps below and above once there are both: what
    an encoder makes of a step is no smooth function of it.
    """
    slope, aim, x = SLOPE, -TOLERANCE / 2, math.log(start)
    trials: list[tuple[float, float, Trial]] = []
    for _ in range(MOST_TRIALS):
        trial = source.code(math.exp(x), quick=quick)
        gap = math.log(max(trial.mse, 1e-300) / wanted)
        trials.append((x, gap, trial))
        if -TOLERANCE <= gap <= 0:
            return trial
        if len(trials) > 1 and x != trials[-2][0]:
            found = (gap - trials[-2][1]) / (x - trials[-2][0])
            slope = min(max(abs(found), 0.3), 3.0)
        x = _within(x - min(max((gap - aim) / slope, -3.0), 3.0), trials, aim)
    below = [t for t in trials if t[1] <= 0]
    return min(below or trials, key=lambda t: abs(t[1]))[2]


def _within(x: float, trials: list[tuple[float, float, Trial]], aim: float) -> float:
    """``x``, or a point between the nearest trials on both sides of the aim if it lies outside."""
    under = max((t[:2] for t in trials if t[1] < aim), default=None)
    over = min((t[:2] for t in trials if t[1] > aim), default=None)
    if under is None or over is None or under[0] >= over[0]:
        return x
    width = over[0] - under[0]
    if under[0] + 0.05 * width < x < over[0] - 0.05 * width:
        return x
    share = (aim - under[1]) / (over[1] - under[1])
    return under[0] + width * min(max(share, 0.1), 0.9)


def _prior_fits(dtype: np.dtype[np.generic], mapping: IntensityMapping) -> bool:
    """Whether ``psc`` codes the dtype; not floats too large for a spread in single precision."""
    return dtype.str[1:] in PSC_KINDS and (dtype.kind != "f" or mapping.fits(dtype))
