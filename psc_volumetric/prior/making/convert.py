"""Convert a float network to integers: static calibration, proven bounds, measured cost.

Run once on one machine; its output is data. The rules (decision 0005): weights at most 8 bits
(first, last, 1 x 1 and small convolutions: 10) with one power-of-two scale per output channel; the
proof "every sum below 2^24" is shared between weights and inputs so that their errors together are
least; residual registers 16 bits, with one fraction count for those that are added or concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.prior.making.float_program import ACTIVATIONS, FloatProgram, FloatStep
from psc_volumetric.prior.making.quantise import (
    CLIPS,
    FRACTIONS,
    Fit,
    Grid,
    Quantised,
    relative_error,
    score_grid,
    shared_fraction,
    smallest,
    weight_loss,
    weights_for,
    widest,
)
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.step import (
    EXP_TABLE,
    NORM_BITS,
    RESIDUAL_LIMIT,
    TABLE_BITS,
    TABLE_HALF,
    Step,
)

__all__ = ["Statistics", "convert", "observe"]

WEIGHT_LIMIT = 127
FINE_WEIGHT_LIMIT = 511  # first and last convolution (most of the error is theirs), and small ones
SMALL_WEIGHT = 1 << 14  # numbers; those at full resolution, which decide at low noise, have fewer
SAMPLE = 40_000
READ_ALONE = {"norm_act", "layer_norm", "attention", "attend", "activate", "multiply"}
ACTIVATED_BITS = 11  # of activations up to 16


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
    program: FloatProgram,
    batches: Iterable[tuple[torch.Tensor, int]],
    text: torch.Tensor | None = None,
) -> dict[str, Statistics]:
    """Run the float program on calibration batches and keep statistics of every register.

    Parameters
    ----------
    program : FloatProgram
        The network.
    batches : iterable of (x_t, level)
        Noisy tiles (b, slices, tile, tile) float and their noise level.
    text : (n, width, tokens) float64, optional
        What a network that reads text is told, batch after batch in turn.
    """
    statistics: dict[str, Statistics] = {}
    rng = np.random.default_rng(0)

    def see(register: str, value: torch.Tensor) -> None:
        s = statistics.setdefault(register, Statistics([]))
        flat = value.double().flatten().numpy()
        s.low, s.high = min(s.low, float(flat.min())), max(s.high, float(flat.max()))
        s.sample.append(flat[rng.integers(0, flat.size, min(SAMPLE, flat.size))])

    for number, (x_t, level) in enumerate(batches):
        see("x", x_t)
        told = None if text is None else text[number % len(text)][None, :, :, None].double()
        if told is not None:
            see("text", told)
        program.run(x_t.double(), level, see, told)
    return statistics


def convert(
    program: FloatProgram,
    statistics: dict[str, Statistics],
    *,
    out_bits: int = 12,
    text_bits: list[int] | None = None,
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
    text_bits : list, optional
        Gets the fraction bits of the register ``text``.

    Raises
    ------
    NumericalError
        A sum could reach 2^24.
    """
    converter = _Converter(program, statistics, out_bits)
    if text_bits is not None:
        text_bits.append(converter.bits["text"])
    return converter.run()


class _Converter:
    def __init__(
        self, program: FloatProgram, statistics: dict[str, Statistics], out_bits: int
    ) -> None:
        self.program, self.statistics = program, statistics
        self.tensors: dict[str, NDArray[np.generic]] = {}
        self.weights: dict[str, Quantised] = {}
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
            if ops <= READ_ALONE
            and r in produced
            and produced[r].op == "conv"
            and produced[r].add is None
        } - outputs
        self.residual_bits = {
            register: shared_fraction([statistics[r].values() for r in together])
            for together in _joined(program, self.private | outputs)
            for register in together
        }
        self.scores = {
            r: score_grid(statistics[r].values(), _width(produced[r], s.heads))
            for s in program.steps
            if s.op in ("attention", "attend")
            for r in s.inputs[:2]
        }
        self.bits = {"x": SAMPLE_FRACTION_BITS}
        if program.text is not None:
            first = next((s.out for s in program.steps if s.add == "text"), None)
            alone = shared_fraction([statistics["text"].values()])
            self.bits["text"] = alone if first is None else self.residual_bits[first]
        self.outputs, self.out_bits = outputs, out_bits

    def run(self) -> Program:
        steps = [getattr(self, "_" + s.op)(s) for s in self.program.steps]
        p = self.program
        return Program(
            tuple(steps), p.slices, p.tile, p.levels, self.out_bits, self.tensors, p.outputs,
            p.out_tile, p.text,
        )  # fmt: skip

    def _unfold(self, s: FloatStep) -> Step:
        self.bits[s.out] = self.bits[s.inputs[0]]
        self.statistics.setdefault(s.out, self.statistics[s.inputs[0]])
        return Step(s.op, s.out, s.inputs, factor=s.factor)

    _fold = _unfold

    def _concat(self, s: FloatStep) -> Step:
        self.bits[s.out] = self.residual_bits[s.out]
        return Step(s.op, s.out, s.inputs)

    def _norm_act(self, s: FloatStep) -> Step:
        assert s.gamma is not None and s.beta is not None
        in_bits = self.bits[s.inputs[0]]
        readers = [step for step in self.program.steps if s.out in step.inputs]
        fraction, _, hi = self._fit(s.out, readers, self._grids(s.out, s.activation))
        self.bits[s.out] = fraction
        name = self._table(s.activation, fraction)
        self.tensors[f"{s.name}.gamma"] = _round(s.gamma, 16).astype(np.int32)
        self.tensors[f"{s.name}.beta"] = _round(s.beta, TABLE_BITS + NORM_BITS).astype(np.int64)
        elements = len(s.gamma) if s.op == "layer_norm" else self._group_elements(s)
        epsilon = max(1, round(s.eps * elements**2 * 4.0**in_bits))
        return Step(
            s.op, s.out, s.inputs, name=s.name, groups=s.groups, epsilon=epsilon, table=name,
            limit=hi,
        )  # fmt: skip

    _layer_norm = _norm_act

    def _table(self, activation: str, fraction: int) -> str:
        """Name of the table of an activation with so many fraction bits."""
        inputs = torch.arange(-TABLE_HALF, TABLE_HALF).double() / 2.0**TABLE_BITS
        outputs = ACTIVATIONS[activation](inputs).numpy()
        name = f"{activation}.{fraction}"
        table = np.floor(outputs * 2.0**fraction + 0.5)
        self.tensors[name] = np.minimum(table, RESIDUAL_LIMIT).astype(np.int16)
        return name

    def _activate(self, s: FloatStep) -> Step:
        self.bits[s.out] = ACTIVATED_BITS
        shift = self.bits[s.inputs[0]] - TABLE_BITS
        table = self._table(s.activation, ACTIVATED_BITS)
        return Step(s.op, s.out, s.inputs, shift=shift, table=table)

    def _multiply(self, s: FloatStep) -> Step:
        given = sum(self.bits[r] for r in s.inputs)
        bits = min(self._room(s.out), given)
        self.bits[s.out] = bits
        return Step(s.op, s.out, s.inputs, shift=given - bits)

    def _room(self, register: str) -> int:
        """Fraction bits that leave room for half as much again as was seen."""
        magnitude = max(self.statistics[register].magnitude * 1.5, 2.0**-9)
        return min(12, 15 - math.ceil(math.log2(magnitude)))

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
        if step.op == "fold":
            return size * step.factor
        return size * (2 if step.upsample else 1) // step.stride

    def _fit(self, register: str, readers: Sequence[FloatStep], grids: Iterable[Grid]) -> Grid:
        """The input grid, and weights for it, with the least summed relative error of readers."""
        batches = [values[::4] for values in self.statistics[register].sample]
        if readers[0].relu:
            batches = [np.maximum(values, 0) for values in batches]
        best = Fit(math.inf, Grid(0, 0, 0), [])
        for grid in grids:
            coarse = len(readers) * relative_error(batches, grid)
            if coarse < best.error:
                weights = [weights_for(s, grid, self._weight_limit(s)) for s in readers]
                losses = [weight_loss(s, *w) for s, w in zip(readers, weights, strict=True)]
                best = min(best, Fit(coarse + sum(losses), grid, weights), key=lambda f: f.error)
        for step, weight in zip(readers, best.weights, strict=True):
            self.weights[step.name] = weight
        return widest(best.grid, readers, best.weights)

    def _grids(self, register: str, activation: str | None) -> Iterator[Grid]:
        """Candidates, fine ones with few levels and coarse ones alike."""
        seen = self.statistics[register]
        largest = seen.high if activation == "relu" else seen.magnitude
        for fraction in FRACTIONS.get(activation or "", range(self.bits.get(register, 0) + 1)):
            for clip in CLIPS:
                hi = min(max(math.ceil(largest * clip * 2.0**fraction), 2), RESIDUAL_LIMIT)
                yield Grid(
                    fraction, -hi if activation is None else smallest(activation, fraction), hi
                )

    def _weight_limit(self, s: FloatStep) -> int:
        assert s.weight is not None
        convolutions = [step for step in self.program.steps if step.op == "conv"]
        outer = s is convolutions[0] or s is convolutions[-1]
        is_small = s.weight.shape[-1] == 1 or s.weight.numel() <= SMALL_WEIGHT
        return FINE_WEIGHT_LIMIT if outer or is_small else WEIGHT_LIMIT

    def _conv(self, s: FloatStep) -> Step:
        assert s.weight is not None and s.bias is not None
        source = s.inputs[0]
        produced = next((p for p in self.program.steps if p.out == source), None)
        if produced is not None and produced.op in ("norm_act", "layer_norm"):
            quant, in_bits = None, self.bits[source]
        else:
            kind = "relu" if s.relu else None
            in_bits, lo, hi = self._fit(source, [s], self._grids(source, kind))
            quant = (self.bits[source] - in_bits, lo, hi)
        weight, exponent = self.weights[s.name]
        self.tensors[f"{s.name}.weight"] = weight
        limit = RESIDUAL_LIMIT
        if s.out in self.outputs:
            bits = self.out_bits
        elif s.out in self.scores:
            bits, limit = self.scores[s.out]
        elif s.out in self.private:
            bits = self._room(s.out)
        else:
            bits = self.residual_bits[s.out]
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
        return Step(
            s.op, s.out, s.inputs, heads=s.heads, shift=shift, table="falling", causal=s.causal
        )

    _attend = _attention


def _joined(program: FloatProgram, apart: set[str]) -> list[list[str]]:
    """Registers that additions and concatenations tie to one fraction count; others stay alone."""
    groups: list[list[str]] = []
    for step in program.steps:
        if step.op not in ("conv", "concat") or step.out in apart:
            continue
        tied = {step.out, *(step.inputs if step.op == "concat" else ())}
        tied |= {step.add} if step.add else set()
        touched = [g for g in groups if tied & set(g)]
        groups = [g for g in groups if g not in touched]
        groups.append([r for g in touched for r in g] + [step.out])
    return groups


def _width(step: FloatStep, heads: int) -> int:
    """Channels per head of a register that ``step`` makes."""
    assert step.weight is not None
    return len(step.weight) // heads


def _round(tensor: torch.Tensor, bits: int) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.rint(tensor.numpy() * 2.0**bits)
    return result
