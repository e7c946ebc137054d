"""The fast CPU carrier: float32 convolutions from torch, everything between them fused loops.

Not part of the format: gives the integers of SPEC section 6, tested against
:class:`psc_volumetric.prior.runtime.TorchRuntime` and refused by the self-test if it does not.
Tensors are float32 carrying integers, channels last. Samples are split over threads in small
groups; exactness makes the split invisible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from psc_volumetric.machine_code import compiled
from psc_volumetric.of_process import of_this_process
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import exact_float, last_uses, usable_threads
from psc_volumetric.prior.step import (
    EXP_TABLE,
    NORM_BITS,
    RESIDUAL_LIMIT,
    TABLE_BITS,
    TABLE_HALF,
    Step,
)

__all__ = ["FusedRuntime", "run_split"]

SAMPLES_PER_GROUP = 8
Floats = NDArray[np.float32]

_pools: dict[int, ThreadPoolExecutor] = {}


def _workers() -> ThreadPoolExecutor:
    """Threads for splitting batches, each running torch single-threaded."""
    return of_this_process(_pools, _new_workers)


def _new_workers() -> ThreadPoolExecutor:
    count = max(1, usable_threads())
    return ThreadPoolExecutor(count, "psc-kernel", initializer=torch.set_num_threads, initargs=(1,))


def run_split(task: Callable[[slice], None], size: int, group: int) -> None:
    """Call ``task`` on consecutive slices of ``range(size)`` from several threads."""
    parts = [slice(i, min(i + group, size)) for i in range(0, size, group)]
    if len(parts) == 1:
        task(parts[0])
        return
    for _ in _workers().map(task, parts):
        pass


@compiled()
def _integer_sqrt(value):  # type: ignore[no-untyped-def]
    root = np.int64(math.sqrt(np.float64(value)))
    while root * root > value:
        root -= 1
    while (root + 1) * (root + 1) <= value:
        root += 1
    return root


@compiled()
def _affine(  # type: ignore[no-untyped-def]
    s1, s2, n, epsilon, gamma, beta, multiplier, offset, first, count
) -> None:
    """SPEC 6.3 for one group of channels."""
    spread = n * s2 - s1 * s1 + epsilon
    exponent = 0
    for shift in (16, 8, 4, 2, 1):
        if spread < (np.int64(1) << (62 - 2 * shift)):
            spread = spread << (2 * shift)
            exponent += shift
    inverse = ((np.int64(1) << 62) // _integer_sqrt(spread)) >> 8
    back = 70 - TABLE_BITS - NORM_BITS - exponent
    top = np.int64(1) << 31
    for c in range(first, first + count):
        m = (gamma[c] * (n * inverse)) >> back
        m = min(max(m, -top), top)
        multiplier[c] = np.float64(m) * 2.0**-NORM_BITS
        whole = beta[c] - (m * s1) // n + (np.int64(1) << (NORM_BITS - 1))
        offset[c] = np.float64(whole) * 2.0**-NORM_BITS + TABLE_HALF


@compiled()
def _norm_act(x, groups, epsilon, gamma, beta, table, out) -> None:  # type: ignore[no-untyped-def]
    """x, out (b, pixels, channels) float32; products are exact in float64."""
    b, pixels, channels = x.shape
    width = channels // groups
    multiplier = np.empty(channels, np.float64)
    offset = np.empty(channels, np.float64)
    sums = np.empty(channels, np.float64)
    squares = np.empty(channels, np.float64)
    top = np.float64(2 * TABLE_HALF - 1)
    for i in range(b):
        sums[:] = 0.0
        squares[:] = 0.0
        for p in range(pixels):
            for c in range(channels):
                v = np.float64(x[i, p, c])
                sums[c] += v
                squares[c] += v * v
        for g in range(groups):
            s1 = np.int64(0)
            s2 = np.int64(0)
            for c in range(g * width, (g + 1) * width):
                s1 += np.int64(sums[c])
                s2 += np.int64(squares[c])
            _affine(
                s1, s2, np.int64(pixels * width), np.int64(epsilon), gamma, beta, multiplier,
                offset, g * width, width,
            )  # fmt: skip
        for p in range(pixels):
            for c in range(channels):
                t = np.float64(x[i, p, c]) * multiplier[c] + offset[c]
                out[i, p, c] = table[np.int32(min(max(t, 0.0), top))]


@compiled()
def _requantise(sums, scale, limit, out) -> None:  # type: ignore[no-untyped-def]
    """sums, out (n, channels) float32."""
    n, channels = sums.shape
    for i in range(n):
        for c in range(channels):
            v = np.float32(math.floor(sums[i, c] * scale[c]))
            out[i, c] = min(max(v, -limit), limit)


@compiled()
def _requantise_add(sums, scale, limit, add, out) -> None:  # type: ignore[no-untyped-def]
    n, channels = sums.shape
    top = np.float32(RESIDUAL_LIMIT)
    for i in range(n):
        for c in range(channels):
            v = np.float32(math.floor(sums[i, c] * scale[c]))
            v = min(max(v, -limit), limit) + add[i, c]
            out[i, c] = min(max(v, -top), top)


@compiled()
def _quantise(x, half, scale, lo, hi, out) -> None:  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        v = np.float32(math.floor((x[i] + half) * scale))
        out[i] = min(max(v, lo), hi)


@compiled()
def _double(x, out) -> None:  # type: ignore[no-untyped-def]
    """Nearest-neighbour x2: (b, h, w, c) -> (b, 2h, 2w, c)."""
    b, h, w, channels = x.shape
    for i in range(b):
        for y in range(h):
            for z in range(w):
                for c in range(channels):
                    v = x[i, y, z, c]
                    out[i, 2 * y, 2 * z, c] = v
                    out[i, 2 * y, 2 * z + 1, c] = v
                    out[i, 2 * y + 1, 2 * z, c] = v
                    out[i, 2 * y + 1, 2 * z + 1, c] = v


@compiled()
def _weigh(scores, scale, table, weights, totals) -> None:  # type: ignore[no-untyped-def]
    """SPEC 6.5: scores (n, n) float32 -> weights (n, n) float64 and their sums (n,) int64."""
    last = np.float32(EXP_TABLE - 1)
    for i in range(scores.shape[0]):
        top = scores[i, 0]
        for j in range(scores.shape[1]):
            top = max(top, scores[i, j])
        total = np.float64(0)
        for j in range(scores.shape[1]):
            w = table[np.int32(min((top - scores[i, j]) * scale, last))]
            weights[i, j] = w
            total += w
        totals[i] = np.int64(total)


@compiled()
def _divide(sums, totals, out) -> None:  # type: ignore[no-untyped-def]
    """Rounded quotients of sums (n, c) float64 and totals (n,) int64."""
    for i in range(sums.shape[0]):
        for c in range(sums.shape[1]):
            out[i, c] = (2 * np.int64(sums[i, c]) + totals[i]) // (2 * totals[i])


def _nhwc(tensor: torch.Tensor) -> Floats:
    """View of a channels-last tensor as a contiguous (b, h, w, c) array."""
    array: Floats = tensor.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).numpy()
    return array


def _new(b: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.empty((b, channels, height, width), memory_format=torch.channels_last)


class FusedRuntime:
    """Integer network on the CPU with fused elementwise loops.

    Parameters
    ----------
    program : Program
        The integer network, already proven.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._t: dict[str, Any] = {}
        for step in program.steps:
            if step.op == "conv":
                weight = torch.from_numpy(program.tensors[f"{step.name}.weight"].astype(np.float32))
                self._t[f"{step.name}.weight"] = weight.contiguous(
                    memory_format=torch.channels_last
                )
                bias = program.tensors[f"{step.name}.bias"].astype(np.float32)
                self._t[f"{step.name}.bias"] = torch.from_numpy(bias)
                shift = program.tensors[f"{step.name}.shift"].astype(np.int64)
                self._t[f"{step.name}.shift"] = np.ldexp(1.0, -shift).astype(np.float32)
            elif step.op == "norm_act":
                for part in ("gamma", "beta"):
                    name = f"{step.name}.{part}"
                    self._t[name] = program.tensors[name].astype(np.int64)
                table = np.minimum(program.tensors[step.table], step.limit)
                self._t[f"{step.name}.table"] = table.astype(np.float32)
            elif step.op == "attention":
                self._t[step.out] = program.tensors[step.table].astype(np.float32)
        self._dying = last_uses(program.steps)

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Run the network on integer tiles (b, slices, tile, tile); int32 in, int32 out."""
        p = self.program
        is_estimator = bool(p.outputs and not p.out_tile)
        shape = (p.outputs, *x.shape[2:]) if is_estimator else p.output_shape
        out = torch.empty((len(x), *shape), dtype=torch.int32)

        def group(part: slice) -> None:
            with exact_float():
                out[part] = self._run(x[part].float(), level).to(torch.int32)

        run_split(group, len(x), 1 if is_estimator else SAMPLES_PER_GROUP)
        return out

    def _run(self, x: torch.Tensor, level: int) -> torch.Tensor:
        registers = {"x": x}
        for step, dying in zip(self.program.steps, self._dying, strict=True):
            registers[step.out] = getattr(self, "_" + step.op)(step, registers, level)
            for name in dying:
                del registers[name]
        return registers[self.program.steps[-1].out]

    def _unfold(self, step: Step, r: dict[str, torch.Tensor], level: int) -> torch.Tensor:
        folded = F.pixel_unshuffle(r[step.inputs[0]], step.factor)
        return folded.contiguous(memory_format=torch.channels_last)

    def _fold(self, step: Step, r: dict[str, torch.Tensor], level: int) -> torch.Tensor:
        return F.pixel_shuffle(r[step.inputs[0]], step.factor)

    def _concat(self, step: Step, r: dict[str, torch.Tensor], level: int) -> torch.Tensor:
        return torch.cat([r[name] for name in step.inputs], 1)

    def _norm_act(self, step: Step, r: dict[str, torch.Tensor], level: int) -> torch.Tensor:
        x = _nhwc(r[step.inputs[0]])
        b, h, w, channels = x.shape
        out = _new(b, channels, h, w)
        _norm_act(
            x.reshape(b, h * w, channels),
            step.groups,
            step.epsilon,
            self._t[f"{step.name}.gamma"],
            self._t[f"{step.name}.beta"],
            self._t[f"{step.name}.table"],
            _nhwc(out).reshape(b, h * w, channels),
        )
        return out

    def _attention(self, step: Step, r: dict[str, torch.Tensor], level: int) -> torch.Tensor:
        q, k, v = (torch.from_numpy(_nhwc(r[name])).flatten(1, 2) for name in step.inputs)
        b, channels, h, w = r[step.inputs[0]].shape
        out = _new(b, channels, h, w)
        target = _nhwc(out).reshape(b, h * w, channels)
        weights = torch.empty((h * w, h * w), dtype=torch.float64)
        totals = np.empty(h * w, np.int64)
        scale, width = np.float32(2.0**-step.shift), channels // step.heads
        for i in range(b):
            for first in range(0, channels, width):
                head = slice(first, first + width)
                scores = q[i, :, head] @ k[i, :, head].T
                _weigh(scores.numpy(), scale, self._t[step.out], weights.numpy(), totals)
                sums = weights @ v[i, :, head].double()
                _divide(sums.numpy(), totals, target[i, :, head])
        return out

    def _conv(self, step: Step, r: dict[str, torch.Tensor], level: int) -> torch.Tensor:
        x = r[step.inputs[0]]
        if step.quant is not None:
            x = _quantised(x, step)
        if step.upsample:
            b, channels, h, w = x.shape
            grown = _new(b, channels, 2 * h, 2 * w)
            _double(_nhwc(x), _nhwc(grown))
            x = grown
        bias = self._t[f"{step.name}.bias"]
        row = bias[level if len(bias) > 1 else 0]
        sums = F.conv2d(x, self._t[f"{step.name}.weight"], row, step.stride, step.pad)
        b, channels, h, w = sums.shape
        out = _new(b, channels, h, w)
        flat, target = _nhwc(sums).reshape(-1, channels), _nhwc(out).reshape(-1, channels)
        scale, limit = self._t[f"{step.name}.shift"], np.float32(step.limit)
        if step.add is None:
            _requantise(flat, scale, limit, target)
        else:
            _requantise_add(flat, scale, limit, _nhwc(r[step.add]).reshape(-1, channels), target)
        return out


def _quantised(x: torch.Tensor, step: Step) -> torch.Tensor:
    assert step.quant is not None
    shift, lo, hi = step.quant
    b, channels, h, w = x.shape
    out = _new(b, channels, h, w)
    half = np.float32(2.0 ** (shift - 1)) if shift > 0 else np.float32(0)
    _quantise(
        _nhwc(x).reshape(-1),
        half,
        np.float32(2.0**-shift),
        np.float32(lo),
        np.float32(hi),
        _nhwc(out).reshape(-1),
    )
    return out
