"""Steps of the project's own residual networks: denoisers, and posterior networks.

Halving is an unfold and a 1 x 1 convolution, doubling a 1 x 1 convolution and a fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from psc_volumetric.prior.making.float_program import Builder, FloatProgram
from psc_volumetric.prior.making.networks import Architecture
from psc_volumetric.prior.making.posterior_net import DEPTHS, OUTPUTS, PosteriorNet

__all__ = ["from_posterior", "from_residual"]


def from_residual(
    net: torch.nn.Module, architecture: Architecture, times: Sequence[float]
) -> FloatProgram:
    """Steps of a `ResidualUNet`; arguments as of `frontends.from_trained`."""
    module: Any = net
    a = architecture
    with torch.no_grad():
        embedded = module.embedding(torch.tensor([1000.0 * t for t in times])).double()
    program = FloatProgram(a.slices, a.tile, len(times))
    b = Builder(program, embedded)
    h = b.emit("unfold", ["x"], factor=a.fold) if a.fold > 1 else "x"
    h = _trunk(b, module, h)
    if a.fold > 1:
        b.emit("fold", [h], factor=a.fold)
    return program


def from_posterior(net: PosteriorNet, steps: Sequence[float], *, tile: int) -> FloatProgram:
    """Steps of a posterior network, on its `features`; two channels come out.

    Parameters
    ----------
    net : PosteriorNet
        Trained.
    steps : sequence of float
        Quantiser steps to tabulate, shares of the intensity range. Level ``DEPTHS * i + d`` of the
        program is ``steps[i]`` with ``d`` splits of z.
    tile : int
        Extent of the planes it runs on.
    """
    levels = [(step, depth) for step in steps for depth in range(DEPTHS)]
    with torch.no_grad():
        each = torch.tensor([step for step, _ in levels])
        embedded = net.embedding(each, torch.tensor([depth for _, depth in levels])).double()
    program = FloatProgram(net.conv_in.in_channels, tile, len(levels), outputs=OUTPUTS)
    _trunk(Builder(program, embedded), net, "x")
    return program


def _trunk(b: Builder, module: Any, h: str) -> str:
    """Steps of a `ResidualTrunk` from register ``h``."""

    def block(name: str, m: Any, x: str) -> str:
        h = b.conv(f"{name}.conv1", m.conv1, x, time=m.time, relu=True)
        return b.conv(f"{name}.conv2", m.conv2, h, relu=True, add=x)

    h = b.conv("conv_in", module.conv_in, h)
    skips = []
    for i, blocks in enumerate(module.down):
        for j, m in enumerate(blocks):
            h = block(f"down{i}.{j}", m, h)
        if i < len(module.shrink):
            skips.append(h)
            h = b.conv(f"shrink{i}", module.shrink[i], b.emit("unfold", [h], factor=2))
    for i in reversed(range(len(module.grow))):
        grown = b.emit("fold", [b.conv(f"grow{i}", module.grow[i], h)], factor=2)
        h = b.conv(f"merge{i}", module.merge[i], grown, add=skips[i])
        for j, m in enumerate(module.up[i]):
            h = block(f"up{i}.{j}", m, h)
    return b.conv("conv_out", module.conv_out, h, relu=True)
