"""The float network behind a shipped prior, to go on training from: `convert` read backwards.

Integer weights stand for floats on a power-of-two grid, so a prior made by `make_prior` gives
its network back to within the rounding of its conversion. Time embeddings were tabulated per
noise level; they are fitted again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.architecture import Architecture, build_network

if TYPE_CHECKING:
    import torch

    from psc_volumetric.prior import Prior

__all__ = ["float_network"]

SAMPLE_BITS = 11
GAMMA_BITS, BETA_BITS = 16, 32
RIDGE = 1e-4  # share of the features' power; keeps times between the tabulated levels smooth


def float_network(prior: Prior, architecture: Architecture) -> torch.nn.Module:
    """Build the float network that a prior was converted from.

    Parameters
    ----------
    prior : Prior
        Made by `make_prior` from a folded MONAI network without attention.
    architecture : Architecture
        Its architecture.

    Returns
    -------
    torch.nn.Module
        As from `build_network`, training mode.

    Raises
    ------
    ParameterError : the prior has another architecture, or attention (kind ``"bad-start"``).
    """
    import torch

    if any(step.op == "attention" for step in prior.program.steps):
        raise ParameterError(
            f"expected a prior without attention to start from, found {prior.name!r}",
            kind="bad-start",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the time embedding stays as it begins; what follows is fitted to it
        net = build_network(architecture)
    unet: Any = net.unet
    reader = _Reader(prior, architecture)
    shortcuts: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    with torch.no_grad():
        embedded = _embedded(unet, architecture, prior.levels)
        for step in prior.program.steps:
            if step.op == "norm_act":
                _copy(_module(unet, step.name), reader.norm(step))
            elif step.op == "conv":
                weight, bias = reader.conv(step)
                if ".skip" in step.name:  # one convolution per input of a concat, in their order
                    shortcuts.setdefault(step.name[:-1], []).append((weight, bias[0]))
                    continue
                module = _module(unet, step.name)
                if len(bias) == 1:
                    _copy(module, (weight, bias[0]))
                    continue
                _copy(module, (weight, np.zeros(bias.shape[1])))
                _copy(_resnet(unet, step.name).time_emb_proj, _fit(embedded, bias))
        for name, parts in shortcuts.items():
            weights, biases = zip(*parts, strict=True)
            _copy(_module(unet, name), (np.concatenate(weights, axis=1), sum(biases)))
    return net


class _Reader:
    """Integers of a prior as floats; finds out the fraction bits of every register."""

    def __init__(self, prior: Prior, architecture: Architecture) -> None:
        self.program, self.eps = prior.program, 1e-6
        self.size = {"x": architecture.tile}
        self.channels = {"x": architecture.slices}
        self.bits: dict[str, int] = {}
        for step in self.program.steps:
            self._measure(step)
            if step.op == "norm_act":
                source = step.inputs[0]
                elements = self.channels[source] // step.groups * self.size[source] ** 2
                self.bits[source] = round(math.log(step.epsilon / (self.eps * elements**2), 4))
                self.bits[step.out] = int(step.table.rsplit(".", 1)[1])
            elif step.op == "unfold":
                self.bits[step.out] = SAMPLE_BITS
        self._join()
        for step in self.program.steps:  # nothing normalises the rest: any scale says the same
            self.bits.setdefault(step.out, SAMPLE_BITS)
        last = self.program.steps[-1]
        self.bits["x"] = SAMPLE_BITS
        for register in {last.out, last.inputs[0] if last.op == "fold" else last.out}:
            self.bits[register] = self.program.out_bits

    def _join(self) -> None:
        """Registers that are added or concatenated have the same fraction bits."""
        joined: list[tuple[str, ...]] = [(s.out, s.add) for s in self.program.steps if s.add]
        joined += [(s.out, *s.inputs) for s in self.program.steps if s.op == "concat"]
        for _ in joined:
            for group in joined:
                known = next((self.bits[r] for r in group if r in self.bits), None)
                if known is not None:
                    self.bits.update(dict.fromkeys(group, known))

    def _measure(self, step: Any) -> None:
        source = step.inputs[0]
        size, channels = self.size[source], self.channels[source]
        if step.op == "unfold":
            size, channels = size // step.factor, channels * step.factor**2
        elif step.op == "fold":
            size, channels = size * step.factor, channels // step.factor**2
        elif step.op == "concat":
            channels += self.channels[step.inputs[1]]
        elif step.op == "conv":
            size = size * (2 if step.upsample else 1) // step.stride
            channels = len(self.program.tensors[f"{step.name}.weight"])
        self.size[step.out], self.channels[step.out] = size, channels

    def norm(self, step: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(gamma, beta) of a normalisation."""
        gamma, beta = (self.program.tensors[f"{step.name}.{n}"] for n in ("gamma", "beta"))
        return gamma.astype(np.float64) / 2**GAMMA_BITS, beta.astype(np.float64) / 2**BETA_BITS

    def conv(self, step: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (O, I, k, k) and biases (1 or levels, O) of a convolution."""
        weight, shift, bias = (
            self.program.tensors[f"{step.name}.{n}"].astype(np.float64)
            for n in ("weight", "shift", "bias")
        )
        source = self.bits[step.inputs[0]] - (step.quant[0] if step.quant else 0)
        out = self.bits[step.out]
        half = np.where(shift > 0, np.exp2(shift - 1), 0)
        exponent = shift + out - source
        return weight / np.exp2(exponent).reshape(-1, 1, 1, 1), (bias - half) / np.exp2(out + shift)


def _resnet(unet: Any, name: str) -> Any:
    block, number, _ = name.split(".")
    if block == "middle":
        return getattr(unet.middle_block, f"resnet_{int(number) + 1}")
    side = unet.down_blocks if block.startswith("down") else unet.up_blocks
    return side[int(block.lstrip("downup"))].resnets[int(number)]


def _module(unet: Any, name: str) -> Any:
    """The layer that `psc_volumetric.prior.frontends.from_monai` gave this name."""
    fixed = {"conv_in": "conv_in.conv", "conv_out": "out.2.conv", "norm_out": "out.0"}
    if name in fixed:
        return unet.get_submodule(fixed[name])
    block, part = name.split(".")[0], name.split(".")[-1]
    if part == "pool":
        return unet.down_blocks[int(block.removeprefix("down"))].downsampler.op.conv
    if part == "grow":
        return unet.up_blocks[int(block.removeprefix("up"))].upsampler.postconv.conv
    where = {"skip": "skip_connection.conv", "conv1": "conv1.conv", "conv2": "conv2.conv"}
    return _resnet(unet, name).get_submodule(where.get(part, part))


def _embedded(unet: Any, architecture: Architecture, levels: int) -> NDArray[np.float64]:
    """(levels, features) activated time embedding of every noise level."""
    import torch
    from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

    stamps = torch.tensor([1000.0 * (i + 1) / levels for i in range(levels)])
    features = unet.time_embed(get_timestep_embedding(stamps, architecture.channels[0]))
    found: NDArray[np.float64] = torch.nn.functional.silu(features).double().numpy()
    return found


def _fit(
    embedded: NDArray[np.float64], table: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (O, features) and bias (O,) of the linear layer nearest to a (levels, O) table."""
    centre, target = embedded.mean(0), table.mean(0)
    x, y = embedded - centre, table - target
    kernel = x @ x.T
    kernel += RIDGE * np.trace(kernel) / len(x) * np.eye(len(x))
    weight = (x.T @ np.linalg.solve(kernel, y)).T
    return weight, target - weight @ centre


def _copy(module: Any, values: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    import torch

    for parameter, value in zip((module.weight, module.bias), values, strict=True):
        if tuple(parameter.shape) != value.shape:
            raise ParameterError(
                f"expected a prior of the recipe's architecture to start from, found a layer of "
                f"{value.shape} instead of {tuple(parameter.shape)}",
                kind="bad-start",
            )
        parameter.copy_(torch.from_numpy(value))
