"""Convert a float network to integers: static calibration, proven bounds, measured cost.

Run once on one machine; its output is data. The rules (decision 0005): weights 8 bits (first and
last convolution: 10) with one power-of-two scale per output channel, inputs as many levels as
the proof of "every sum below 2^24" leaves, residual registers 16 bits with one fraction count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.prior.floats import FloatProgram, FloatStep
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.step import (
    EXACT_FLOAT32,
    EXP_TABLE,
    NORM_BITS,
    RESIDUAL_LIMIT,
    SCORE_LIMIT,
    TABLE_BITS,
    TABLE_HALF,
    Step,
    limit_of,
)

__all__ = ["Statistics", "convert", "observe"]

WEIGHT_LIMIT = 127
OUTER_WEIGHT_LIMIT = 511  # first and last convolution: most of the conversion error is theirs
MAX_EXPONENT = 14  # of a weight scale; only channels that are nearly zero reach it
HEADROOM = 0.95  # share of 2^24 given to products and bias; the rest holds the rounding half
SAMPLE = 40_000


@dataclass
class Statistics:
    """What calibration saw of one register: a sample of values and the extremes."""

    sample: list[Tensor64]
    low: float = math.inf
    high: float = -math.inf

    @property
    def magnitude(self) -> float:
        """Largest absolute value seen."""
        return max(self.high, -self.low)

    def values(self) -> NDArray[np.float64]:
        """All sampled values."""
        return np.concatenate(self.sample)


Tensor64 = NDArray[np.float64]


def observe(
    program: FloatProgram, batches: Iterable[tuple[torch.Tensor, int]]
) -> dict[str, Statistics]:
    """Run the float program on calibration batches and keep statistics of every register.

    Parameters
    ----------
    program : FloatProgram
        The network.
    batches : iterable of (x_t, level)
        Noisy tiles (b, slices, tile, tile) float and their noise level.
    """
    statistics: dict[str, Statistics] = {}
    rng = np.random.default_rng(0)

    def see(register: str, value: torch.Tensor) -> None:
        s = statistics.setdefault(register, Statistics([]))
        flat = value.double().flatten().numpy()
        s.low, s.high = min(s.low, float(flat.min())), max(s.high, float(flat.max()))
        s.sample.append(flat[rng.integers(0, flat.size, min(SAMPLE, flat.size))])

    for x_t, level in batches:
        see("x", x_t)
        program.run(x_t.double(), level, see)
    return statistics


def convert(
    program: FloatProgram, statistics: dict[str, Statistics], *, out_bits: int = 12
) -> Program:
    """Quantise a float program; the result proves its own bounds on construction.

    Parameters
    ----------
    program : FloatProgram
        Float steps.
    statistics : dict
        From :func:`observe`.
    out_bits : int
        Fraction bits of the network's output.

    Raises
    ------
    NumericalError
        A sum could reach 2^24.
    """
    return _Converter(program, statistics, out_bits).run()


class _Converter:
    def __init__(
        self, program: FloatProgram, statistics: dict[str, Statistics], out_bits: int
    ) -> None:
        self.program, self.statistics = program, statistics
        self.tensors: dict[str, NDArray[np.generic]] = {}
        consumers: dict[str, set[str]] = {}
        for step in program.steps:
            for register in (*step.inputs, *([step.add] if step.add else [])):
                consumers.setdefault(register, set()).add(step.op)
        produced = {s.out: s for s in program.steps}
        last = program.steps[-1]
        outputs = {last.out, last.inputs[0]} if last.op == "fold" else {last.out}
        self.private = {
            r
            for r, ops in consumers.items()
            if ops <= {"norm_act", "attention"}
            and produced[r].op == "conv"
            and produced[r].add is None
        } - outputs
        shared = [
            s.out
            for s in program.steps
            if s.op in ("conv", "concat") and s.out not in self.private | outputs
        ]
        self.scores = {
            r: _score_grid(statistics[r].values(), _width(produced[r], s.heads))
            for s in program.steps
            if s.op == "attention"
            for r in s.inputs[:2]
        }
        self.residual_bits = _shared_fraction([statistics[r].values() for r in shared])
        self.bits = {"x": SAMPLE_FRACTION_BITS}
        self.outputs, self.out_bits = outputs, out_bits

    def run(self) -> Program:
        steps = [getattr(self, "_" + s.op)(s) for s in self.program.steps]
        p = self.program
        return Program(tuple(steps), p.slices, p.tile, p.levels, self.out_bits, self.tensors)

    def _unfold(self, s: FloatStep) -> Step:
        self.bits[s.out] = self.bits[s.inputs[0]]
        self.statistics.setdefault(s.out, self.statistics[s.inputs[0]])
        return Step(s.op, s.out, s.inputs, factor=s.factor)

    _fold = _unfold

    def _concat(self, s: FloatStep) -> Step:
        self.bits[s.out] = self.residual_bits
        return Step(s.op, s.out, s.inputs)

    def _norm_act(self, s: FloatStep) -> Step:
        assert s.gamma is not None and s.beta is not None
        in_bits = self.bits[s.inputs[0]]
        fraction, hi = self._activation_grid(s)
        self.bits[s.out] = fraction
        inputs = np.arange(-TABLE_HALF, TABLE_HALF) / 2.0**TABLE_BITS
        outputs = inputs / (1 + np.exp(-inputs)) if s.activation == "silu" else inputs
        table = np.floor(outputs * 2.0**fraction + 0.5)
        name = f"{s.activation}.{fraction}"
        self.tensors[name] = np.minimum(table, RESIDUAL_LIMIT).astype(np.int16)
        self.tensors[f"{s.name}.gamma"] = _round(s.gamma, 16).astype(np.int32)
        self.tensors[f"{s.name}.beta"] = _round(s.beta, TABLE_BITS + NORM_BITS).astype(np.int64)
        elements = self._group_elements(s)
        epsilon = max(1, round(s.eps * elements**2 * 4.0**in_bits))
        return Step(
            s.op, s.out, s.inputs, name=s.name, groups=s.groups, epsilon=epsilon, table=name,
            limit=hi,
        )  # fmt: skip

    def _group_elements(self, s: FloatStep) -> int:
        assert s.gamma is not None
        return len(s.gamma) // s.groups * self._extent(s.inputs[0]) ** 2

    def _extent(self, register: str) -> int:
        if register == "x":
            return self.program.tile
        step = next(s for s in self.program.steps if s.out == register)
        size = self._extent(step.inputs[0])
        if step.op == "unfold":
            return size // step.factor
        return size * (2 if step.upsample else 1) // step.stride

    def _activation_grid(self, s: FloatStep) -> tuple[int, int]:
        """Fraction bits and upper limit of the grid with the least squared error.

        The limit is what the proofs of the convolutions that read the register leave room for.
        """
        values = self.statistics[s.out].values()
        readers = []
        for reader in (step for step in self.program.steps if s.out in step.inputs):
            assert reader.weight is not None and reader.bias is not None
            weight, exponent = quantise_weight(reader.weight.numpy(), self._weight_limit(reader))
            readers.append((weight, exponent, reader.bias))
        best = (math.inf, 0, 0)
        for fraction in range(2, 14 if s.activation == "silu" else TABLE_BITS + 1):
            lo, hi = _smallest(s.activation, fraction), RESIDUAL_LIMIT
            for weight, exponent, bias in readers:
                room = _room(bias, exponent + fraction) - limit_of(weight, lo, 0)
                hi = min(hi, int((room / np.maximum(limit_of(weight, 0, 1), 1)).min()))
            if hi > 1:
                best = min(best, (_grid_error(values, fraction, lo, hi), fraction, hi))
        return best[1:]

    def _weight_limit(self, s: FloatStep) -> int:
        convolutions = [step for step in self.program.steps if step.op == "conv"]
        outer = s is convolutions[0] or s is convolutions[-1]
        return OUTER_WEIGHT_LIMIT if outer else WEIGHT_LIMIT

    def _conv(self, s: FloatStep) -> Step:
        assert s.weight is not None and s.bias is not None
        source = s.inputs[0]
        produced = next((p for p in self.program.steps if p.out == source), None)
        weight, exponent = quantise_weight(s.weight.numpy(), self._weight_limit(s))
        if produced is not None and produced.op == "norm_act":
            quant, in_bits = None, self.bits[source]
        else:
            quant, in_bits = self._raw_grid(s, weight, exponent)
        self.tensors[f"{s.name}.weight"] = weight
        limit = RESIDUAL_LIMIT
        if s.out in self.outputs:
            bits = self.out_bits
        elif s.out in self.scores:
            bits, limit = self.scores[s.out]
        elif s.out in self.private:
            magnitude = self.statistics[s.out].magnitude * 1.5
            bits = min(12, 15 - math.ceil(math.log2(magnitude)))
        else:
            bits = self.residual_bits
        self.bits[s.out] = bits
        shift = exponent + in_bits - bits
        half = np.where(shift > 0, np.exp2(shift - 1.0), 0.0)
        bias = np.floor(s.bias.numpy() * np.exp2(bits + shift.astype(np.float64)) + 0.5) + half
        self.tensors[f"{s.name}.shift"] = shift.astype(np.int8)
        self.tensors[f"{s.name}.bias"] = bias.astype(np.int32)
        return Step(
            s.op,
            s.out,
            s.inputs,
            name=s.name,
            stride=s.stride,
            pad=weight.shape[-1] // 2,
            upsample=s.upsample,
            quant=quant,
            limit=limit,
            add=s.add,
        )

    def _attention(self, s: FloatStep) -> Step:
        q, k, v = (self.bits[r] for r in s.inputs)
        self.bits[s.out] = v
        falling = np.floor(RESIDUAL_LIMIT * np.exp2(-np.arange(EXP_TABLE) / 2.0**TABLE_BITS) + 0.5)
        falling[-1] = 0  # stands for everything further away
        self.tensors["falling"] = falling.astype(np.int16)
        shift = q + k - TABLE_BITS
        return Step(s.op, s.out, s.inputs, heads=s.heads, shift=shift, table="falling")

    def _raw_grid(
        self, step: FloatStep, weight: NDArray[np.generic], exponent: NDArray[np.int64]
    ) -> tuple[tuple[int, int, int], int]:
        """Input quantisation of a raw register that fills 2^24 as far as it helps."""
        assert step.bias is not None
        register = step.inputs[0]
        unit, available = np.maximum(limit_of(weight, -1, 1), 1), self.bits[register]
        values = self.statistics[register].values()
        best = (math.inf, 0, 0)
        for fraction in range(0, available + 1):
            hi = min(int((_room(step.bias, exponent + fraction) / unit).min()), RESIDUAL_LIMIT)
            if hi > 1:
                best = min(best, (_grid_error(values, fraction, -hi, hi), fraction, hi))
        _, fraction, hi = best
        return (available - fraction, -hi, hi), fraction


def quantise_weight(
    weight: NDArray[np.float64], limit: int = WEIGHT_LIMIT
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """Round (O, I, k, k) weights to +-limit with a power-of-two scale per output channel.

    Returns
    -------
    weight : (O, I, k, k) int8, or int16 when limit exceeds 127
    exponent : (O,) int64
        ``weight * 2**-exponent`` approximates the input; of two candidate exponents the one
        with the smaller squared error is taken.
    """
    largest = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), 1e-12)
    base = np.floor(np.log2(limit / largest))
    base = np.minimum(base, MAX_EXPONENT).astype(np.int64)
    candidates = []
    for extra in (0, 1):
        scale = np.exp2((base + extra).astype(np.float64)).reshape(-1, 1, 1, 1)
        rounded = np.clip(np.rint(weight * scale), -limit, limit)
        error = ((rounded / scale - weight) ** 2).reshape(len(weight), -1).sum(1)
        candidates.append((error, rounded))
    second = (candidates[1][0] < candidates[0][0]) & (base < MAX_EXPONENT)
    chosen = np.where(second.reshape(-1, 1, 1, 1), candidates[1][1], candidates[0][1])
    return chosen.astype(np.int8 if limit <= 127 else np.int16), base + second


def _room(bias: torch.Tensor, scale: NDArray[np.int64]) -> NDArray[np.float64]:
    """What 2^24 leaves for products when the bias is added at ``2**scale``, per channel."""
    largest = bias.abs().max(0).values.numpy() * np.exp2(scale.astype(np.float64))
    room: NDArray[np.float64] = EXACT_FLOAT32 * HEADROOM - largest
    return room


def _smallest(activation: str, fraction: int) -> int:
    """Smallest entry of an activation table with so many fraction bits."""
    lowest = -0.27846455 if activation == "silu" else -TABLE_HALF / 2.0**TABLE_BITS
    return math.floor(lowest * float(1 << fraction) + 0.5)


def _width(step: FloatStep, heads: int) -> int:
    """Channels per head of a register that ``step`` makes."""
    assert step.weight is not None
    return len(step.weight) // heads


def _score_grid(values: NDArray[np.float64], width: int) -> tuple[int, int]:
    """Fraction bits and limit of q or k: sums of ``width`` products stay below 2^23."""
    limit = math.isqrt((SCORE_LIMIT - 1) // width)
    return min(range(14), key=lambda f: _grid_error(values, f, -limit, limit)), limit


def _shared_fraction(samples: list[NDArray[np.float64]]) -> int:
    """Fraction bits for all residual registers with the least summed relative error.

    Rare values may saturate when that buys a finer grid for the rest.
    """
    power = [max(float((v**2).mean()), 1e-12) for v in samples]

    def cost(fraction: int) -> float:
        errors = (_grid_error(v, fraction, -RESIDUAL_LIMIT, RESIDUAL_LIMIT) for v in samples)
        return sum(e / p for e, p in zip(errors, power, strict=True))

    return min(range(4, 14), key=cost)


def _grid_error(values: NDArray[np.float64], fraction: int, lo: int, hi: int) -> float:
    grid = np.clip(np.floor(values * 2.0**fraction + 0.5), lo, hi) * 2.0**-fraction
    return float(((grid - values) ** 2).mean())


def _round(tensor: torch.Tensor, bits: int) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.rint(tensor.numpy() * 2.0**bits)
    return result
