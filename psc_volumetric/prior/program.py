"""Integer networks as straight-line programs. Part of the format (SPEC section 6).

A program is a list of five kinds of steps over named registers. A register holds a
(batch, channels, height, width) tensor of integers with a stated number of fraction bits.
Every step has one exact integer result; how it is computed (float32, float64, int8, int64) is
the business of :mod:`psc_volumetric.prior.runtime`.

    unfold     space to depth, factor f
    fold       depth to space, factor f
    norm_act   group normalisation and activation by table
    conv       convolution, requantisation, optional saturating addition
    concat     channels of two registers
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError, LimitExceededError, NumericalError

__all__ = ["Program", "Step", "canonical_digest", "limit_of"]

Tensors = Mapping[str, NDArray[np.generic]]

EXACT_FLOAT32 = 1 << 24
NORM_BITS = 24  # fraction bits of the normalisation's products
TABLE_BITS = 8  # fraction bits of the table index
TABLE_HALF = 16 << TABLE_BITS  # the table covers -16 <= value < 16
RESIDUAL_LIMIT = 32767
MAX_STEPS = 512
MAX_TILE = 1024
MAX_NOISE_LEVELS = 4096
OUT_BITS = range(11, 25)  # samples have 11; products with the schedule then stay below 2^63
MAX_CHANNELS = 2048
MAX_GROUP_ELEMENTS = 1 << 16
MAX_REGISTER_VALUES = 1 << 24  # in all registers together, per particle
MAX_PRODUCTS = 1 << 33  # of all convolutions together, per particle
MAX_FACTOR = 16
OPS = ("unfold", "fold", "norm_act", "conv", "concat")


@dataclass(frozen=True)
class Step:
    """One step; fields a kind does not use keep their defaults.

    Attributes
    ----------
    op, out, inputs
        Kind, register written, registers read.
    name : str
        Prefix of the step's tensors: ``<name>.weight`` (int8 or int16, O I k k), ``<name>.shift``
        (int8, O), ``<name>.bias`` (int32, (1 or levels, O)); ``<name>.gamma`` (int32, C),
        ``<name>.beta`` (int64, C).
    factor : int
        ``fold`` and ``unfold``.
    stride, pad : int
        ``conv``.
    upsample : bool
        ``conv``: nearest-neighbour x2 after quantising the input.
    quant : (shift, lo, hi) or None
        ``conv``: how a raw register becomes the convolution's input; None after ``norm_act``.
    limit : int
        ``conv``: outputs saturate at +-limit; ``norm_act``: at limit from above.
    add : str or None
        ``conv``: register added afterwards, saturating at +-32767.
    groups, epsilon : int
        ``norm_act``.
    table : str
        ``norm_act``: name of the activation table (int16, 8192), shared between steps.
    """

    op: str
    out: str
    inputs: tuple[str, ...]
    name: str = ""
    factor: int = 1
    stride: int = 1
    pad: int = 0
    upsample: bool = False
    quant: tuple[int, int, int] | None = None
    limit: int = RESIDUAL_LIMIT
    add: str | None = None
    groups: int = 1
    epsilon: int = 1
    table: str = ""

    @classmethod
    def from_dict(cls, data: Any) -> Step:
        """Rebuild from JSON, refusing unknown kinds and keys."""
        known = isinstance(data, Mapping) and set(data) <= set(cls.__dataclass_fields__)
        if not known or data.get("op") not in OPS or not {"out", "inputs"} <= set(data):
            raise FormatError(f"network step {data!r:.200} is not known", kind="bad-program")
        wrong = [key for key, value in data.items() if not _has_type(key, value)]
        if wrong or len(data["inputs"]) != (2 if data["op"] == "concat" else 1):
            raise FormatError(
                f"network step {data!r:.200}: wrong type or number of values: "
                f"{', '.join(wrong) or 'inputs'}",
                kind="bad-program",
            )
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, defaults left out."""
        default = Step("conv", "", ())
        data = {"op": self.op, "out": self.out, "inputs": list(self.inputs)}
        for key, value in asdict(self).items():
            if key not in data and value != getattr(default, key):
                data[key] = list(value) if isinstance(value, tuple) else value
        return data


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62


def _has_type(key: str, value: object) -> bool:
    """Whether a JSON value is what a step may have under ``key``."""
    if key in ("op", "out", "name", "table"):
        return isinstance(value, str)
    if key == "upsample":
        return isinstance(value, bool)
    if key == "add":
        return value is None or isinstance(value, str)
    if key == "inputs":
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if key == "quant":
        whole = isinstance(value, list) and len(value) == 3 and all(map(_is_integer, value))
        return value is None or whole
    return _is_integer(value)


def _largest(array: NDArray[np.generic]) -> int:
    """Largest magnitude; exact for the smallest int64 too."""
    return max(int(array.max()), -int(array.min()))


def limit_of(weight: NDArray[np.generic], lo: int, hi: int) -> NDArray[np.int64]:
    """Largest magnitude each output channel's accumulator can reach for inputs in lo..hi."""
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    positive = np.where(flat > 0, flat, 0).sum(1)
    negative = np.where(flat < 0, -flat, 0).sum(1)
    up = positive * hi - negative * min(lo, 0)
    down = negative * hi - positive * min(lo, 0)
    bound: NDArray[np.int64] = np.maximum(up, down)
    return bound


@dataclass(frozen=True)
class Program:
    """An integer network with its tensors, proven free of overflow on construction.

    Attributes
    ----------
    steps : tuple of Step
        First reads register ``"x"`` (fraction bits 11); last writes the network's output.
    slices, tile : int
        Input is (batch, slices, tile, tile).
    levels : int
        Noise levels the biases are tabulated for.
    out_bits : int
        Fraction bits of the output.
    tensors : mapping
        Integer arrays by name.
    """

    steps: tuple[Step, ...]
    slices: int
    tile: int
    levels: int
    out_bits: int
    tensors: Tensors

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise LimitExceededError(f"network has {len(self.steps)} steps", kind="limit")
        whole_blocks = 8 <= self.tile <= MAX_TILE and self.tile % 8 == 0
        if self.slices not in (1, 2, 4, 8) or not whole_blocks:
            raise FormatError(
                f"network tile: expected 1, 2, 4 or 8 slices of 8, 16, ... {MAX_TILE} voxels, "
                f"found {self.slices} of {self.tile}",
                kind="bad-program",
            )
        if not 1 <= self.levels <= MAX_NOISE_LEVELS or self.out_bits not in OUT_BITS:
            raise FormatError(
                f"network: expected 1..{MAX_NOISE_LEVELS} noise levels and {OUT_BITS[0]}.."
                f"{OUT_BITS[-1]} output bits, found {self.levels} and {self.out_bits}",
                kind="bad-program",
            )
        _Prover(self).run()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tensors, JSON-able."""
        return {
            "slices": self.slices,
            "tile": self.tile,
            "levels": self.levels,
            "out_bits": self.out_bits,
            "steps": [step.to_dict() for step in self.steps],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Tensors) -> Program:
        """Rebuild and prove; :class:`FormatError` when the description is not a program."""
        try:
            sizes = [data[key] for key in ("slices", "tile", "levels", "out_bits")]
            if not isinstance(data["steps"], list) or not all(map(_is_integer, sizes)):
                raise TypeError("steps must be a list and the others integers")
            steps = tuple(Step.from_dict(s) for s in data["steps"])
            slices, tile, levels, out_bits = sizes
            return cls(steps, slices, tile, levels, out_bits, tensors)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"network description: expected steps, slices, tile, levels and out_bits ({error})",
                kind="bad-program",
            ) from error


def canonical_digest(description: Mapping[str, Any], tensors: Tensors) -> str:
    """SHA-256 of the canonical JSON and of every tensor (name, dtype, shape, bytes), by name."""
    digest = hashlib.sha256()
    digest.update(json.dumps(description, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<"))
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class _Prover:
    """Walks a program once: shapes, registers, and the bound of every sum."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.shapes: dict[str, tuple[int, int]] = {"x": (program.slices, program.tile)}
        self.ranges: dict[str, tuple[int, int]] = {"x": (-RESIDUAL_LIMIT, RESIDUAL_LIMIT)}
        self.values = self.products = 0

    def run(self) -> None:
        for number, step in enumerate(self.program.steps):
            self._require(step.out not in self.shapes, step, f"{step.out!r} is written twice")
            try:
                getattr(self, "_" + step.op)(step)
                self._count(step)
            except KeyError as error:
                raise FormatError(
                    f"network step {number} ({step.op}): register or tensor {error} is missing",
                    kind="bad-program",
                ) from error
        if self.shapes[self.program.steps[-1].out] != (self.program.slices, self.program.tile):
            raise FormatError("network output does not have the tile's shape", kind="bad-program")

    def _count(self, step: Step) -> None:
        """Bound memory and time before anything runs."""
        channels, size = self.shapes[step.out]
        self.values += channels * size * size
        if step.op == "conv":
            self.products += self.program.tensors[f"{step.name}.weight"].size * size * size
        if self.values > MAX_REGISTER_VALUES or self.products > MAX_PRODUCTS:
            raise LimitExceededError(
                f"network step {step.op} {step.name!r}: {self.values} values in registers and "
                f"{self.products} products exceed {MAX_REGISTER_VALUES} and {MAX_PRODUCTS}",
                kind="limit",
            )

    def _tensor(self, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        array = self.program.tensors[name]
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

    def _conv(self, step: Step) -> None:
        channels, size = self.shapes[step.inputs[0]]
        weight = self.program.tensors[f"{step.name}.weight"]
        self._require(weight.ndim == 4 and weight.shape[1] == channels, step, "weight shape")
        out, _, kernel, other = weight.shape
        self._require(out >= 1, step, "no output channels")
        self._require(kernel == other and kernel in (1, 3), step, f"kernel {kernel}x{other}")
        self._require(out <= MAX_CHANNELS and step.stride in (1, 2), step, "channels or stride")
        self._require(step.pad == kernel // 2, step, "padding must be kernel // 2")
        self._require(weight.dtype in (np.int8, np.int16), step, f"weight dtype {weight.dtype}")
        shift = self._tensor(f"{step.name}.shift", "int8", (out,))
        bias = self.program.tensors[f"{step.name}.bias"]
        self._tensor(f"{step.name}.bias", "int32", (len(bias), out))
        self._require(len(bias) in (1, self.program.levels), step, "bias rows")
        self._require(shift.min() >= -8 and shift.max() <= 24, step, "shift is out of range")
        lo, hi = step.quant[1:] if step.quant else self.ranges[step.inputs[0]]
        if step.quant:
            self._require(0 <= step.quant[0] + 16 <= 32, step, "input shift is out of range")
        self._require(-RESIDUAL_LIMIT <= lo <= 0 <= hi <= RESIDUAL_LIMIT, step, "input range")
        bound = int((limit_of(weight, lo, hi) + np.abs(bias.astype(np.int64)).max(0)).max())
        if bound >= EXACT_FLOAT32:
            raise NumericalError(
                f"network step {step.name!r}: a sum may reach {bound}, the limit is 2^24",
                kind="overflow",
                hint="convert the prior again; this one would not decode exactly",
            )
        size = (size * (2 if step.upsample else 1) - 1) // step.stride + 1
        if step.add is not None:
            self._require(self.shapes[step.add] == (out, size), step, "addend shape")
        self._require(1 <= step.limit <= RESIDUAL_LIMIT, step, "limit")
        self.shapes[step.out] = (out, size)
        self.ranges[step.out] = (-RESIDUAL_LIMIT, RESIDUAL_LIMIT)

    @staticmethod
    def _require(condition: bool, step: Step, problem: str) -> None:
        if not condition:
            raise FormatError(
                f"network step {step.op} {step.name!r}: {problem}", kind="bad-program"
            )
