"""Sizes and errors of this codec beside its peers, on whole volumes, every byte counted.

Both sides code the same voxels in the same run. Special values (padding, NaN) do not count for
distortion; lossy peers, which cannot code them, see the mean of the measured values there, while
our bytes include what it costs to keep them exactly. Without loss all codecs get the stored bits.
The peak of every PSNR is the data range of the volume. One volume is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import adapters
from adapters.base import Candidate, Volume
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import ItemPlan, VariablePlan, open_item, plan_item
from pipelines.archiving.survey import special_mask
from pipelines.evaluation.compare import Comparison, compare
from pipelines.evaluation.modes import ModeWork, measure_bounded, measure_lossless, measure_lossy
from pipelines.evaluation.ours import Run, workers
from pipelines.evaluation.peers.exact import BOUNDED_PEERS, LOSSLESS_PEERS
from pipelines.evaluation.peers.rates import PEERS, missing_peers
from pipelines.evaluation.point import RatePoint
from pipelines.evaluation.sets import Source
from pipelines.progress import Progress, Silent
from psc_volumetric.codec import base_names
from psc_volumetric.errors import ParameterError
from psc_volumetric.methods.registry import REGISTRY
from psc_volumetric.metrics import data_range

__all__ = [
    "EVALUATE_MODES",
    "EvaluateOptions",
    "VolumeResult",
    "evaluate",
    "known_peers",
    "parse_numbers",
]

LOSSY_PEERS = ("jpeg2000", "htj2k", "jpegxl", "av1", "sperr", "sz3", "zfp")
_KNOWN = {
    "lossy": tuple(PEERS),
    "bounded": tuple(BOUNDED_PEERS),
    "lossless": tuple(LOSSLESS_PEERS),
}
_MEASURE = {"lossy": measure_lossy, "bounded": measure_bounded, "lossless": measure_lossless}
EVALUATE_MODES = tuple(_KNOWN)


def known_peers(mode: str) -> tuple[str, ...]:
    """Names of all peers of a mode."""
    return _KNOWN[mode]


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure.

    Attributes
    ----------
    mode : str
        ``"lossy"``: rate against distortion; ``"bounded"``: size at a largest error;
        ``"lossless"``: size.
    bpv : tuple of float
        Lossy: rates that peers are brought to.
    steps : tuple of float
        Quantiser steps of our points; the exact modes use the first, for bases with a network.
    bounds : tuple of float
        Bounded: largest errors. Empty means 1, 2, 5, 10 stored units for integers and 1e-4,
        1e-3, 1e-2 of the data range for floats.
    peers : tuple of str or None
        Names of peers; None takes all of the mode, for lossy without the slow extras.
    ours : tuple of str or None
        Variants of our streams: a base method, or base:coders. None takes ``auto`` for lossy,
        and ``none`` and ``none:fast`` for the exact modes.
    wants_quality : bool
        Lossy: SSIM, HaarPSI and power spectra as well.
    decodes : bool
        Lossy: also decode ours from its bytes, as proof and for times. The exact modes always do.
    jobs : int
        Processes.
    archive : ArchiveOptions
        Effort, setting, prior and device of our points.

    Raises
    ------
    ParameterError : a value outside its range, or an unknown peer.
    """

    mode: str = "lossy"
    bpv: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)
    steps: tuple[float, ...] = (0.25, 0.5, 1.0)
    bounds: tuple[float, ...] = ()
    peers: tuple[str, ...] | None = None
    ours: tuple[str, ...] | None = None
    wants_quality: bool = True
    decodes: bool = False
    jobs: int = 1
    archive: ArchiveOptions = field(default_factory=lambda: ArchiveOptions(mode="lossy"))

    def __post_init__(self) -> None:
        if self.mode not in EVALUATE_MODES:
            raise ParameterError(
                f"mode must be one of {', '.join(EVALUATE_MODES)}, found {self.mode!r}",
                kind="bad-mode",
            )
        wrong = [rate for rate in self.bpv if not 0 < rate <= 64]
        if wrong or not self.bpv:
            raise ParameterError(
                f"expected rates above 0 and at most 64 bits per voxel, found {self.bpv!r}",
                kind="bad-rate",
            )
        if not self.steps or any(not bound > 0 for bound in self.bounds) or self.jobs < 1:
            raise ParameterError(
                f"expected a step, positive bounds and at least one job, found {self.steps!r}, "
                f"{self.bounds!r} and {self.jobs!r}",
                kind="bad-number",
            )
        missing_peers(self.peers or (), _KNOWN[self.mode])
        for variant in self.variants:
            base, _, coders = variant.partition(":")
            if base not in base_names():
                raise ParameterError(
                    f"base must be one of {', '.join(base_names())}, found {variant!r}",
                    kind="bad-base",
                )
            replace(self.archive, coders=coders or self.archive.coders)

    @property
    def chosen_peers(self) -> tuple[str, ...]:
        """Peers of the mode."""
        every = LOSSY_PEERS if self.mode == "lossy" else _KNOWN[self.mode]
        return every if self.peers is None else self.peers

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants of our streams."""
        return self.ours or (("auto",) if self.mode == "lossy" else ("none", "none:fast"))

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return {
            **vars(self),
            "peers": list(self.chosen_peers),
            "ours": list(self.variants),
            "archive": self.archive.to_dict(),
        }


@dataclass(frozen=True)
class VolumeResult:
    """Points of every codec on one volume.

    Attributes
    ----------
    name, group : str
        The volume, and the set it belongs to; averages are taken within a set.
    mode, shape, dtype, peak
        Mode of the evaluation; the volume and its data range in stored units.
    prior : str or None
        Prior of our points; None when the volume took a network-free method.
    points : tuple of RatePoint
        Ours first (codecs ``"ours-<variant>"``), then the peers.
    comparisons : tuple of Comparison
        Ours against each peer.
    methods : dict
        Ours, by codec and setting: method of bricks -> (bricks, bytes).
    notes : tuple of str
        What was left out, and why.
    """

    name: str
    group: str
    mode: str
    shape: tuple[int, ...]
    dtype: str
    peak: float
    prior: str | None
    points: tuple[RatePoint, ...]
    comparisons: tuple[Comparison, ...]
    methods: dict[str, dict[str, tuple[int, int]]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Record in JSON types; PSNR is infinite where values agree exactly."""
        return {
            **vars(self),
            "shape": list(self.shape),
            "points": [point.to_dict() for point in self.points],
            "comparisons": [dict(vars(entry)) for entry in self.comparisons],
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
    sources: Sequence[Source], options: EvaluateOptions, progress: Progress | None = None
) -> Iterator[VolumeResult]:
    """Measure every volume of every source, one after the other.

    Parameters
    ----------
    sources : sequence of Source
        Files or folders with the sets they belong to, see `pipelines.evaluation.sets`.
    options : EvaluateOptions
    progress : Progress, optional

    Yields
    ------
    VolumeResult
        As soon as it is measured.

    Raises
    ------
    SourceError, PriorMismatchError, ParameterError : as for archiving.
    """
    peers = options.chosen_peers
    absent = missing_peers(peers, _KNOWN[options.mode])
    options = replace(options, peers=tuple(name for name in peers if name not in absent))
    with workers(options.jobs) as run:
        for source, candidate, item, variable in _variables(sources, options.archive):
            volumes = {volume.name: volume for volume in open_item(candidate).volumes}
            result = _evaluate_volume(
                volumes[variable.volume], variable, item.prior, options, run, progress or Silent()
            )
            notes = (*result.notes, *item.notes, *map(": ".join, absent.items()))
            name = source.title or f"{candidate.name}/{result.name}"
            yield replace(result, name=name, group=source.group, notes=notes)


def _variables(
    sources: Sequence[Source], archive: ArchiveOptions
) -> Iterator[tuple[Source, Candidate, ItemPlan, VariablePlan]]:
    for source in sources:
        for candidate in adapters.discover(source.path).candidates:
            item = plan_item(candidate, "", archive)
            for variable in item.variables:
                if not source.variables or variable.volume in source.variables:
                    yield source, candidate, item, variable


def _evaluate_volume(
    volume: Volume,
    variable: VariablePlan,
    prior: str | None,
    options: EvaluateOptions,
    run: Run,
    progress: Progress,
) -> VolumeResult:
    """Measure one volume, which is read whole into memory.

    Returns
    -------
    VolumeResult
        Without points when all measured values are equal.
    """
    values = np.asarray(volume.array[tuple(slice(0, n) for n in volume.array.shape)])
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    measured = ~special_mask(values, variable.spec.special_values)
    peak = data_range(values, measured)
    uses_prior = variable.kept.needs_prior and any(
        REGISTRY.may_need_prior(v.split(":")[0]) for v in options.variants
    )
    result = VolumeResult(
        name=variable.spec.name,
        group="",
        mode=options.mode,
        shape=values.shape,
        dtype=values.dtype.name,
        peak=peak,
        prior=prior if uses_prior else None,
        points=(),
        comparisons=(),
        methods={},
        notes=() if variable.reason is None else (variable.reason,),
    )
    if peak == 0:
        return replace(result, notes=(*result.notes, "all measured values are equal"))
    work = ModeWork(
        values, measured, _stack(values, measured), peak, variable, prior, run, progress
    )
    points, methods, notes = _MEASURE[options.mode](work, options)
    return replace(
        result,
        points=tuple(points),
        comparisons=tuple(compare(points, options.mode)),
        methods=methods,
        notes=(*result.notes, *notes),
    )


def _stack(values: NDArray[Any], measured: NDArray[np.bool_]) -> NDArray[Any]:
    """Slices (n, y, x) for lossy peers, special values replaced by the mean of the others."""
    if not measured.all():
        values = values.copy()
        values[~measured] = np.asarray(values[measured].mean(dtype=np.float64), values.dtype)
    return np.ascontiguousarray(values.reshape(-1, *values.shape[-2:]))
