"""Which base method codes a brick: the prior, or AV1 where that is smaller at the same error.

Encoder only; a reader finds the method in the header.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.av1_brick import SPEED, Av1Source, Trial
from psc_volumetric.bitstream.header import BrickHeader, IntensityMapping
from psc_volumetric.bitstream.wire import FieldWriter
from psc_volumetric.codec import EncodedBase
from psc_volumetric.coding.plain import SpecialMap
from psc_volumetric.errors import ParameterError
from psc_volumetric.parameters import CodecParameters

if TYPE_CHECKING:
    from psc_volumetric.prior import Prior

__all__ = ["encode_av1_at", "encode_base"]

Values = NDArray[np.generic]
Triple = tuple[int, int, int]

PSC_KINDS = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}
QUICK_SPEED = 5  # of a first look
HOPELESS = 1.35  # bytes of the quick search over those of psc; the slow one saves 5 to 25 %
TOLERANCE = 0.03  # share of the error below the one wanted, and of the bytes around it
SLOPES = {"mse": 1.2, "nbytes": -1.0}  # of logarithms, over that of the quantiser step
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
    seed: int,
    device: str,
    tile: Triple | None,
    lossy: bool,
) -> EncodedBase | None:
    """Code the base of a brick with the method asked for, or with the better one.

    Parameters are those of :func:`psc_volumetric.codec.encode_brick`; ``lossy`` says that no exact
    level follows. None when neither method can or should code the brick.
    """
    if mapping is None or base == "none":
        return None
    can_av1 = base in ("auto", "av1") and Av1Source.fits(values, special)
    psc = None
    if base in ("auto", "psc") and prior is not None and _prior_fits(values.dtype, mapping):
        from psc_volumetric.psc_brick import encode_psc

        psc = encode_psc(
            values, header=replace(header, method="psc"), mapping=mapping, parameters=parameters,
            prior=prior, special=special, seed=seed, device=device,
        )  # fmt: skip
    if not can_av1:
        return psc
    source, whole = Av1Source(values, special), tile or header.valid
    if psc is not None:
        return _better(source, psc, whole)
    if base == "auto" and not lossy:
        return None  # exact levels alone are smaller than on top of a base nobody asked for
    step = parameters.step * (mapping.high - mapping.low) / 2
    source = _best_axis(source, step)
    why = "av1: asked for" if base == "av1" else "av1: no prior for these values"
    return replace(source.finish(source.code(step), whole), choice=why)


def encode_av1_at(
    values: Values,
    *,
    special: SpecialMap | None,
    kind: str,
    wanted: float,
    tile: Triple | None = None,
) -> EncodedBase:
    """Code a brick with AV1 at a mean squared error (stored units) or at a number of bytes.

    Parameters
    ----------
    values : (z, y, x) array
        Stored values that AV1 can code, see :meth:`Av1Source.fits`.
    special : SpecialMap or None
    kind : str
        ``"mse"`` (at most ``wanted``, less by 3 % at most where the steps allow) or ``"nbytes"``
        (within 3 %, of the AV1 stream).
    wanted : float
        Above 0.
    tile : (z, y, x), optional
        Tiles of the records.
    """
    if kind not in SLOPES or not wanted > 0:
        raise ParameterError(
            f"AV1: expected a positive 'mse' or 'nbytes', found {wanted!r} {kind!r}",
            kind="bad-target",
        )
    source = Av1Source(values, special)
    start = math.sqrt(10 * wanted) if kind == "mse" else (source.high - source.low) / 16
    source = _best_axis(source, start)
    trial = _search_slowly(source, kind, wanted, _search(source, kind, wanted, start, QUICK_SPEED))
    z, y, x = values.shape
    return source.finish(trial, tile or (z, y, x))


def _better(source: Av1Source, psc: EncodedBase, tile: Triple) -> EncodedBase:
    """The smaller of two codings of a brick; AV1's has at most the error of the prior's."""
    mse = float(np.mean(source.error(psc.levels[-1]) ** 2))
    nbytes = _nbytes(psc)
    at = f"at RMSE {math.sqrt(mse):.4g}"
    if not mse > 0:
        return replace(psc, choice="psc: no error")
    start = math.sqrt(20 * mse)
    source = _best_axis(source, start)
    quick = _search(source, "mse", mse, start, QUICK_SPEED)
    if quick.mse > mse * (1 + TOLERANCE) or len(quick.data) > HOPELESS * nbytes:
        about = f"psc: {nbytes} bytes against about {len(quick.data)} of av1 {at}"
        return replace(psc, choice=about, compared=(nbytes, len(quick.data)))
    trial = _search_slowly(source, "mse", mse, quick)
    av1 = source.finish(trial, tile)
    both = (nbytes, _nbytes(av1))
    if trial.mse <= mse and both[1] < both[0]:
        why = f"av1: {both[1]} bytes against {both[0]} of psc {at}"
        return replace(av1, choice=why, compared=both)
    why = f"psc: {both[0]} bytes against {both[1]} of av1 {at}"
    return replace(psc, choice=why, compared=both)


def _best_axis(source: Av1Source, step: float) -> Av1Source:
    """The source with its frames along the axis that a quick coding at ``step`` finds cheapest.

    Bytes and error differ at a step; the slope of a rate-distortion curve puts them together.
    """
    axes = source.frame_axes()
    if len(axes) == 1:
        return source

    def cost(other: Av1Source) -> float:
        trial = other.code(step, speed=QUICK_SPEED)
        return math.log(len(trial.data)) + math.log(max(trial.mse, 1e-300)) / SLOPES["mse"]

    return min((source.along(axis) for axis in axes), key=cost)


def _nbytes(base: EncodedBase) -> int:
    """Bytes of a base with its header fields."""
    fields = FieldWriter()
    for part in (base.psc, base.av1):
        if part is not None:
            part.write(fields)
    return len(fields) + sum(len(data) for _, data in base.sections)


def _search(source: Av1Source, kind: str, wanted: float, start: float, speed: int) -> Trial:
    """The coding nearest to what is wanted, none above it for ``mse``.

    Secants of logarithms, kept between the nearest steps below and above once there are both: what
    an encoder makes of a step is no smooth function of it.
    """
    low, high = (-TOLERANCE, 0.0) if kind == "mse" else (-TOLERANCE / 2, TOLERANCE / 2)
    slope, aim, x = SLOPES[kind], (low + high) / 2, math.log(start)
    trials: list[tuple[float, float, Trial]] = []
    for _ in range(MOST_TRIALS):
        trial = source.code(math.exp(x), speed=speed)
        value = trial.mse if kind == "mse" else float(len(trial.data))
        gap = math.log(max(value, 1e-300) / wanted)
        trials.append((x, gap, trial))
        if low <= gap <= high:
            return trial
        if len(trials) > 1 and x != trials[-2][0]:
            found = (gap - trials[-2][1]) / (x - trials[-2][0])
            slope = math.copysign(min(max(abs(found), 0.3), 3.0), slope)
        x = _within(x - min(max((gap - aim) / slope, -3.0), 3.0), trials, aim, slope)
    below = [t for t in trials if t[1] <= high] if kind == "mse" else []
    return min(below or trials, key=lambda t: abs(t[1]))[2]


def _search_slowly(source: Av1Source, kind: str, wanted: float, quick: Trial) -> Trial:
    """The final coding, by a slow encoder, which has less error and fewer bytes at a step."""
    start = quick.step * (SLOWLY if kind == "mse" else 1 / SLOWLY)
    return _search(source, kind, wanted, start, SPEED)


def _within(x: float, trials: list[tuple[float, float, Trial]], aim: float, slope: float) -> float:
    """``x``, or a point between the nearest trials on both sides of the aim if it lies outside."""
    sign = math.copysign(1.0, slope)
    under = max((t[:2] for t in trials if sign * (t[1] - aim) < 0), default=None)
    over = min((t[:2] for t in trials if sign * (t[1] - aim) > 0), default=None)
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
