"""How a network's numbers are kept in 16 bits, where all of them fit. Not part of the format.

Registers do, since no number of one is beyond 32767. Weights and inputs of a 1 x 1 convolution do,
too; the parts that Winograd makes of those of 3 x 3 are up to four times as large, and are looked
at. Channels of a register stand in the order that makes folds and unfolds copies of whole runs, and
the weights are put into that order once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.prior.narrow_lanes import LANES
from psc_volumetric.prior.narrow_loops import PARTS, Halves, Numbers, Scaling, Weights
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.proof import MAX_PRODUCTS, MAX_REGISTER_VALUES
from psc_volumetric.prior.step import RESIDUAL_LIMIT, Step

__all__ = ["Layer", "Layout", "Order", "layout_of"]

Order = NDArray[np.int64]
"""Which channel of a register is kept at each place, -1 for none; `LANES` or a multiple."""

MOST_WEIGHTS = 1 << 23  # of a network, as kept; putting one into order takes some thirty bytes
MOST_CHANNELS = 1 << 15  # of a register, as kept
# twice what Winograd multiplies weights by, along rows and along columns
TIMES = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])


@dataclass(frozen=True)
class Layer:
    """A convolution as the loops take it.

    Attributes
    ----------
    inputs, outputs : int
        Channels as they are kept.
    is_nine : bool
        3 x 3 in place of 1 x 1.
    scaling : Scaling
    pairs, down, up, limit
        Of :class:`psc_volumetric.prior.narrow_loops.Weights`.
    biases : (1 or levels, outputs) int32
    """

    inputs: int
    outputs: int
    is_nine: bool
    scaling: Scaling
    pairs: Halves
    biases: Numbers
    down: Numbers
    up: Numbers
    limit: int

    def weights(self, level: int) -> Weights:
        """With the biases of a level."""
        row = self.biases[level if len(self.biases) > 1 else 0]
        return Weights(self.pairs, row, self.down, self.up, self.limit)


@dataclass(frozen=True)
class Layout:
    """Order of the channels of every register; convolutions by the register they write."""

    orders: dict[str, Order]
    layers: dict[str, Layer]


@dataclass
class _Spent:
    """What a network takes as it is kept.

    Proven limits count neither channels for nothing, which may be fifteen for each that is used,
    nor weights that several convolutions share, of which each has its own.
    """

    values: int = 0
    weights: int = 0
    products: int = 0

    def allows(self, channels: int, pixels: int, weights: int, products: int) -> bool:
        """Count a step; whether everything so far is within the limits."""
        self.values += channels * pixels
        self.weights += weights
        self.products += products * pixels
        return (
            channels <= MOST_CHANNELS
            and self.values <= 2 * MAX_REGISTER_VALUES  # of half of the bytes
            and self.weights <= MOST_WEIGHTS
            and self.products <= MAX_PRODUCTS
        )


def layout_of(program: Program) -> Layout | None:
    """How a proven program runs in 16 bits; None for one that does not."""
    known = {"conv", "unfold", "fold", "concat"}
    if program.text is not None or any(step.op not in known for step in program.steps):
        return None
    orders, extents = {"x": _padded(np.arange(program.slices))}, {"x": program.tile}
    layers: dict[str, Layer] = {}
    spent = _Spent()
    for step in program.steps:
        source, extent = orders[step.inputs[0]], extents[step.inputs[0]]
        order = _order_of(step, program, orders)
        if order is None:
            return None
        grown = {"fold": extent * step.factor, "unfold": extent // step.factor}
        extents[step.out] = extent = grown.get(step.op, extent)
        taken = (0, 0) if step.op != "conv" else _taken(step, program, len(source) * len(order))
        if not spent.allows(len(order), extent**2, *taken):
            return None
        if step.op == "conv":
            if not _fits(step, program):
                return None
            layers[step.out] = _layer(step, program, source, order)
        orders[step.out] = order
    return Layout(orders, layers) if layers else None


def _order_of(step: Step, program: Program, orders: dict[str, Order]) -> Order | None:
    """The order of the register that a step writes; None where it has none."""
    source = orders[step.inputs[0]]
    if step.op == "unfold":
        return _blocks(source, step.factor)
    if step.op == "fold":
        return _folded(source, step.factor)
    if step.op == "concat":
        second = orders[step.inputs[1]]
        return np.concatenate([source, np.where(second >= 0, second + source.max() + 1, -1)])
    return _chosen(step, program, orders)


def _taken(step: Step, program: Program, pairs: int) -> tuple[int, int]:
    """Weights, and products for each pixel, of a convolution of so many inputs times outputs."""
    is_nine = program.tensors[f"{step.name}.weight"].shape[2] > 1
    return pairs * (PARTS if is_nine else 1), pairs * (9 if is_nine else 1)


def _padded(order: Order) -> Order:
    """With places for nothing, up to whole vectors."""
    return np.pad(order, (0, -len(order) % LANES), constant_values=-1)


def _blocks(order: Order, factor: int) -> Order:
    """Channels of a block's pixels one after the other; in each those of a register."""
    pixels = np.arange(factor**2)[:, None]
    return np.where(order >= 0, order * factor**2 + pixels, -1).reshape(-1)


def _folded(order: Order, factor: int) -> Order | None:
    """Order after a fold; None where channels of a pixel do not stand together."""
    first = order[: len(order) // factor**2]
    found = np.where(first >= 0, first // factor**2, -1)
    is_whole = len(first) > 0 and len(first) % LANES == 0
    return found if is_whole and np.array_equal(_blocks(found, factor), order) else None


def _chosen(step: Step, program: Program, orders: dict[str, Order]) -> Order:
    """The order of what is added; that of a fold that reads it; else as it comes."""
    if step.add is not None:
        return orders[step.add]
    channels = len(program.tensors[f"{step.name}.weight"])
    for reader in program.steps:
        if reader.op == "fold" and reader.inputs[0] == step.out:
            return _blocks(_padded(np.arange(channels // reader.factor**2)), reader.factor)
    return _padded(np.arange(channels))


def _fits(step: Step, program: Program) -> bool:
    """Whether inputs and weights of a convolution, and of its parts, are of 16 bits."""
    if step.quant is None or step.stride != 1 or step.upsample:
        return False
    weight, (_, low, high) = program.tensors[f"{step.name}.weight"], step.quant
    if weight.shape[2] == 1:
        return True
    most = max(-4 * low, 4 * high, 2 * (high - low))
    return most <= RESIDUAL_LIMIT and int(np.abs(_parts(weight)).max()) <= RESIDUAL_LIMIT


def _parts(weight: NDArray[np.generic]) -> NDArray[np.int64]:
    """(o, i, k, k) as (parts, o, i), four times what Winograd's sums are of for 3 x 3."""
    wide = weight.astype(np.int64)
    if wide.shape[2] == 1:
        return wide[None, :, :, 0, 0]
    parts: NDArray[np.int64] = np.einsum("ak,oikl,bl->aboi", TIMES, wide, TIMES)
    return parts.reshape(-1, *wide.shape[:2])


def _layer(step: Step, program: Program, source: Order, order: Order) -> Layer:
    """A convolution for channels that are kept in such orders."""
    assert step.quant is not None
    parts = _parts(program.tensors[f"{step.name}.weight"])
    is_nine = len(parts) > 1
    shift = _at(program.tensors[f"{step.name}.shift"].astype(np.int64), order)
    kept = _at(np.moveaxis(_at(parts, source), 2, 1), order)  # (parts, inputs, outputs)
    pairs = kept.reshape(len(parts), -1, 2, len(order) // LANES, LANES).transpose(0, 3, 1, 4, 2)
    quadrupled = 2 * is_nine  # bits
    biases = program.tensors[f"{step.name}.bias"].astype(np.int64) << quadrupled
    return Layer(
        len(source), len(order), is_nine, _scaling(step.quant),
        np.ascontiguousarray(pairs, np.int16).reshape(-1),
        np.ascontiguousarray(_at(biases, order), np.int32),
        np.maximum(shift, 0).astype(np.int32) + quadrupled,
        np.maximum(-shift, 0).astype(np.int32), step.limit,
    )  # fmt: skip


def _scaling(quant: tuple[int, int, int]) -> Scaling:
    down, low, high = quant
    half = 1 << (down - 1) if down > 0 else 0
    return Scaling(max(-down, 0), half, max(down, 0), low, high)


def _at(array: NDArray[np.int64], order: Order) -> NDArray[np.int64]:
    """Channels of the last axis in an order, zeros where there is none."""
    found: NDArray[np.int64] = np.where(order >= 0, array[..., np.maximum(order, 0)], 0)
    return found
