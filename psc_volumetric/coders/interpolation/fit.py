"""What an encoder of interpolated segments chooses: order of passes, errors, predictors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.wire import FieldWriter
from psc_volumetric.coders.interpolation.coder import (
    MAX_BOUND,
    MAX_COEFFICIENT,
    MAX_CUT,
    MAX_TOP,
    Model,
    Pass,
    Stream,
    code_pass,
    new_model,
)
from psc_volumetric.coders.interpolation.kernel import gather, is_inner
from psc_volumetric.coders.interpolation.order import MAX_VOXELS, Lattice, lattices
from psc_volumetric.entropy.binary import Words, compiled, finish, start
from psc_volumetric.errors import ParameterError

__all__ = ["Order", "encode_interpolated", "encode_smallest", "rank_orders", "suits_interpolation"]

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]
Triple = tuple[int, int, int]

ROWS = 100000  # voxels of a pass that a predictor is fitted to
FEW_ROWS = 16384  # while orders are compared
TAPS = (0, 2, 6, 12, 18, 24, 32, 48, 64, 96)
VOXELS_PER_TAP = 12
ROOM = 8  # bytes of output per voxel, more than any takes
COEFFICIENT_COST = 10.0  # bits
RIDGE = 1e-3  # squared bins per voxel, keeps coefficients small
TIGHTER = 1.05  # coarser passes have smaller errors by this, per three passes that follow
TIGHTEST = 2.0  # at most
CROP = (32, 64, 64)  # voxels that orders of passes are compared on
COMPARED = 1 << 19  # voxels of a segment that is coded in more than one
ORDERS = ((), (1, 2), (1, 2) * 3, (0, 1, 2) * 2, (0, 1), (0, 2))


@compiled
def _collect(m, axis, skip, rows, targets):  # type: ignore[no-untyped-def]
    """Differences and targets of every ``skip``-th voxel of a pass; returns their number."""
    nz, ny, nx = m.extent[0], m.extent[1], m.extent[2]
    found, count = 0, 0
    for z in range(axis == 0, nz, 1 + (axis == 0)):
        for y in range(axis == 1, ny, 1 + (axis == 1)):
            inside = is_inner(z, nz) and is_inner(y, ny)
            at = z * m.pitch[0] + y * m.pitch[1]
            for x in range(axis == 2, nx, 1 + (axis == 2)):
                count += 1
                if count % skip or found == targets.shape[0]:
                    continue
                place = at + x * m.pitch[2]
                base = gather(m, axis, z, y, x, place, inside and is_inner(x, nx))
                for k in range(m.coefficients.shape[0]):
                    near = m.places[k]
                    rows[found, k] = int(m.volume[near]) - base if near >= 0 else 0
                targets[found] = m.source[place] - base
                found += 1
    return found


def _bits(deviation: float) -> float:
    """Bits a voxel takes about, by the deviation of its prediction in bins."""
    x = (deviation / 0.3) ** 2
    return 0.5 * math.log2(1 + 1.7 * x * x / (1 + x))


def _fit(rows: Doubles, targets: Doubles, count: int, width: int) -> tuple[Integers, int]:
    """Coefficients worth their bits, and their fraction bits."""
    gram, moments = rows.T @ rows, rows.T @ targets
    energy = float(targets @ targets)
    best: tuple[float, Doubles] = (math.inf, np.zeros(0))
    for taps in TAPS:
        if taps and taps * VOXELS_PER_TAP > count:
            break
        ridge = RIDGE * width**2 * (len(rows) + 10) + 1e-10 * float(np.trace(gram))
        part = gram[:taps, :taps] + np.eye(taps) * ridge
        solution: Doubles = np.linalg.solve(part, moments[:taps]).astype(np.float64)
        error = energy - 2 * float(solution @ moments[:taps])
        error += float(solution @ gram[:taps, :taps] @ solution)
        deviation = math.sqrt(max(error, 0.0) / len(rows)) / width
        cost = count * _bits(deviation) + taps * COEFFICIENT_COST
        if cost < best[0]:
            best = (cost, solution)
    solution = best[1]
    noise = float(np.trace(gram[: len(solution), : len(solution)])) / len(rows) / 12 / width**2
    cut = 6
    while cut < MAX_CUT and noise * 4.0**-cut > 0.001:
        cut += 1
    while cut > 0 and np.abs(solution).max(initial=0.0) * 2.0**cut > MAX_COEFFICIENT:
        cut -= 1
    coefficients = np.rint(np.clip(solution * 2.0**cut, -MAX_COEFFICIENT, MAX_COEFFICIENT))
    return coefficients.astype(np.int64), cut


def _prepare(
    model: Model, lattice: Lattice, shape: Triple, half: int, most: int
) -> tuple[Model, int]:
    """The pass with its coefficients, and their fraction bits."""
    width = 2 * half + 1
    z, y, x = (
        slice(s if e == lattice.axis else 0, None, 2 * s if e == lattice.axis else s)
        for e, s in enumerate(lattice.strides)
    )
    source = model.source.reshape(shape)[z, y, x].astype(np.int64)
    # voxels of the pass are not decoded yet: their sources with an error like it
    model.volume.reshape(shape)[z, y, x] = np.clip(source // width * width + half, 0, MAX_TOP)
    taps = max((t for t in TAPS if t * VOXELS_PER_TAP <= lattice.voxels), default=0)
    skip = -(-lattice.voxels // most)
    rows = np.zeros((max(lattice.voxels // skip, 1), taps))
    targets = np.zeros(len(rows))
    whole = model.on(lattice, shape, taps)
    _collect(whole, lattice.axis, skip, rows, targets)
    coefficients, cut = _fit(rows, targets, lattice.voxels, width)
    part = model.on(lattice, shape, len(coefficients))
    part.coefficients[:] = coefficients
    return part, cut


def suits_interpolation(values: NDArray[np.integer], fineness: int) -> bool:
    """Whether a segment can be coded."""
    fits = values.size <= MAX_VOXELS and fineness <= MAX_BOUND
    return fits and values.min() >= 0 and values.max() <= MAX_TOP


class Order(NamedTuple):
    """Order of passes, and how their errors shrink.

    Attributes
    ----------
    axes : tuple of int
        Axes whose strides are halved; `lattices` says what a shape allows.
    tighter : float
        An error is the bound over this to the power of a third of the passes that follow.
    """

    axes: tuple[int, ...]
    tighter: float = TIGHTER


def rank_orders(values: NDArray[np.integer], fineness: int) -> tuple[list[Order], float]:
    """Orders of passes, the best for the middle of ``values`` first, and its bits per voxel."""
    z, y, x = (
        slice((n - min(n, c)) // 2, (n + min(n, c)) // 2)
        for n, c in zip(values.shape, CROP, strict=True)
    )
    part = values[z, y, x]
    shape = (part.shape[0], part.shape[1], part.shape[2])
    orders = [Order(axes) for axes in ORDERS if lattices(shape, axes) is not None]
    rated = sorted(
        (len(encode_interpolated(part, fineness, order, rows=FEW_ROWS)), order) for order in orders
    )
    return [order for _, order in rated], 8 * rated[0][0] / part.size


def encode_smallest(values: NDArray[np.integer], fineness: int, ranked: list[Order]) -> bytes:
    """Code a segment in the best order, a small one in the better of the two best.

    Arguments as for `encode_interpolated`, ``ranked`` from `rank_orders`.
    """
    if values.size > COMPARED:
        return encode_interpolated(values, fineness, ranked[0])
    coded = {order: encode_interpolated(values, fineness, order) for order in ranked[:2]}
    best = min(coded, key=lambda order: len(coded[order]))
    if best.axes:
        other = encode_interpolated(values, fineness, best._replace(tighter=1.0))
        return min(coded[best], other, key=len)
    return coded[best]


def encode_interpolated(
    values: NDArray[np.integer], fineness: int, order: Order, *, rows: int = ROWS
) -> bytes:
    """Code a segment within a largest error.

    Parameters
    ----------
    values : (z, y, x) integer
        0 .. 2^31 - 1, at most MAX_VOXELS.
    fineness : int
        Largest error, 0 .. MAX_BOUND.
    order : Order
    rows : int
        Voxels that a predictor is fitted to.

    Returns
    -------
    bytes
        A stream for :func:`~psc_volumetric.coders.interpolation.coder.decode_interpolated`.

    Raises
    ------
    ParameterError
        The stream would be far longer than the values (kind ``"no-coder"``).
    """
    shape = (values.shape[0], values.shape[1], values.shape[2])
    low = int(values.min())
    stream = Stream(fineness, low, int(values.max()) - low, order.axes, ())
    visited = lattices(shape, order.axes) or []
    source = (values - low).astype(np.int32).reshape(-1)
    words = Words.over(np.zeros(ROOM * values.size + 8192, np.uint8), decode=False)
    model = new_model(source, values.size, words)
    start(words)
    passes = []
    for left, lattice in zip(stream.turns, visited, strict=True):
        half = int(fineness / min(order.tighter ** (left / 3), TIGHTEST))
        part, cut = _prepare(model, lattice, shape, half, rows)
        passes.append(Pass(half, len(part.coefficients), cut))
        code_pass(part, lattice, stream, passes[-1], left)
    size = finish(words)
    if size < 0:
        raise ParameterError(
            f"values that take more than {ROOM} bytes each cannot be interpolated",
            kind="no-coder",
            hint="allow other coders",
        )
    out = FieldWriter()
    stream._replace(passes=tuple(passes)).write(out)
    out.raw(words.data[:size].tobytes())
    return out.getvalue()
