"""The setting of the PSC paper beside ours: quality at equal rate, and what each costs.

    python -m pipelines.development.paper_setting SOURCE ... [--tiles 4] [--rounds 6,12,24]

Both sides see the same tiles through the same network of one prior. Ours are streams, every byte
counted. The paper's setting is a measurement in floating point, never a stream
(`pipelines.development.paper_loop` says what was counted and which choices were made). The network
is the shipped one, which computes integers and is read as real numbers; ``--weights`` takes the
float network that a training run left beside its prior, for both sides.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pipelines.development.measured_tiles import (
    UNIT,
    CountedNetwork,
    PriorName,
    Sources,
    TileCount,
    TilePoint,
    Tiles,
    code_tiles,
    counted,
    numbers,
    psnr_of,
    tiles_of,
)
from pipelines.development.paper_loop import (
    PaperSetting,
    PosteriorSampler,
    Schedule,
    code_bits,
    code_tile,
)
from pipelines.development.parity import FloatDenoiser, float_program
from pipelines.progress import Progress, progress_bars
from psc_volumetric.codec import CodecParameters
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.metrics import bd_psnr_db, bd_rate_percent, interpolate_at_rate
from psc_volumetric.prior import Prior
from psc_volumetric.prior.runtime import one_thread

__all__ = ["PaperPoint", "main", "measure_paper", "table"]

SCHEDULE_UNIT = 1 << 16
SAMPLE_LIMIT = 32767  # of what the network takes, 11 fraction bits


@dataclass(frozen=True)
class PaperPoint:
    """The paper's setting after some rounds.

    Attributes
    ----------
    rounds : int
    point : TilePoint
        Rate by the adaptive model; PSNR of the mean of the restored samples; evaluations and CPU
        seconds of decoding.
    entropy_bpv : float
        Rate by the empirical entropy, the least that any order-0 model could reach.
    sample_db : float
        PSNR of one sample, over all tiles.
    """

    rounds: int
    point: TilePoint
    entropy_bpv: float
    sample_db: float


@dataclass(frozen=True)
class _Cost:
    """Network evaluations and CPU seconds."""

    evaluations: int = 0
    seconds: float = 0.0

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.evaluations + other.evaluations, self.seconds + other.seconds)


class _Meter:
    """What was spent since the last look."""

    def __init__(self, counter: CountedNetwork) -> None:
        self.counter, self.seen = counter, _Cost()

    def lap(self) -> _Cost:
        before, self.seen = self.seen, _Cost(self.counter.evaluations, time.process_time())
        return _Cost(self.seen.evaluations - before.evaluations, self.seen.seconds - before.seconds)


@dataclass(frozen=True)
class _Outcome:
    """One tile after some rounds: its symbols, squared errors of mean and sample, and cost."""

    codes: NDArray[np.uint8]
    mean_error: float
    sample_error: float
    cost: _Cost


def _point(rounds: int, outcomes: Sequence[_Outcome], voxels: int) -> PaperPoint:
    adaptive, entropy = code_bits(np.concatenate([o.codes for o in outcomes]))
    n = len(outcomes)
    return PaperPoint(
        rounds,
        TilePoint(
            adaptive / voxels,
            psnr_of(sum(o.mean_error for o in outcomes) / n),
            sum(o.cost.evaluations for o in outcomes) / n,
            sum(o.cost.seconds for o in outcomes) / n,
        ),
        entropy / voxels,
        psnr_of(sum(o.sample_error for o in outcomes) / n),
    )


@one_thread()
def measure_paper(
    tiles: Tiles,
    denoiser: Denoiser,
    setting: PaperSetting,
    stops: Sequence[int],
    progress: Progress,
) -> list[PaperPoint]:
    """Run the paper's loop on every tile.

    Parameters
    ----------
    tiles : (n, slices, tile, tile) float32
        Normalised values.
    denoiser : Denoiser
        Network and schedule of a prior.
    setting : PaperSetting
    stops : sequence of int
        Numbers of rounds to restore after.
    progress : Progress
        Advances by one per restored tile.

    Returns
    -------
    list of PaperPoint
        One per stop, rising.
    """
    counter, prior = counted(denoiser), denoiser.prior
    meter = _Meter(counter)
    shape = prior.tile_shape
    schedule = Schedule.of(prior.alpha / SCHEDULE_UNIT, prior.sigma / SCHEDULE_UNIT, setting.steps)

    def denoise(x: torch.Tensor, level: int) -> torch.Tensor:
        samples = torch.round(x * UNIT).clamp(-SAMPLE_LIMIT, SAMPLE_LIMIT).to(torch.int32)
        return denoiser.denoise(samples.reshape(-1, *shape), level).double().flatten(1) / UNIT

    def sampler(seed: int) -> PosteriorSampler:
        return PosteriorSampler(denoise, schedule, torch.Generator().manual_seed(seed))

    found: dict[int, list[_Outcome]] = {stop: [] for stop in sorted(stops)}
    progress.begin("the paper's setting", len(tiles) * len(found))
    try:
        for number, tile in enumerate(tiles):
            x = torch.from_numpy(tile).double().flatten()
            spent = _Cost()
            meter.lap()
            for state in code_tile(x, sampler(2 * number), setting, stops):
                spent += meter.lap()
                drawn = sampler(2 * number + 1).draw(state.rows, state.y, setting.restored)
                found[state.rounds].append(
                    _Outcome(
                        state.codes,
                        float(((drawn.mean(0) - x) ** 2).mean()),
                        float(((drawn[0] - x) ** 2).mean()),
                        spent + meter.lap(),
                    )
                )
                progress.advance()
    finally:
        denoiser.network = counter.network
    return [_point(stop, outcomes, tiles.size) for stop, outcomes in found.items()]


def table(
    ours: Sequence[tuple[float, TilePoint]], paper: Sequence[PaperPoint], effort: int
) -> list[str]:
    """Lines of a Markdown table, and the differences at equal rate and PSNR.

    Parameters
    ----------
    ours : sequence of (step, TilePoint)
    paper : sequence of PaperPoint
    effort : int
    """
    rates, psnrs = ([getattr(p, name) for _, p in ours] for name in ("rate_bpv", "psnr_db"))
    lines = [
        "| setting | bpv | PSNR dB | evaluations per tile | CPU s per tile | ours at this rate |",
        "|---|---|---|---|---|---|",
    ]
    for step, p in ours:
        lines.append(f"| ours, effort {effort}, step {step:g} | {_numbers(p)} | |")
    for found in paper:
        p = found.point
        same = interpolate_at_rate(rates, psnrs, p.rate_bpv, slack=0.1) if len(ours) > 1 else None
        gain = "-" if same is None else f"{same:.2f} dB ({same - p.psnr_db:+.2f})"
        lines.append(f"| paper, {found.rounds} rounds | {_numbers(p)} | {gain} |")
    lines += [
        "",
        "Of our bpv, headers and tables (fewer the larger the brick; the paper's have none):",
    ]
    lines += ["; ".join(f"step {step:g}: {p.header_bpv:.4f}" for step, p in ours) + "."]
    lines += ["", "One sample instead of the mean, and bpv by the empirical entropy of the codes:"]
    lines += [f"{p.rounds} rounds: {p.sample_db:.2f} dB, {p.entropy_bpv:.4f} bpv." for p in paper]
    if min(len(ours), len(paper)) > 1:
        whole = [p for _, p in ours]
        payload = [replace(p, rate_bpv=p.rate_bpv - p.header_bpv) for p in whole]
        lines += ["", f"Ours over the paper's setting, every byte counted: {_gain(whole, paper)};"]
        lines += [
            f"without headers and tables, which the paper's have not: {_gain(payload, paper)}."
        ]
    return lines


def _gain(ours: Sequence[TilePoint], paper: Sequence[PaperPoint]) -> str:
    """Bjontegaard differences of our curve and the paper's."""
    curves = (
        [p.point.rate_bpv for p in paper],
        [p.point.psnr_db for p in paper],
        [p.rate_bpv for p in ours],
        [p.psnr_db for p in ours],
    )
    decibels, percent = bd_psnr_db(*curves), bd_rate_percent(*curves)
    if decibels is None:
        return "no common rates"
    at_psnr = "no common PSNR" if percent is None else f"BD-rate {percent:+.1f} %"
    return f"BD-PSNR {decibels:+.2f} dB, {at_psnr}"


def _numbers(p: TilePoint) -> str:
    return f"{p.rate_bpv:.4f} | {p.psnr_db:.2f} | {p.evaluations:,.0f} | {p.seconds:.1f}"


def main(
    sources: Sources,
    tiles: TileCount = 4,
    prior: PriorName = None,
    weights: Annotated[
        Path | None, typer.Option(help="NAME.float.safetensors of that prior.")
    ] = None,
    rounds: Annotated[str, typer.Option(help="The paper's rounds to restore after.")] = "6,12,24",
    steps: Annotated[str, typer.Option(help="Our quantiser steps.")] = "0.5,1,2,4,8",
    effort: Annotated[int, typer.Option(help="Ours.")] = 5,
    ddrm_steps: int = PaperSetting.steps,
    samples: int = PaperSetting.samples,
    rows: Annotated[int, typer.Option(help="Rows per round.")] = PaperSetting.rows,
    restored: int = PaperSetting.restored,
) -> None:
    """Print the setting of the PSC paper beside ours."""
    values, chosen = tiles_of(sources, tiles, prior)
    denoiser = Denoiser(chosen, "cpu") if weights is None else _floats(chosen, weights)
    ours = [
        (step, code_tiles(values, CodecParameters(effort=effort, step=step), denoiser))
        for step in numbers(steps)
    ]
    setting = PaperSetting(ddrm_steps, samples, rows, restored)
    stops = sorted(map(int, numbers(rounds)))
    with progress_bars(enabled=True) as progress:
        paper = measure_paper(values, denoiser, setting, stops, progress)
    head = f"{chosen.name} {chosen.digest[:16]}, {len(values)} tiles of {chosen.tile_shape}"
    lines = [f"{head}, {setting}", "", *table(ours, paper, effort)]
    sys.stdout.write("\n".join(lines) + "\n")


def _floats(prior: Prior, weights: Path) -> Denoiser:
    return FloatDenoiser(prior, float_program(prior, weights))


if __name__ == "__main__":
    typer.run(main)
