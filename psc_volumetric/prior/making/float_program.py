"""Float networks as straight-line programs: what is measured and then converted to integers.

In the vocabulary of :mod:`psc_volumetric.prior.step`. Only training and conversion use this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "Builder", "Denoising", "FloatProgram", "FloatStep"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class FloatStep:
    """A step before quantisation; see :class:`psc_volumetric.prior.step.Step`.

    ``bias`` is (1 or levels, O): the time embedding of each noise level is already added.
    ``activation`` is one of `ACTIVATIONS`; ``"linear"`` is normalisation alone. ``relu``: a conv
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
    causal: bool = False


@dataclass
class FloatProgram:
    """Float steps plus the input shape; runs in float64 for measuring.

    ``outputs`` are those of an estimator, 0 for a denoiser; ``out_tile`` is the extent of what half
    of an autoencoder gives, 0 for others. ``text``: (width, tokens) of the register that a network
    reads its prompt from.
    """

    slices: int
    tile: int
    levels: int
    steps: list[FloatStep] = field(default_factory=list)
    outputs: int = 0
    out_tile: int = 0
    text: tuple[int, int] | None = None

    def run(
        self,
        x: Tensor,
        level: int,
        observe: Callable[[str, Tensor], None] | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """Run on (b, slices, tile, tile); ``observe(register, value)`` sees every register.

        ``text``: (1, width, tokens, 1).
        """
        registers = {"x": x} if text is None else {"x": x, "text": text}
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
        return replace(self, steps=steps)


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
    classes : tuple of str
        Of a class-conditional network: its names, in the order of its levels.
    """

    program: FloatProgram
    alpha: NDArray[np.float64]
    prediction: str
    classes: tuple[str, ...] = ()


class Builder:
    """Collects steps; registers are numbered, tensors named after their module.

    ``embeddings``: (levels, features) activated time embedding of every noise level.
    """

    def __init__(self, program: FloatProgram, embeddings: Tensor | None) -> None:
        self.program, self.embeddings, self.count = program, embeddings, 0

    def _register(self) -> str:
        self.count += 1
        return f"r{self.count}"

    def emit(self, op: str, inputs: Sequence[str], **fields: Any) -> str:
        """Append a step; returns the register it writes."""
        out = self._register()
        self.program.steps.append(FloatStep(op, out, tuple(inputs), **fields))
        return out

    def conv(self, name: str, module: Any, source: str, **fields: Any) -> str:
        """A convolution, or a linear layer as one of kernel 1; ``scale`` multiplies its output."""
        time, scale = fields.pop("time", None), fields.pop("scale", 1.0)
        weight = module.weight.detach().double() * scale
        if weight.ndim == 2:
            weight = weight[:, :, None, None]
        bias = torch.zeros(1, len(weight)).double()
        if module.bias is not None:
            bias = module.bias.detach().double()[None] * scale
        if time is not None:
            assert self.embeddings is not None
            projected = self.embeddings @ time.weight.detach().double().T
            bias = bias + projected + time.bias.detach().double()
        return self.emit("conv", [source], name=name, weight=weight, bias=bias, **fields)

    def norm(self, name: str, module: Any, source: str, activation: str = "silu") -> str:
        """A group normalisation with its activation."""
        return self.emit(
            "norm_act",
            [source],
            name=name,
            gamma=module.weight.detach().double(),
            beta=module.bias.detach().double(),
            groups=module.num_groups,
            eps=module.eps,
            activation=activation,
        )

    def layer_norm(self, name: str, module: Any, source: str) -> str:
        """A normalisation of every pixel over its channels."""
        gamma, beta = module.weight.detach().double(), module.bias.detach().double()
        fields = {"gamma": gamma, "beta": beta, "eps": module.eps, "activation": "linear"}
        return self.emit("layer_norm", [source], name=name, **fields)

    def shortcut(self, name: str, module: Any, sources: Sequence[str]) -> str:
        """A 1 x 1 convolution of concatenated registers, one after the other.

        Registers of different size then each get the input grid that suits them.
        """
        made = {s.out: s.weight for s in self.program.steps if s.weight is not None}
        widths = [len(made[register]) for register in sources]
        weights = module.weight.detach().double().split(widths, 1)
        bias, out = module.bias.detach().double()[None], None
        for number, (source, weight) in enumerate(zip(sources, weights, strict=True)):
            fields = {"weight": weight, "bias": bias if number == 0 else 0 * bias, "add": out}
            out = self.emit("conv", [source], name=f"{name}{number}", **fields)
        assert out is not None
        return out

    def attend(self, name: str, norm: Any, layers: Any, heads: int, source: str) -> str:
        """Self-attention over pixels with its residual; ``layers`` makes q, k, v and the output."""
        to_q, to_k, to_v, out = layers
        h = self.norm(f"{name}.norm", norm, source, "linear")
        scale = math.log2(math.e) / math.sqrt(to_q.weight.shape[0] // heads)
        q = self.conv(f"{name}.q", to_q, h, scale=scale)
        k, v = self.conv(f"{name}.k", to_k, h), self.conv(f"{name}.v", to_v, h)
        a = self.emit("attention", [q, k, v], heads=heads)
        return self.conv(f"{name}.out", out, a, add=source)


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
        return ACTIVATIONS[step.activation](normed)
    if step.op == "attention":
        q, k, v = (r[name] for name in step.inputs)
        return torch.stack([_attend(*tile, step.heads) for tile in zip(q, k, v, strict=True)])
    if step.op in TOKEN_STEPS:
        made: Tensor = TOKEN_STEPS[step.op](step, *(r[name] for name in step.inputs))
        return made
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


def _layer_norm(step: FloatStep, x: Tensor) -> Tensor:
    assert step.gamma is not None
    normed = F.layer_norm(x.movedim(1, -1), step.gamma.shape, step.gamma, step.beta, step.eps)
    made: Tensor = ACTIVATIONS[step.activation](normed.movedim(-1, 1))
    return made


def _look(step: FloatStep, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = (t.flatten(2).unflatten(1, (step.heads, -1)).transpose(2, 3) for t in (q, k, v))
    queries, keys, values = rows
    scores = queries @ keys.transpose(2, 3) * math.log(2)
    if step.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    mixed: Tensor = torch.softmax(scores, 3) @ values
    return mixed.transpose(2, 3).reshape(len(scores), *q.shape[1:])


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "linear": lambda x: x,
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
TOKEN_STEPS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "activate": lambda step, x: ACTIVATIONS[step.activation](x),
    "multiply": lambda step, a, b: a * b,
    "attend": _look,
}
