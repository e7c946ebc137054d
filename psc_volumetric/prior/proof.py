"""Proof that no sum of an integer network can overflow. Part of the format (SPEC section 6.6).

Runs whenever a program is built: at conversion and at every load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError, LimitExceededError, NumericalError
from psc_volumetric.prior.step import (
    EXACT_FLOAT32,
    EXP_TABLE,
    RESIDUAL_LIMIT,
    SCORE_LIMIT,
    TABLE_HALF,
    Step,
    limit_of,
)

__all__ = ["Prover"]

MAX_CHANNELS = 2048
MAX_GROUP_ELEMENTS = 1 << 16
MAX_TOKENS = 1 << 12  # pixels an attention looks at; sums of weights times values < 2^43
MAX_REGISTER_VALUES = 1 << 24  # in all registers together, per particle
MAX_PRODUCTS = 1 << 33  # of all convolutions and attentions together, per particle
MAX_FACTOR = 16

Shape = tuple[int, int, int]  # channels, height, width


def _largest(array: NDArray[np.generic]) -> int:
    """Largest magnitude; exact for the smallest int64 too."""
    return max(int(array.max()), -int(array.min()))


class Prover:
    """Walks the steps of a network once: shapes, registers, and the bound of every sum.

    Parameters
    ----------
    tile : (slices, extent)
        Shape of the input, (slices, extent, extent).
    levels : int
        Noise levels the biases are tabulated for.
    tensors : mapping
        Integer arrays by name.
    wanted : (channels, extent)
        Shape of the output.
    text : (width, tokens), optional
        Shape of the register ``text``; None for a network that reads none.
    """

    def __init__(
        self,
        tile: tuple[int, int],
        levels: int,
        tensors: Mapping[str, NDArray[np.generic]],
        wanted: tuple[int, int],
        *,
        text: tuple[int, int] | None = None,
    ) -> None:
        self.levels, self.tensors, self.wanted = levels, tensors, (*wanted, wanted[1])
        self.shapes: dict[str, Shape] = {"x": (*tile, tile[1])}
        if text is not None:
            self.shapes["text"] = (*text, 1)
        self.of_text = set(self.shapes) - {"x"}
        whole = (-RESIDUAL_LIMIT, RESIDUAL_LIMIT)
        self.ranges: dict[str, tuple[int, int]] = dict.fromkeys(self.shapes, whole)
        self.values = self.products = 0

    def run(self, steps: Sequence[Step]) -> None:
        """Refuse the steps unless everything holds."""
        for number, step in enumerate(steps):
            self._require(step.out not in self.shapes, step, f"{step.out!r} is written twice")
            try:
                self._keep_apart(step)
                getattr(self, "_" + step.op)(step)
                self._count(step)
            except KeyError as error:
                raise FormatError(
                    f"network step {number} ({step.op}): register or tensor {error} is missing",
                    kind="bad-program",
                ) from error
        if self.shapes[steps[-1].out] != self.wanted:
            raise FormatError(
                f"network output: expected {self.wanted[0]} channels of extent {self.wanted[1]}, "
                f"found {self.shapes[steps[-1].out]}",
                kind="bad-program",
            )

    def _keep_apart(self, step: Step) -> None:
        """Registers of text meet those of pixels in ``attend`` alone, where pixels ask."""
        read = [*step.inputs, *([step.add] if step.add else [])]
        for name in read:
            _ = self.shapes[name]
        known = [name in self.of_text for name in read]
        asks = step.op == "attend" and known == [False, True, True]
        self._require(len(set(known)) == 1 or asks, step, "registers of text and of pixels")
        if all(known):
            self.of_text.add(step.out)

    def _count(self, step: Step) -> None:
        """Bound memory and time before anything runs."""
        channels, height, width = self.shapes[step.out]
        self.values += channels * height * width
        if step.op == "conv":
            self.products += self.tensors[f"{step.name}.weight"].size * height * width
        if self.values > MAX_REGISTER_VALUES or self.products > MAX_PRODUCTS:
            raise LimitExceededError(
                f"network step {step.op} {step.name!r}: {self.values} values in registers and "
                f"{self.products} products exceed {MAX_REGISTER_VALUES} and {MAX_PRODUCTS}",
                kind="limit",
            )

    def _tensor(self, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        array = self.tensors[name]
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise FormatError(
                f"network tensor {name}: expected {dtype} {shape}, found "
                f"{array.dtype} {array.shape}",
                kind="bad-program",
            )
        return array

    def _unfold(self, step: Step) -> None:
        channels, *extents = self.shapes[step.inputs[0]]
        self._require(1 <= step.factor <= MAX_FACTOR, step, "factor")
        whole = all(extent % step.factor == 0 for extent in extents)
        self._require(whole, step, "extent is not a multiple of the factor")
        height, width = (extent // step.factor for extent in extents)
        self.shapes[step.out] = (channels * step.factor**2, height, width)
        self.ranges[step.out] = self.ranges[step.inputs[0]]

    def _fold(self, step: Step) -> None:
        channels, height, width = self.shapes[step.inputs[0]]
        self._require(1 <= step.factor <= MAX_FACTOR, step, "factor")
        self._require(channels % step.factor**2 == 0, step, "channels do not fold")
        height, width = height * step.factor, width * step.factor
        self.shapes[step.out] = (channels // step.factor**2, height, width)
        self.ranges[step.out] = self.ranges[step.inputs[0]]

    def _concat(self, step: Step) -> None:
        (a, *extents), (b, *others) = (self.shapes[name] for name in step.inputs)
        self._require(extents == others, step, "extents differ")
        self._require(a + b <= MAX_CHANNELS, step, "too many channels")
        self.shapes[step.out] = (a + b, extents[0], extents[1])
        self.ranges[step.out] = (-RESIDUAL_LIMIT, RESIDUAL_LIMIT)

    def _norm_act(self, step: Step) -> None:
        channels, height, width = self.shapes[step.inputs[0]]
        self._require(step.groups >= 1 and channels % step.groups == 0, step, "bad groups")
        self._normalise(step, channels, channels // step.groups * height * width)

    def _layer_norm(self, step: Step) -> None:
        channels = self.shapes[step.inputs[0]][0]
        self._normalise(step, channels, channels)

    def _normalise(self, step: Step, channels: int, elements: int) -> None:
        """What both normalisations have; ``elements`` are those of a group."""
        self._require(elements <= MAX_GROUP_ELEMENTS, step, f"{elements} elements in a group")
        gamma = self._tensor(f"{step.name}.gamma", "int32", (channels,)).astype(np.int64)
        beta = self._tensor(f"{step.name}.beta", "int64", (channels,))
        table = self._tensor(step.table, "int16", (2 * TABLE_HALF,))
        self._require(_largest(gamma) < 1 << 21, step, "gamma is out of range")
        self._require(_largest(beta) < 1 << 42, step, "beta is out of range")
        self._require(1 <= step.epsilon < 1 << 58, step, "epsilon is out of range")
        self.shapes[step.out] = self.shapes[step.inputs[0]]
        self._require(1 <= step.limit <= RESIDUAL_LIMIT, step, "limit")
        self.ranges[step.out] = (int(table.min()), min(int(table.max()), step.limit))

    def _activate(self, step: Step) -> None:
        table = self._tensor(step.table, "int16", (2 * TABLE_HALF,))
        self._require(-16 <= step.shift <= 24, step, "shift is out of range")
        self._require(1 <= step.limit <= RESIDUAL_LIMIT, step, "limit")
        self.shapes[step.out] = self.shapes[step.inputs[0]]
        self.ranges[step.out] = (int(table.min()), min(int(table.max()), step.limit))

    def _multiply(self, step: Step) -> None:
        shapes = [self.shapes[name] for name in step.inputs]
        self._require(shapes[0] == shapes[1], step, "shapes differ")
        self._require(0 <= step.shift <= 30, step, "shift is out of range")
        self._require(1 <= step.limit <= RESIDUAL_LIMIT, step, "limit")
        self.shapes[step.out] = shapes[0]
        self.ranges[step.out] = (-step.limit, step.limit)

    def _attention(self, step: Step) -> None:
        shapes = [self.shapes[name] for name in step.inputs]
        self._require(shapes == shapes[:1] * 3, step, "shapes of q, k and v differ")
        self._look(step)

    def _attend(self, step: Step) -> None:
        (channels, *extents), k, v = (self.shapes[name] for name in step.inputs)
        self._require(k == v and k[0] == channels, step, "shapes of q, k and v do not fit")
        same = not step.causal or extents == list(k[1:])
        self._require(same, step, "only what looks at itself can be causal")
        self._look(step)

    def _look(self, step: Step) -> None:
        """What both kinds of attention have."""
        (channels, *extents), (_, *others), _ = (self.shapes[name] for name in step.inputs)
        tokens, seen = math.prod(extents), math.prod(others)
        self._require(step.heads >= 1 and channels % step.heads == 0, step, "bad heads")
        most = max(tokens, seen)
        self._require(most <= MAX_TOKENS, step, f"{most} pixels, at most {MAX_TOKENS}")
        self._require(-16 <= step.shift <= 24, step, "shift is out of range")
        table = self._tensor(step.table, "int16", (EXP_TABLE,))
        self._require(table.min() >= 0 and table[0] >= 1, step, "table must start above 0")
        q, k = (max(-lo, hi) for lo, hi in (self.ranges[name] for name in step.inputs[:2]))
        self._refuse_overflow(step, channels // step.heads * q * k, SCORE_LIMIT)
        self.shapes[step.out] = self.shapes[step.inputs[0]]
        self.ranges[step.out] = self.ranges[step.inputs[2]]
        self.products += 2 * tokens * seen * channels

    def _conv(self, step: Step) -> None:
        channels, *extents = self.shapes[step.inputs[0]]
        weight = self.tensors[f"{step.name}.weight"]
        self._require(weight.ndim == 4 and weight.shape[1] == channels, step, "weight shape")
        out, _, kernel, other = weight.shape
        self._require(out >= 1, step, "no output channels")
        self._require(kernel == other and kernel in (1, 3), step, f"kernel {kernel}x{other}")
        self._require(out <= MAX_CHANNELS and step.stride in (1, 2), step, "channels or stride")
        self._require(step.pad == kernel // 2, step, "padding must be kernel // 2")
        self._require(weight.dtype in (np.int8, np.int16), step, f"weight dtype {weight.dtype}")
        shift = self._tensor(f"{step.name}.shift", "int8", (out,))
        bias = self.tensors[f"{step.name}.bias"]
        self._tensor(f"{step.name}.bias", "int32", (len(bias), out))
        self._require(len(bias) in (1, self.levels), step, "bias rows")
        self._require(shift.min() >= -8 and shift.max() <= 24, step, "shift is out of range")
        lo, hi = step.quant[1:] if step.quant else self.ranges[step.inputs[0]]
        if step.quant:
            self._require(0 <= step.quant[0] + 16 <= 32, step, "input shift is out of range")
        self._require(-RESIDUAL_LIMIT <= lo <= 0 <= hi <= RESIDUAL_LIMIT, step, "input range")
        bound = int((limit_of(weight, lo, hi) + np.abs(bias.astype(np.int64)).max(0)).max())
        self._refuse_overflow(step, bound, EXACT_FLOAT32)
        grown = 2 if step.upsample else 1
        height, width = ((extent * grown - 1) // step.stride + 1 for extent in extents)
        if step.add is not None:
            self._require(self.shapes[step.add] == (out, height, width), step, "addend shape")
        self._require(1 <= step.limit <= RESIDUAL_LIMIT, step, "limit")
        self.shapes[step.out] = (out, height, width)
        top = RESIDUAL_LIMIT if step.add is not None else step.limit
        self.ranges[step.out] = (-top, top)

    @staticmethod
    def _refuse_overflow(step: Step, bound: int, limit: int) -> None:
        if bound >= limit:
            raise NumericalError(
                f"network step {step.op} {step.name or step.out!r}: a sum may reach {bound}, "
                f"the limit is 2^{limit.bit_length() - 1}",
                kind="overflow",
                hint="convert the prior again; this one would not decode exactly",
            )

    @staticmethod
    def _require(condition: bool, step: Step, problem: str) -> None:
        if not condition:
            raise FormatError(
                f"network step {step.op} {step.name!r}: {problem}", kind="bad-program"
            )
