"""Rate and distortion of this codec beside its peers, on whole volumes, every byte counted.

Both sides code the same voxels in the same run. Special values (padding, NaN) do not count for
PSNR; peers, which cannot code them, see the mean of the measured values there, while our bytes
include what it costs to keep them exactly. The peak of every PSNR is the data range of the volume.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import adapters
from adapters.base import Volume
from pipelines.intensity import special_mask
from pipelines.options import ArchiveOptions
from pipelines.peers import PEERS, RatePoint, missing_peers, peer_points
from pipelines.plan import VariablePlan, brick_prior, open_item, plan_item
from pipelines.progress import Progress, Silent
from psc_volumetric.bitstream.brick import read_index
from psc_volumetric.codec import IntensityMapping, encode_brick
from psc_volumetric.errors import ParameterError
from psc_volumetric.metrics import bd_psnr_db, data_range, rate_bpv

__all__ = ["EvaluateOptions", "VolumeResult", "evaluate", "evaluate_volume", "parse_numbers"]

OURS = "psc"


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure.

    Attributes
    ----------
    bpv : tuple of float
        Rates that peers are brought to.
    steps : tuple of float
        Quantiser steps of our points.
    peers : tuple of str
        Names from `PEERS`.
    archive : ArchiveOptions
        Effort, setting, prior and device of our points.
    """

    bpv: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    steps: tuple[float, ...] = (0.25, 0.5, 1.0)
    peers: tuple[str, ...] = ("jpeg2000", "jpegxl", "sperr", "sz3")
    archive: ArchiveOptions = field(default_factory=lambda: ArchiveOptions(mode="lossy"))

    def __post_init__(self) -> None:
        wrong = [rate for rate in self.bpv if not 0 < rate <= 64]
        if wrong or not self.bpv:
            raise ParameterError(
                f"expected rates above 0 and at most 64 bits per voxel, found {self.bpv!r}",
                kind="bad-rate",
            )


@dataclass(frozen=True)
class VolumeResult:
    """Points of every codec on one volume.

    Attributes
    ----------
    name, shape, dtype, peak
        The volume and its data range in stored units.
    prior : str or None
        Prior of our points; None when the volume took a network-free method.
    points : tuple of RatePoint
        Ours first (codec ``"psc"``), by quantiser step and level, then the peers.
    gains_db : dict
        Peer -> BD-PSNR of ours over it in dB; None where the rates do not overlap.
    notes : tuple of str
        What was left out, and why.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    peak: float
    prior: str | None
    points: tuple[RatePoint, ...]
    gains_db: dict[str, float | None]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Record in JSON types; PSNR is infinite where values agree exactly."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "peak": self.peak,
            "prior": self.prior,
            "points": [point.to_dict() for point in self.points],
            "gains_db": self.gains_db,
            "notes": list(self.notes),
        }


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """Numbers separated by commas, as given to option ``name``.

    Raises
    ------
    ParameterError : not numbers.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ParameterError(
            f"{name}: expected numbers separated by commas, found {text!r}", kind="bad-number"
        ) from error


def evaluate(
    sources: Sequence[Path], options: EvaluateOptions, progress: Progress | None = None
) -> list[VolumeResult]:
    """Measure every volume of every source.

    Parameters
    ----------
    sources : sequence of Path
        Files or folders.
    options : EvaluateOptions
    progress : Progress, optional

    Returns
    -------
    list of VolumeResult

    Raises
    ------
    SourceError, PriorMismatchError, ParameterError : as for archiving.
    """
    absent = missing_peers(options.peers)
    results = []
    for source in sources:
        for candidate in adapters.discover(Path(source)).candidates:
            item = plan_item(candidate, "", options.archive)
            volumes = {volume.name: volume for volume in open_item(candidate).volumes}
            for variable in item.variables:
                result = evaluate_volume(
                    volumes[variable.volume],
                    variable,
                    item.prior,
                    replace(options, peers=tuple(p for p in options.peers if p not in absent)),
                    progress or Silent(),
                )
                notes = (*result.notes, *item.notes, *map(": ".join, absent.items()))
                name = f"{candidate.name}/{result.name}"
                results.append(replace(result, name=name, notes=notes))
    return results


def evaluate_volume(
    volume: Volume,
    variable: VariablePlan,
    prior: str | None,
    options: EvaluateOptions,
    progress: Progress,
) -> VolumeResult:
    """Measure one volume, which is read whole into memory.

    Returns
    -------
    VolumeResult
        Without points when the volume holds a single value.
    """
    values = np.asarray(volume.array[tuple(slice(0, n) for n in volume.array.shape)])
    measured = ~special_mask(values, variable.spec.special_values)
    peak = data_range(values, measured)
    name = variable.spec.name
    head = (name, values.shape, values.dtype.name, peak)
    if peak == 0:
        return VolumeResult(*head, None, (), {}, ("all measured values are equal",))
    mask = None if measured.all() else measured
    notes = [] if variable.reason is None else [variable.reason]
    points: list[RatePoint] = []
    steps = options.steps if variable.method == "psc" else options.steps[:1]
    progress.begin(f"{name}: psc", variable.bricks * len(steps))
    for step in steps:
        choice = replace(options.archive, step=step)
        points += _our_points(values, measured, variable, prior, choice, peak, progress)
    stack = _stack(values, measured)
    flat = None if mask is None else mask.reshape(stack.shape)
    progress.begin(f"{name}: peers", len(options.peers))
    for peer in options.peers:
        points += peer_points(PEERS[peer], stack, options.bpv, peak=peak, mask=flat)
        progress.advance()
    return VolumeResult(
        *head,
        prior if variable.method == "psc" else None,
        tuple(points),
        _gains(points, options.peers),
        tuple(notes),
    )


def _stack(values: NDArray[Any], measured: NDArray[np.bool_]) -> NDArray[Any]:
    """Slices (n, y, x) for the peers, special values replaced by the mean of the others."""
    if not measured.all():
        values = values.copy()
        values[~measured] = np.asarray(values[measured].mean(dtype=np.float64), values.dtype)
    return np.ascontiguousarray(values.reshape(-1, *values.shape[-2:]))


def _our_points(
    values: NDArray[Any],
    measured: NDArray[np.bool_],
    variable: VariablePlan,
    prior: str | None,
    options: ArchiveOptions,
    peak: float,
    progress: Progress,
) -> list[RatePoint]:
    """One point per quality level of one quantiser step.

    Errors are those the encoder measured by decoding again, the same integers as any decoder's.
    """
    begin = time.perf_counter()
    totals = _Totals()
    for position in variable.spec.positions():
        box = variable.spec.box(position)
        totals.add(*_encode(values[box], measured[box], position, variable, prior, options))
        progress.advance()
    seconds = time.perf_counter() - begin
    count = int(measured.sum())
    return [
        RatePoint(
            codec=OURS,
            parameter=f"step {options.step:g}, level {level} of {len(totals.nbytes) - 1}",
            nbytes=nbytes,
            rate_bpv=rate_bpv(nbytes, values.size),
            psnr_db=10 * math.log10(peak**2 * count / error) if error else math.inf,
            seconds=seconds,
        )
        for level, (nbytes, error) in enumerate(
            zip(totals.nbytes, totals.squared_error, strict=True)
        )
    ]


class _Totals:
    """Bytes and squared error up to each level, over bricks with their own number of levels."""

    def __init__(self) -> None:
        self.nbytes: list[int] = [0]
        self.squared_error: list[float] = [0.0]

    def add(self, nbytes: list[int], squared_error: list[float]) -> None:
        levels = max(len(self.nbytes), len(nbytes))
        self.nbytes = [a + b for a, b in zip(*_padded(self.nbytes, nbytes, levels), strict=True)]
        errors = _padded(self.squared_error, squared_error, levels)
        self.squared_error = [a + b for a, b in zip(*errors, strict=True)]


def _padded(first: list[Any], second: list[Any], levels: int) -> tuple[list[Any], list[Any]]:
    """Both lists made `levels` long by repeating their last entry."""
    one, two = ([*x, *[x[-1]] * (levels - len(x))] for x in (first, second))
    return one, two


def _encode(
    values: NDArray[Any],
    measured: NDArray[np.bool_],
    position: tuple[int, ...],
    variable: VariablePlan,
    prior: str | None,
    options: ArchiveOptions,
) -> tuple[list[int], list[float]]:
    """Bytes, and squared error over measured voxels, of one brick up to each level."""
    spec, sampled = variable.spec, variable.range
    by_prior = variable.method == "psc" and prior is not None and sampled is not None
    valid = spec.valid(position)
    brick = encode_brick(
        values.reshape(valid),
        position=position,
        shape=spec.brick_shape,
        mapping=IntensityMapping(sampled.low, sampled.high) if by_prior and sampled else None,
        parameters=options.parameters(),
        prior=brick_prior(prior) if by_prior and prior else None,
        special_values=spec.special_values,
        device=options.device,
    )
    index = read_index(lambda start, length: brick.data[start : start + length])
    nbytes = [index.level_nbytes(level) for level in range(index.levels)]
    squared = np.zeros(index.levels)
    counts = measured.reshape(valid)
    for record in brick.records:
        part = tuple(
            slice(p * t, (p + 1) * t) for p, t in zip(record.position, spec.tile_shape, strict=True)
        )
        squared += np.asarray(record.mse) * int(counts[part].sum())
    return nbytes, squared.tolist()


def _gains(points: Sequence[RatePoint], peers: Sequence[str]) -> dict[str, float | None]:
    ours = _curve(points, OURS)
    gains: dict[str, float | None] = {}
    for peer in peers:
        theirs = _curve(points, peer)
        enough = min(len(set(ours[0])), len(set(theirs[0]))) >= 2
        gains[peer] = bd_psnr_db(*theirs, *ours) if enough else None
    return gains


def _curve(points: Sequence[RatePoint], codec: str) -> tuple[list[float], list[float]]:
    """Rates and PSNR of a codec's curve: for ours, the last level of each step."""
    chosen = [p for p in points if p.codec == codec and math.isfinite(p.psnr_db)]
    if codec == OURS:
        last = {point.parameter.split(",")[0]: point for point in chosen}
        chosen = list(last.values())
    return [point.rate_bpv for point in chosen], [point.psnr_db for point in chosen]
