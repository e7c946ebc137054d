"""What integers cost at equal rate: ``python -m pipelines.development.parity``.

Encodes tiles of held-out volumes twice with one loop and one writer: with the integer network of a
prior, and with the float network it was converted from. Float streams only exist here, to be
measured: nothing could decode them elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pipelines.commands.options import Effort
from pipelines.development.measured_tiles import TilePoint, code_tiles, numbers
from psc_volumetric.codec import CodecParameters
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.metrics import bd_psnr_db
from psc_volumetric.prior import Prior, load_prior

if TYPE_CHECKING:
    from psc_volumetric.prior.making.float_program import FloatProgram

__all__ = ["FloatDenoiser", "compare", "float_program", "held_out_tiles", "main"]


class FloatDenoiser(Denoiser):
    """A prior's loop around the float network of the same weights, on the CPU.

    Its output is rounded to the fraction bits of the integer network's; nothing else is.
    """

    def __init__(self, prior: Prior, program: FloatProgram) -> None:
        super().__init__(prior, "cpu")
        scale, single = float(1 << prior.program.out_bits), program.single()

        def network(x: torch.Tensor, level: int) -> torch.Tensor:
            output = single.run(x.float() / 2048, level)
            return torch.round(output * scale).to(torch.int32)

        self.network = network


def float_program(prior: Prior, weights: Path) -> FloatProgram:
    """Float steps of the network that a recipe's prior was converted from.

    Parameters
    ----------
    prior : Prior
        Made by ``psc-archive prior train``, which writes the weights beside the new folder.
    weights : Path
        Those weights, ``NAME.float.safetensors``.
    """
    from safetensors.torch import load_file

    from pipelines.training.recipe import Recipe
    from psc_volumetric.prior.making.build import cosine_times
    from psc_volumetric.prior.making.frontends import from_trained
    from psc_volumetric.prior.making.networks import build_network

    recipe = Recipe.from_dict(prior.metadata["training"]["recipe"])
    net = build_network(recipe.architecture).eval()
    net.load_state_dict(load_file(weights))
    return from_trained(net, recipe.architecture, cosine_times(prior.levels))


def held_out_tiles(prior: Prior, volumes: Sequence[Path], count: int) -> NDArray[np.float32]:
    """(count, slices, tile, tile) normalised tiles of the recipe's held-out side."""
    from pipelines.training.recipe import Recipe
    from pipelines.training.train import TileSampler
    from pipelines.training.volumes import load_volumes, split_volumes

    recipe = Recipe.from_dict(prior.metadata["training"]["recipe"])
    _, held_out = split_volumes(recipe, load_volumes(volumes, recipe))
    tiles: NDArray[np.float32] = TileSampler(
        held_out, prior.tile_shape, recipe.settings.unaugmented(21)
    ).batch(count)
    return tiles


def compare(
    prior: Prior,
    program: FloatProgram,
    tiles: NDArray[np.float32],
    *,
    steps: Sequence[float],
    effort: int,
) -> tuple[list[TilePoint], list[TilePoint], float | None]:
    """Points of the float and of the integer network, and the BD-PSNR of the second in dB.

    Parameters
    ----------
    prior : Prior
        The integer network with its calibration, which both sides use.
    program : FloatProgram
        Float steps of the same weights.
    tiles : (n, slices, tile, tile) float32
        Normalised tiles.
    steps : sequence of float
        Quantiser steps, two or more.
    effort : int
        1..9.
    """
    both: tuple[list[TilePoint], list[TilePoint]] = ([], [])
    denoisers = (FloatDenoiser(prior, program), Denoiser(prior, "cpu"))
    for step in steps:
        parameters = CodecParameters(effort=effort, step=step)
        for points, denoiser in zip(both, denoisers, strict=True):
            points.append(code_tiles(tiles, parameters, denoiser))
    curves = [[p.rate_bpv for p in points] for points in both]
    psnrs = [[p.psnr_db for p in points] for points in both]
    return *both, bd_psnr_db(curves[0], psnrs[0], curves[1], psnrs[1])


def main(
    weights: Annotated[Path, typer.Option(help="NAME.float.safetensors.")],
    volumes: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders with volumes.")
    ] = None,
    prior: Annotated[str, typer.Option(help="Name or folder.")] = "mr-head",
    steps: Annotated[str, typer.Option(help="Quantiser steps.")] = "0.125,0.25,0.5,1",
    effort: Effort = 5,
    tiles: Annotated[int, typer.Option(help="Held-out tiles.")] = 16,
    threads: int = 1,
) -> None:
    """Print what integers cost: one line per quantiser step, and the difference at equal rate."""
    torch.set_num_threads(threads)
    chosen, curve = load_prior(prior), numbers(steps)
    held_out = held_out_tiles(chosen, volumes or [], tiles)
    program = float_program(chosen, weights)
    floats, integers, gain = compare(chosen, program, held_out, steps=curve, effort=effort)
    write = sys.stdout.write
    write(f"{chosen.name} {chosen.digest[:16]}, {len(held_out)} tiles, effort {effort}\n")
    write("step      float bpv   dB     integer bpv   dB\n")
    for step, f, i in zip(curve, floats, integers, strict=True):
        write(
            f"{step:<8g} {f.rate_bpv:9.4f} {f.psnr_db:7.3f} {i.rate_bpv:11.4f} {i.psnr_db:7.3f}\n"
        )
    write("integer at equal rate: " + ("-" if gain is None else f"{gain:+.3f} dB") + "\n")


if __name__ == "__main__":
    typer.run(main)
