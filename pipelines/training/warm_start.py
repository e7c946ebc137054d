"""The float network behind a shipped prior, to go on training from: `convert` read backwards.

Integer weights stand for floats on a power-of-two grid, so a prior made by `make_prior` gives
its network back to within the rounding of its conversion. Two things are chosen anew: the scale of
each register, which a network of convolutions and ReLU leaves open, and the time embedding, which
was tabulated per noise level and is fitted again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.bitstream.constants import SAMPLE_FRACTION_BITS
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.bundle import CONDITION_BITS
from psc_volumetric.prior.making.networks import Architecture, build_network

if TYPE_CHECKING:
    import torch

    from psc_volumetric.prior import Prior
    from psc_volumetric.prior.making.posterior_net import PosteriorNet

__all__ = ["fit_linear", "float_network", "posterior_network"]

DEPTH_SPREAD = 0.5  # of what is added to the waves of a step, whose power is a half
RIDGE = 1e-4  # share of the features' power; keeps times between the tabulated levels smooth
LITTLE_RIDGE = 1e-6  # where levels are pairs of few steps and depths

Floats = NDArray[np.float64]


def float_network(prior: Prior, architecture: Architecture) -> torch.nn.Module:
    """Build the float network that a prior was converted from.

    Parameters
    ----------
    prior : Prior
        Made by `make_prior` from a network of family ``"residual"``.
    architecture : Architecture
        Its architecture.

    Returns
    -------
    torch.nn.Module
        As from `build_network`, training mode.

    Raises
    ------
    ParameterError : the prior is of another architecture or family (kind ``"bad-start"``).
    """
    import torch

    if architecture.family != "residual":
        raise _not_this("a recipe of family 'residual'", repr(architecture.family))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the time embedding stays as it begins; what follows is fitted to it
        net: Any = build_network(architecture)
    stamps = torch.tensor([1000.0 * (i + 1) / prior.levels for i in range(prior.levels)])
    trained: torch.nn.Module = _filled(net, prior, (stamps,))
    return trained


def posterior_network(prior: Prior) -> PosteriorNet:
    """Build the float network that a posterior network was converted from.

    Parameters
    ----------
    prior : Prior
        Made by ``convert`` of `pipelines.training.posterior`; its card tells its shape.

    Returns
    -------
    PosteriorNet
        Training mode.

    Raises
    ------
    ParameterError : it is not one (kind ``"bad-start"``).
    """
    import torch

    from psc_volumetric.prior.making.posterior_net import (
        DEPTHS,
        FORESEEN,
        PosteriorNet,
        PosteriorShape,
    )

    told = prior.metadata.get("training", {}).get("shape")
    if prior.kind != "posterior" or told is None:
        raise _not_this("a posterior network with its shape", f"{prior.name!r}, {prior.kind}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = PosteriorNet(PosteriorShape.from_dict(told))
        torch.nn.init.normal_(net.depth.weight, std=DEPTH_SPREAD)  # or all depths were one
    steps = torch.from_numpy(prior.steps / 2.0**CONDITION_BITS).float()
    if not net.shape.foresees:  # coarser planes are told apart from now on, and seen alike at first
        net.shape = replace(net.shape, foresees=True)
        steps = torch.cat([steps, FORESEEN * steps])
    depths = torch.arange(DEPTHS).repeat(len(steps))
    filled: PosteriorNet = _filled(
        net, prior, (steps.repeat_interleave(DEPTHS), depths), LITTLE_RIDGE
    )
    return filled


def _filled(
    net: Any, prior: Prior, conditions: tuple[torch.Tensor, ...], ridge: float = RIDGE
) -> Any:
    """The network with weights of a prior, whose levels are these conditions."""
    import torch

    reader = _Reader(prior)
    with torch.no_grad():
        embedded = net.embedding(*conditions).double().numpy()
        for step in prior.program.steps:
            if step.op in ("fold", "unfold"):
                continue
            if step.op != "conv":
                raise _not_this("convolutions alone", f"a step {step.op!r}")
            module, time = _modules(net, step.name)
            weight, bias = reader.conv(step)
            if time is None:
                _copy(module, (weight, bias[0]))
            else:
                _copy(module, (weight, np.zeros(bias.shape[1])))
                tables = np.tile(bias, (len(embedded) // len(bias), 1))
                _copy(time, fit_linear(embedded, tables, ridge))
    return net


class _Reader:
    """Integers of a prior as floats, and fraction bits of every register.

    A register's bits are such that the weights which make it are about as large as fresh ones.
    """

    def __init__(self, prior: Prior) -> None:
        self.program = prior.program
        self.bits: dict[str, int] = {"x": SAMPLE_FRACTION_BITS}
        last = self.program.steps[-1]
        fixed = {last.out, last.inputs[0]} if last.op == "fold" else {last.out}
        self.bits.update(dict.fromkeys(fixed, self.program.out_bits))
        for step in self.program.steps:
            if step.op == "conv":
                self.bits.setdefault(step.out, self._chosen(step))
            else:
                self.bits.setdefault(step.out, self.bits[step.inputs[0]])

    def _chosen(self, step: Any) -> int:
        if step.add:
            return self.bits[step.add]
        weight, shift, _ = self._tensors(step)
        scaled = weight * np.exp2(-shift).reshape(-1, 1, 1, 1)
        usual = math.sqrt(2 / weight[0].size)
        ratio = math.sqrt(float((scaled**2).mean())) / usual
        return self._source(step) + round(math.log2(max(ratio, 1e-9)))

    def _tensors(self, step: Any) -> tuple[Floats, Floats, Floats]:
        names = (f"{step.name}.{part}" for part in ("weight", "shift", "bias"))
        weight, shift, bias = (self.program.tensors[n].astype(np.float64) for n in names)
        return weight, shift, bias

    def _source(self, step: Any) -> int:
        return self.bits[step.inputs[0]] - (step.quant[0] if step.quant else 0)

    def conv(self, step: Any) -> tuple[Floats, Floats]:
        """Weights (O, I, k, k) and biases (1 or levels, O) of a convolution."""
        weight, shift, bias = self._tensors(step)
        out = self.bits[step.out]
        half = np.where(shift > 0, np.exp2(shift - 1), 0)
        exponent = shift + out - self._source(step)
        return weight / np.exp2(exponent).reshape(-1, 1, 1, 1), (bias - half) / np.exp2(out + shift)


def _modules(net: Any, name: str) -> tuple[Any, Any]:
    """The layer that `prior.making.frontends` named so, and its time layer or None."""
    try:
        if "." not in name:
            kind = name.rstrip("0123456789")
            number = name[len(kind) :]
            return (getattr(net, kind)[int(number)] if number else getattr(net, kind)), None
        side, number, part = name.split(".")
        kind = side.rstrip("0123456789")
        block = getattr(net, kind)[int(side[len(kind) :])][int(number)]
        return getattr(block, part), block.time if part == "conv1" else None
    except (AttributeError, IndexError, ValueError) as error:
        raise _not_this("a prior of the recipe's architecture", f"a layer {name!r}") from error


def fit_linear(embedded: Floats, table: Floats, ridge: float) -> tuple[Floats, Floats]:
    """Weights (O, features) and bias (O,) of the linear layer nearest to a (levels, O) table."""
    centre, target = embedded.mean(0), table.mean(0)
    x, y = embedded - centre, table - target
    kernel = x @ x.T
    kernel += ridge * np.trace(kernel) / len(x) * np.eye(len(x))
    weight = (x.T @ np.linalg.solve(kernel, y)).T
    return weight, target - weight @ centre


def _copy(module: Any, values: tuple[Floats, Floats]) -> None:
    import torch

    for parameter, value in zip((module.weight, module.bias), values, strict=True):
        if tuple(parameter.shape) != value.shape:
            raise _not_this(
                "a prior of the recipe's architecture",
                f"a layer of {value.shape} instead of {tuple(parameter.shape)}",
            )
        parameter.copy_(torch.from_numpy(value))


def _not_this(expected: str, found: str) -> ParameterError:
    return ParameterError(f"to start from: expected {expected}, found {found}", kind="bad-start")
