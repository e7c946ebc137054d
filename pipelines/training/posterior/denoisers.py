"""What the denoiser of a domain gives a posterior network to begin with.

Both are `ResidualTrunk` with other ends, so all between the ends is taken as it is. A posterior
network is told a quantiser step where a denoiser is told a noise level; it begins by taking one for
the other.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from pipelines.training.posterior.domains import Domain, tabulated_steps
from pipelines.training.recipe import Recipe
from pipelines.training.warm_start import fit_linear, float_network
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import load_prior
from psc_volumetric.prior.making.posterior_net import FIRST_LOG_VARIANCE, PosteriorNet
from psc_volumetric.prior.making.residual_unet import ResidualUNet

__all__ = ["begin_as_denoiser", "load_denoiser", "noise_time"]

RANGE = 2.0  # the intensity range as a denoiser sees it
ENDS = 0.998 * math.pi / 2  # see `pipelines.training.train.cosine_alpha`
RIDGE = 1e-4
SMALLER = (4.0, 8.0, 8.0)  # what resolutions hold, so that it is about as large as in other starts


def load_denoiser(domain: str) -> ResidualUNet:
    """The denoiser of a domain as floats: (b, slices, h, w), t (b,) in 0..1000 -> velocity.

    Raises
    ------
    ParameterError
        Its prior is of another family (kind ``"bad-start"``).
    """
    recipe = Recipe.load(domain)
    net: Any = float_network(load_prior(domain), recipe.architecture)
    found: ResidualUNet = net.eval().requires_grad_(False)
    return found


def noise_time(deviation: float) -> float:
    """Time (0..1) at which noise has so large a deviation, beside samples of -1 .. 1."""
    return math.atan(deviation) / ENDS


def begin_as_denoiser(net: PosteriorNet, domain: Domain) -> PosteriorNet:
    """Give a posterior network the weights of its domain's denoiser, in place.

    Its slices are the middle ones of the denoiser's, which it sees in shares of the range; what it
    sees in steps begins with no weight. The correction begins as the noise that the denoiser finds.

    Raises
    ------
    ParameterError
        The denoiser has other channels or blocks, or fewer slices (kind ``"bad-start"``).
    """
    trunk: Any = load_denoiser(domain.name)
    slices, seen = net.shape.slices, trunk.conv_in.in_channels
    theirs = {k: v for k, v in trunk.state_dict().items() if not _is_end(k)}
    ours = {k: v for k, v in net.state_dict().items() if not _is_end(k)}
    if slices > seen or _shapes(theirs) != _shapes(ours):
        raise ParameterError(
            f"{domain.name}: expected channels and blocks of the denoiser and at most {seen} "
            f"slices, found {net.shape.channels}, {net.shape.blocks} and {slices} slices",
            kind="bad-start",
        )
    net.load_state_dict(theirs, strict=False)
    first = (seen - slices) // 2
    middle = first + slices // 2
    ends: Any = (net.conv_in, net.conv_out)
    share = math.exp(FIRST_LOG_VARIANCE / 2)  # noise of deviation 1 in steps
    with torch.no_grad():
        ends[0].weight[:, :slices] = 0
        ends[0].weight[:, slices:] = trunk.conv_in.weight[:, first : first + slices]
        ends[0].bias.copy_(trunk.conv_in.bias)
        ends[1].weight[0] = -share * trunk.conv_out.weight[middle]
        ends[1].bias[0] = -share * trunk.conv_out.bias[middle]
    _retime(net, trunk, domain)
    _rescale(net)
    return net


def _is_end(name: str) -> bool:
    return name.startswith(("conv_in.", "conv_out.", "depth."))


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _retime(net: PosteriorNet, trunk: Any, domain: Domain) -> None:
    """Let steps give the biases that the denoiser has for noise as strong as their error."""
    steps = torch.tensor(tabulated_steps(domain))
    deviations = RANGE * math.exp(FIRST_LOG_VARIANCE / 2) * steps
    times = torch.tensor([1000 * noise_time(float(one)) for one in deviations])
    with torch.no_grad():
        embedded = net.embedding(steps, torch.zeros(len(steps), dtype=torch.long))
        noisy = trunk.embedding(times)
        for name, layer in net.named_modules():
            if name.endswith(".time"):
                table = layer(noisy).double().numpy()
                weight, bias = fit_linear(embedded.double().numpy(), table, RIDGE)
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))


def _rescale(net: PosteriorNet) -> None:
    """Let every resolution hold less, with the same outputs.

    Convolutions and ReLU leave that open; a rate of learning is right for one scale alone.
    """
    scales = [SMALLER[min(i, len(SMALLER) - 1)] for i in range(len(net.down))]
    _scale(net.conv_in, 1 / scales[0], 1 / scales[0])
    _scale(net.conv_out, scales[0], 1)
    for side in (net.down, net.up):
        for blocks, scale in zip(side, scales, strict=False):
            for block in blocks:  # type: ignore[attr-defined]
                _scale(block.conv1, scale, 1)
                _scale(block.conv2, 1 / scale, 1 / scale)
    for i, (fine, coarse) in enumerate(itertools.pairwise(scales)):
        _scale(net.shrink[i], fine / coarse, 1 / coarse)
        _scale(net.grow[i], coarse / fine, 1 / fine)
        _scale(net.merge[i], 1, 1 / fine)


def _scale(layer: Any, weight: float, bias: float) -> None:
    with torch.no_grad():
        layer.weight.mul_(weight)
        layer.bias.mul_(bias)
