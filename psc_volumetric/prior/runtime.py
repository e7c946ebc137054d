"""Executing an integer network: one specification, several carriers, the same integers.

Not part of the format: every carrier must give the integers SPEC section 6 defines, and the
self-test refuses one that does not. ``TorchRuntime`` runs anywhere torch does; the fused CPU
runtime in :mod:`psc_volumetric.prior.fused` is faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from psc_volumetric.errors import ParameterError
from psc_volumetric.of_process import OwnLock
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.step import (
    EXP_TABLE,
    NORM_BITS,
    RESIDUAL_LIMIT,
    TABLE_BITS,
    TABLE_HALF,
    Step,
)

__all__ = [
    "TorchRuntime",
    "attend",
    "choose_device",
    "exact_float",
    "integer_sqrt",
    "last_uses",
    "norm_affine",
    "one_thread",
    "usable_threads",
]


SCORES_AT_ONCE = 1 << 22  # attention works through a batch in groups of this many scores


def choose_device(device: str) -> str:
    """Resolve ``"auto"``: CUDA when there is one, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError(
            "device 'cuda' was asked for, found no CUDA device", kind="no-device", hint="use cpu"
        )
    if device not in ("cpu", "cuda"):
        raise ParameterError(f"device must be auto, cpu or cuda, found {device!r}", kind="device")
    return device


def integer_sqrt(value: torch.Tensor) -> torch.Tensor:
    """Floor of the square root of int64 values below 2^62.

    The float root is only a seed: it may be wrong by rounding, two integer corrections fix it.
    """
    root = torch.sqrt(value.double()).long()
    for _ in range(2):
        root = root - (root * root > value).long()
        root = root + ((root + 1) * (root + 1) <= value).long()
    return root


def norm_affine(
    s1: torch.Tensor,
    s2: torch.Tensor,
    n: int,
    epsilon: int,
    gamma: torch.Tensor,
    beta: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-channel multiplier and offset of a group normalisation (SPEC section 6.3).

    Parameters
    ----------
    s1, s2 : (b, groups) int64
        Sum and sum of squares of each group.
    n : int
        Elements per group.
    epsilon : int
        Added to ``n * s2 - s1**2``.
    gamma, beta : (groups, c) int64
        Scale with 16 and offset with 32 fraction bits.

    Returns
    -------
    multiplier, offset : (b, groups, c) int64
    """
    spread = n * s2 - s1 * s1 + epsilon
    exponent = torch.zeros_like(spread)
    for shift in (16, 8, 4, 2, 1):
        small = spread < (1 << (62 - 2 * shift))
        spread = torch.where(small, spread << (2 * shift), spread)
        exponent = exponent + small.long() * shift
    inverse = torch.div(
        torch.full_like(spread, 1 << 62), integer_sqrt(spread), rounding_mode="floor"
    )
    inverse = inverse >> 8
    shift_back = (70 - TABLE_BITS - NORM_BITS - exponent).unsqueeze(2)
    multiplier = (gamma * (n * inverse).unsqueeze(2)) >> shift_back
    multiplier = multiplier.clamp(-(1 << 31), 1 << 31)
    mean_part = torch.div(multiplier * s1.unsqueeze(2), n, rounding_mode="floor")
    return multiplier, beta - mean_part + (1 << (NORM_BITS - 1))


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shift: int, table: torch.Tensor
) -> torch.Tensor:
    """Attention of one head (SPEC section 6.5); exact wherever the carrier's products are.

    Parameters
    ----------
    q, k, v : (b, tokens, width) float32 or float64
        Integers; no score q k reaches 2^23.
    shift : int
        Right shift of a score's distance from the largest of its row to an index of ``table``.
    table : (4096,) float64
        Integers 0..32767, the first at least 1.

    Returns
    -------
    (b, tokens, width) int64
        Rounded means of v.
    """
    scores = q @ k.transpose(1, 2)
    torch.sub(scores.amax(2, keepdim=True), scores, out=scores)
    index = scores.mul_(2.0**-shift).floor_().clamp_(max=EXP_TABLE - 1).int()
    weights = table.index_select(0, index.view(-1)).view(index.shape)
    total = weights.sum(2, keepdim=True).long()
    sums = (weights @ v.double()).long()
    return torch.div(2 * sums + total, 2 * total, rounding_mode="floor")


_inside = 0
_threads_outside = 1
_thread_lock = OwnLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute in the calling thread alone meanwhile.

    The tensors between the convolutions are small: on a busy machine a second thread makes them
    wait up to sixty times longer than they compute. The fused runtime splits batches itself, over
    :func:`usable_threads`. May be entered from several threads and nested.
    """
    global _inside, _threads_outside
    with _thread_lock:
        if _inside == 0:
            _threads_outside = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _thread_lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_threads_outside)


def usable_threads() -> int:
    """Threads the caller lets torch use, also asked from inside :func:`one_thread`."""
    with _thread_lock:
        return _threads_outside if _inside else torch.get_num_threads()


_exact_users = 0
_settings_outside: tuple[str, Any] = ("highest", None)


def _enter_exact() -> None:
    """Switch the process-wide settings on the first entry of any thread."""
    global _exact_users, _settings_outside
    with _thread_lock:
        if _exact_users == 0:
            flags = ExitStack()
            _settings_outside = (torch.get_float32_matmul_precision(), flags)
            torch.set_float32_matmul_precision("highest")
            flags.enter_context(torch.backends.nnpack.flags(enabled=False))
            flags.enter_context(
                torch.backends.cudnn.flags(
                    enabled=True, benchmark=False, deterministic=True, allow_tf32=False
                )
            )
        _exact_users += 1


def _leave_exact() -> None:
    """Restore them when the last thread leaves."""
    global _exact_users
    with _thread_lock:
        _exact_users -= 1
        if _exact_users == 0:
            precision, flags = _settings_outside
            flags.close()
            torch.set_float32_matmul_precision(precision)


@contextmanager
def exact_float() -> Iterator[None]:
    """Switch off everything that makes float products and convolutions of integers inexact.

    May be entered from several threads and nested: what torch keeps for the whole process stays
    off until the last one leaves.
    """
    _enter_exact()
    try:
        with (
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        _leave_exact()


class TorchRuntime:
    """Plain torch operations on float-carried integers, on any device.

    Parameters
    ----------
    program : Program
        The integer network.
    device : str
        Torch device.
    carrier : torch.dtype
        ``float32`` (sums below 2^24 are proven) or ``float64`` (slow and obvious).
    """

    def __init__(
        self, program: Program, device: str = "cpu", carrier: torch.dtype = torch.float32
    ) -> None:
        self.program, self.device, self.carrier = program, torch.device(device), carrier
        self._tensors: dict[str, torch.Tensor] = {}
        self.given: dict[str, torch.Tensor] = {}  # registers beside "x", of every call
        self.steps = list(program.steps)  # that are done at every call
        self._dying = last_uses(program.steps)
        tables = {step.table for step in program.steps}
        for name, array in program.tensors.items():
            prefix, _, part = name.rpartition(".")
            if name not in tables and prefix not in {s.name for s in program.steps}:
                continue
            tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
            kind = "table" if name in tables else part
            if kind in ("weight", "bias", "table"):
                tensor = tensor.to(carrier)
            elif kind == "shift":
                scale = np.ldexp(1.0, -array.astype(np.int64))  # powers of two: exact
                tensor = torch.from_numpy(scale).to(self.device, carrier).view(-1, 1, 1)
            else:
                tensor = tensor.long()
            if kind == "weight" and carrier == torch.float32:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self._tensors[name] = tensor

    def __call__(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Run the network on integer tiles (b, slices, tile, tile); int32 in, int32 out."""
        (out,) = self.registers(x, level, (self.program.steps[-1].out,))
        return out.to(torch.int32)

    def registers(self, x: torch.Tensor, level: int, names: Sequence[str]) -> list[torch.Tensor]:
        """What the network writes into some registers on its way, integers in the carrier."""
        with exact_float():
            registers: dict[str, torch.Tensor] = {"x": x.to(self.device, self.carrier)}
            registers.update(self.given)
            kept: dict[str, torch.Tensor] = {}
            for step, dying in zip(self.steps, self._dying, strict=True):
                registers[step.out] = getattr(self, "_" + step.op)(step, registers, level)
                if step.out in names:
                    kept[step.out] = registers[step.out]
                for name in dying:
                    del registers[name]
            return [kept[name] for name in names]

    def _unfold(self, step: Step, r: dict[str, Any], level: int) -> torch.Tensor:
        return F.pixel_unshuffle(r[step.inputs[0]], step.factor)

    def _fold(self, step: Step, r: dict[str, Any], level: int) -> torch.Tensor:
        return F.pixel_shuffle(r[step.inputs[0]], step.factor)

    def _concat(self, step: Step, r: dict[str, Any], level: int) -> torch.Tensor:
        return torch.cat([r[name] for name in step.inputs], 1)

    def _norm_act(self, step: Step, r: dict[str, Any], level: int) -> torch.Tensor:
        x = r[step.inputs[0]].double()
        b, channels, height, width = x.shape
        n = channels // step.groups * height * width
        grouped = x.reshape(b, step.groups, -1)
        s1, s2 = grouped.sum(2).long(), (grouped * grouped).sum(2).long()
        gamma = self._tensors[f"{step.name}.gamma"].view(1, step.groups, -1)
        beta = self._tensors[f"{step.name}.beta"].view(1, step.groups, -1)
        multiplier, offset = norm_affine(s1, s2, n, step.epsilon, gamma, beta)
        shape = (b, channels, 1, 1)
        products = x * multiplier.double().view(shape) + offset.double().view(shape)
        return self._activated(step, torch.floor(products * 2.0**-NORM_BITS))

    def _activated(self, step: Step, value: torch.Tensor) -> torch.Tensor:
        """Look integers up in the table of a step."""
        index = (value + TABLE_HALF).clamp_(0, 2 * TABLE_HALF - 1).long()
        return self._tensors[step.table][index].clamp_max_(step.limit)

    def _attention(self, step: Step, r: dict[str, Any], level: int) -> torch.Tensor:
        b, channels, height, width = r[step.inputs[0]].shape
        tokens, table = height * width, self._tensors[step.table].double()
        q, k, v = (
            r[name].reshape(b * step.heads, -1, tokens).transpose(1, 2) for name in step.inputs
        )
        group = max(1, SCORES_AT_ONCE // tokens**2)
        parts = [slice(i, i + group) for i in range(0, len(q), group)]
        out = torch.cat([attend(q[p], k[p], v[p], step.shift, table) for p in parts])
        return out.transpose(1, 2).reshape(b, channels, height, width).to(self.carrier)

    def _conv(self, step: Step, r: dict[str, Any], level: int) -> torch.Tensor:
        x = r[step.inputs[0]]
        if step.quant is not None:
            shift, lo, hi = step.quant
            half = 2.0 ** (shift - 1) if shift > 0 else 0.0
            x = torch.floor((x + half) * 2.0**-shift).clamp_(lo, hi)
        if step.upsample:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        bias = self._tensors[f"{step.name}.bias"]
        row = bias[level if len(bias) > 1 else 0]
        sums = F.conv2d(x, self._tensors[f"{step.name}.weight"], row, step.stride, step.pad)
        y = torch.floor(sums * self._tensors[f"{step.name}.shift"]).clamp_(-step.limit, step.limit)
        if step.add is not None:
            y = (y + r[step.add]).clamp_(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)
        return y


def last_uses(steps: Sequence[Step]) -> list[list[str]]:
    """Registers that no later step reads, per step, so that memory is given back early."""
    last: dict[str, int] = {}
    for number, step in enumerate(steps):
        for name in (*step.inputs, *([step.add] if step.add else [])):
            last[name] = number
    dying: list[list[str]] = [[] for _ in steps]
    for name, number in last.items():
        dying[number].append(name)
    return dying
