"""What every setting of the encoder is worth: one table of rate, PSNR and network evaluations.

    python -m pipelines.development.ablate SOURCE ... [--tiles 4] [--only effort,start]

Every variant codes the same tiles as one brick, at several quantiser steps, and every byte counts.
All that varies lies in the header of the stream or in the encoder's choice of symbols, so what
every variant writes is a stream that every reader decodes. The last columns compare curves at equal
PSNR and at equal rate with the default.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from pipelines.development.measured_tiles import (
    PriorName,
    Sources,
    TileCount,
    TilePoint,
    Tiles,
    code_tiles,
    numbers,
    tiles_of,
)
from psc_volumetric.codec import CodecParameters
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.parameters import EFFORTS
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.metrics import bd_psnr_db, bd_rate_percent
from psc_volumetric.prior import Prior

__all__ = ["GROUPS", "Variant", "changed", "main", "row", "variants"]

PARAMETERS = "psc_volumetric.methods.psc.parameters"
QUANTISER = "psc_volumetric.methods.psc.quantiser"
DEFAULT_EFFORT = 5
GROUPS = ("effort", "shape", "start", "end", "thresholds", "base", "quantiser")


@dataclass(frozen=True)
class Variant:
    """One change of the encoder.

    Attributes
    ----------
    group, name : str
    effort : int
    constants : mapping
        ``"module:NAME"`` -> value: defaults of the codec that are replaced while it encodes.
    """

    group: str
    name: str
    effort: int = DEFAULT_EFFORT
    constants: Mapping[str, Any] = field(default_factory=dict)


def variants() -> list[Variant]:
    """All variants, the default left out."""
    found = [
        Variant("effort", f"effort {effort}: {steps} steps x {particles} particles", effort)
        for effort, (steps, particles) in EFFORTS.items()
        if effort != DEFAULT_EFFORT
    ]
    steps, particles = EFFORTS[DEFAULT_EFFORT]
    for factor in (8, 4, 2):
        more, fewer = steps * factor, particles // factor
        found += [_shape(more, fewer)] if fewer > 1 else []
    found += [_shape(steps // factor, particles * factor) for factor in (2, 4)]
    found += [_one("start", "pass starts at time", "FIRST_TIME", t) for t in (0.6, 0.7, 0.9, 1.0)]
    found += [_one("end", "pass ends at time", "LAST_TIME", t) for t in (0.05, 0.1)]
    found += [
        *(_one("thresholds", "last threshold", "LAST_THRESHOLD", t) for t in (0.2, 0.45, 0.6)),
        *(_one("thresholds", "first threshold", "FIRST_THRESHOLD", t) for t in (2.0, 4.0, 16.0)),
        *(_one("thresholds", "share of last steps", "FINAL_SHARE", t) for t in (0.0, 0.5)),
    ]
    found += [_one("base", "step of block means / step", "COARSE_RATIO", t) for t in (0.5, 2.0)]
    found += [
        _one("quantiser", "squared steps a bit is worth", "THRIFT", worth, QUANTISER)
        for worth in (0.0, 0.05, 0.2)
    ]
    return found


def _shape(steps: int, particles: int) -> Variant:
    efforts = {**EFFORTS, DEFAULT_EFFORT: (steps, particles)}
    name = f"{steps} steps x {particles} particles"
    return Variant("shape", name, constants={f"{PARAMETERS}:EFFORTS": efforts})


def _one(group: str, text: str, name: str, value: float, module: str = PARAMETERS) -> Variant:
    return Variant(group, f"{text} {value:g}", constants={f"{module}:{name}": value})


@contextmanager
def changed(constants: Mapping[str, Any]) -> Iterator[None]:
    """Replace defaults of the codec meanwhile; for measurements in this process alone.

    Parameters
    ----------
    constants : mapping
        ``"module:NAME"`` -> value.

    Raises
    ------
    ParameterError : there is no such constant (kind ``"unknown-constant"``).
    """
    before: list[tuple[Any, str, Any]] = []
    try:
        for place, value in constants.items():
            module_name, name = place.split(":")
            module = importlib.import_module(module_name)
            if not hasattr(module, name):
                raise ParameterError(
                    f"expected a constant {name} in {module_name}, found none",
                    kind="unknown-constant",
                    hint="the codec has changed: bring the variants up to date",
                )
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def curve(
    tiles: Tiles, variant: Variant, steps: Sequence[float], denoiser: Denoiser
) -> list[TilePoint]:
    """Code the tiles at every quantiser step."""
    with changed(variant.constants):
        return [
            code_tiles(tiles, CodecParameters(effort=variant.effort, step=step), denoiser)
            for step in steps
        ]


HEAD = (
    "| variant | evaluations per tile | CPU s per tile | bpv | PSNR dB | BD-rate % | BD-PSNR dB |\n"
    "|---|---|---|---|---|---|---|"
)


def row(name: str, points: Sequence[TilePoint], default: Sequence[TilePoint]) -> str:
    """A line of the table: the point at the middle step, and the curve against the default's."""
    middle = points[len(points) // 2]
    rates, psnrs = [p.rate_bpv for p in points], [p.psnr_db for p in points]
    anchor = [p.rate_bpv for p in default], [p.psnr_db for p in default]
    percent = bd_rate_percent(*anchor, rates, psnrs)
    decibels = bd_psnr_db(*anchor, rates, psnrs)
    return (
        f"| {name} | {middle.evaluations:.0f} | {middle.seconds:.2f} | {middle.rate_bpv:.4f} | "
        f"{middle.psnr_db:.2f} | {'-' if percent is None else f'{percent:+.1f}'} | "
        f"{'-' if decibels is None else f'{decibels:+.2f}'} |"
    )


def main(
    sources: Sources,
    tiles: TileCount = 4,
    prior: PriorName = None,
    steps: Annotated[str, typer.Option(help="Quantiser steps, two or more.")] = "0.35,0.7,1.4",
    only: Annotated[str, typer.Option(metavar="|".join(GROUPS), help="Groups.")] = ",".join(GROUPS),
) -> None:
    """Print what every setting of the encoder is worth, a line at a time."""
    groups, curve_steps = only.split(","), numbers(steps)
    if unknown := sorted(set(groups) - set(GROUPS)):
        raise typer.BadParameter(f"unknown groups {', '.join(unknown)}")
    if len(curve_steps) < 2:
        raise typer.BadParameter("a curve takes two steps or more")
    _print_table(*tiles_of(sources, tiles, prior), curve_steps, groups)


def _print_table(tiles: Tiles, prior: Prior, steps: Sequence[float], groups: Sequence[str]) -> None:
    denoiser = Denoiser(prior, "cpu")
    default = curve(tiles, Variant("", "default"), steps, denoiser)
    sys.stdout.write(
        f"{prior.name} {prior.digest[:16]}, {len(tiles)} tiles of {prior.tile_shape}, quantiser "
        f"steps {', '.join(f'{step:g}' for step in steps)}; bpv and PSNR at step "
        f"{steps[len(steps) // 2]:g}\n\n{HEAD}\n"
    )
    sys.stdout.write(row(f"default: effort {DEFAULT_EFFORT}", default, default) + "\n")
    for variant in variants():
        if variant.group in groups:
            line = row(variant.name, curve(tiles, variant, steps, denoiser), default)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    late = ", ".join(f"{p.earlier} at step {s:g}" for p, s in zip(default, steps, strict=True))
    sys.stdout.write(f"\nOf {len(tiles)} tiles, better ended at an earlier level: {late}\n")


if __name__ == "__main__":
    typer.run(main)
