"""Proof that no sum of an integer network can overflow. Part of the format (SPEC section 6.6).

Runs whenever a program is built: at conversion and at every load.
"""

from __future__ import annotations

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
    """

    def __init__(
        self,
        tile: tuple[int, int],
        levels: int,
        tensors: Mapping[str, NDArray[np.generic]],
        wanted: tuple[int, int],
    ) -> None:
        self.levels, self.tensors, self.wanted = levels, tensors, wanted
        self.shapes: dict[str, tuple[int, int]] = {"x": tile}
        self.ranges: dict[str, tuple[int, int]] = {"x": (-RESIDUAL_LIMIT, RESIDUAL_LIMIT)}
        self.values = self.products = 0

    def run(self, steps: Sequence[Step]) -> None:
        """Refuse the steps unless everything holds."""
        for number, step in enumerate(steps):
            self._require(step.out not in self.shapes, step, f"{step.out!r} is written twice")
            try:
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

    def _count(self, step: Step) -> None:
        """Bound memory and time before anything runs."""
        channels, size = self.shapes[step.out]
        self.values += channels * size * size
        if step.op == "conv":
            self.products += self.tensors[f"{step.name}.weight"].size * size * size
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
        channels, size = self.shapes[step.inputs[0]]
        self._require(1 <= step.factor <= MAX_FACTOR, step, "factor")
        self._require(size % step.factor == 0, step, "extent is not a multiple of the factor")
        self.shapes[step.out] = (channels * step.factor**2, size // step.factor)
        self.ranges[step.out] = self.ranges[step.inputs[0]]

    def _fold(self, step: Step) -> None:
        channels, size = self.shapes[step.inputs[0]]
        self._require(1 <= step.factor <= MAX_FACTOR, step, "factor")
        self._require(channels % step.factor**2 == 0, step, "channels do not fold")
        self.shapes[step.out] = (channels // step.factor**2, size * step.factor)
        self.ranges[step.out] = self.ranges[step.inputs[0]]

    def _concat(self, step: Step) -> None:
        (a, size), (b, other) = (self.shapes[name] for name in step.inputs)
        self._require(size == other, step, "extents differ")
        self._require(a + b <= MAX_CHANNELS, step, "too many channels")
        self.shapes[step.out] = (a + b, size)
        self.ranges[step.out] = (-RESIDUAL_LIMIT, RESIDUAL_LIMIT)

    def _norm_act(self, step: Step) -> None:
        channels, size = self.shapes[step.inputs[0]]
        self._require(step.groups >= 1 and channels % step.groups == 0, step, "bad groups")
        elements = channels // step.groups * size * size
        self._require(elements <= MAX_GROUP_ELEMENTS, step, f"{elements} elements in a group")
        gamma = self._tensor(f"{step.name}.gamma", "int32", (channels,)).astype(np.int64)
        beta = self._tensor(f"{step.name}.beta", "int64", (channels,))
        table = self._tensor(step.table, "int16", (2 * TABLE_HALF,))
        self._require(_largest(gamma) < 1 << 21, step, "gamma is out of range")
        self._require(_largest(beta) < 1 << 42, step, "beta is out of range")
        self._require(1 <= step.epsilon < 1 << 58, step, "epsilon is out of range")
        self.shapes[step.out] = (channels, size)
        self._require(1 <= step.limit <= RESIDUAL_LIMIT, step, "limit")
        self.ranges[step.out] = (int(table.min()), min(int(table.max()), step.limit))

    def _attention(self, step: Step) -> None:
        shapes = [self.shapes[name] for name in step.inputs]
        (channels, size), tokens = shapes[0], shapes[0][1] ** 2
        self._require(shapes == shapes[:1] * 3, step, "shapes of q, k and v differ")
        self._require(step.heads >= 1 and channels % step.heads == 0, step, "bad heads")
        self._require(tokens <= MAX_TOKENS, step, f"{tokens} pixels, at most {MAX_TOKENS}")
        self._require(-16 <= step.shift <= 24, step, "shift is out of range")
        table = self._tensor(step.table, "int16", (EXP_TABLE,))
        self._require(table.min() >= 0 and table[0] >= 1, step, "table must start above 0")
        q, k = (max(-lo, hi) for lo, hi in (self.ranges[name] for name in step.inputs[:2]))
        self._refuse_overflow(step, channels // step.heads * q * k, SCORE_LIMIT)
        self.shapes[step.out] = (channels, size)
        self.ranges[step.out] = self.ranges[step.inputs[2]]
        self.products += 2 * tokens * tokens * channels

    def _conv(self, step: Step) -> None:
        channels, size = self.shapes[step.inputs[0]]
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
        size = (size * (2 if step.upsample else 1) - 1) // step.stride + 1
        if step.add is not None:
            self._require(self.shapes[step.add] == (out, size), step, "addend shape")
        self._require(1 <= step.limit <= RESIDUAL_LIMIT, step, "limit")
        self.shapes[step.out] = (out, size)
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
