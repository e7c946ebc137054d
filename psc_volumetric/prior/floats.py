"""Float networks as straight-line programs: what is measured and then converted to integers.

In the vocabulary of :mod:`psc_volumetric.prior.step`. Only training and conversion use this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = ["Denoising", "FloatProgram", "FloatStep"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class FloatStep:
    """A step before quantisation; see :class:`psc_volumetric.prior.step.Step`.

    ``bias`` is (1 or levels, O): the time embedding of each noise level is already added.
    ``activation`` is ``"silu"`` or ``"linear"`` (normalisation alone). ``relu``: a convolution
    reads the positive part of its input; in integers, a grid that starts at 0. Attention weighs
    with powers of two: log2(e) and the score's scale are part of the convolution that makes q.
    """

    op: str
    out: str
    inputs: tuple[str, ...]
    name: str = ""
    factor: int = 1
    weight: Tensor | None = None
    bias: Tensor | None = None
    stride: int = 1
    upsample: bool = False
    relu: bool = False
    add: str | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None
    groups: int = 1
    eps: float = 1e-5
    activation: str = "silu"
    heads: int = 1


@dataclass
class FloatProgram:
    """Float steps plus the input shape; runs in float64 for measuring."""

    slices: int
    tile: int
    levels: int
    steps: list[FloatStep] = field(default_factory=list)

    def run(
        self, x: Tensor, level: int, observe: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Run on (b, slices, tile, tile); ``observe(register, value)`` sees every register."""
        registers = {"x": x}
        with torch.no_grad():
            for step in self.steps:
                value = _run_step(step, registers, level)
                registers[step.out] = value
                if observe is not None:
                    observe(step.out, value)
        return registers[self.steps[-1].out]

    def single(self) -> FloatProgram:
        """Copy in float32, for measuring many tiles."""

        def cast(value: Any) -> Any:
            return value.float() if isinstance(value, torch.Tensor) else value

        steps = [FloatStep(**{k: cast(v) for k, v in vars(step).items()}) for step in self.steps]
        return FloatProgram(self.slices, self.tile, self.levels, steps)


@dataclass(frozen=True)
class Denoising:
    """A float network with the schedule it was trained for.

    Attributes
    ----------
    program : FloatProgram
        The network.
    alpha : (levels,) float64
        Signal amplitude of every noise level, level 0 cleanest.
    prediction : str
        ``"v"`` or ``"epsilon"``.
    """

    program: FloatProgram
    alpha: NDArray[np.float64]
    prediction: str


def _run_step(step: FloatStep, r: dict[str, Tensor], level: int) -> Tensor:
    x = r[step.inputs[0]]
    if step.op == "unfold":
        return F.pixel_unshuffle(x, step.factor)
    if step.op == "fold":
        return F.pixel_shuffle(x, step.factor)
    if step.op == "concat":
        return torch.cat([r[name] for name in step.inputs], 1)
    if step.op == "norm_act":
        assert step.gamma is not None and step.beta is not None
        normed = F.group_norm(x, step.groups, step.gamma, step.beta, step.eps)
        return F.silu(normed) if step.activation == "silu" else normed
    if step.op == "attention":
        q, k, v = (r[name] for name in step.inputs)
        return torch.stack([_attend(*tile, step.heads) for tile in zip(q, k, v, strict=True)])
    assert step.weight is not None and step.bias is not None
    if step.relu:
        x = F.relu(x)
    if step.upsample:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    row = step.bias[level if len(step.bias) > 1 else 0]
    y = F.conv2d(x, step.weight, row, step.stride, step.weight.shape[-1] // 2)
    return y if step.add is None else y + r[step.add]


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """q, k, v (channels, height, width) of one tile, which bounds the memory for scores."""
    rows = (t.reshape(heads, -1, t.shape[1] * t.shape[2]).transpose(1, 2) for t in (q, k, v))
    queries, keys, values = rows
    weights = torch.softmax(queries @ keys.transpose(1, 2) * math.log(2), 2)
    return (weights @ values).transpose(1, 2).reshape(v.shape)
