"""Sizes and errors of this codec beside its peers, on whole volumes, every byte counted.

Both sides code the same voxels in the same run. Special values (padding, NaN) do not count for
distortion; lossy peers, which cannot code them, see the mean of the measured values there, while
our bytes include what it costs to keep them exactly. Without loss all codecs get the stored bits.
The peak of every PSNR is the data range of the volume. One volume is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import adapters
from adapters.base import Candidate, Volume
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import ItemPlan, VariablePlan, open_item, plan_item
from pipelines.archiving.survey import special_mask
from pipelines.evaluation.compare import compare
from pipelines.evaluation.modes import ModeWork, measure_bounded, measure_lossless, measure_lossy
from pipelines.evaluation.options import WHOLE, EvaluateOptions, known_peers
from pipelines.evaluation.ours import Run, workers
from pipelines.evaluation.peers.rates import missing_peers
from pipelines.evaluation.results import VolumeResult
from pipelines.evaluation.sets import Source
from pipelines.evaluation.whole import Archives
from pipelines.progress import Progress, Silent
from psc_volumetric.extras import has_extra
from psc_volumetric.methods.registry import AUTO, REGISTRY
from psc_volumetric.metrics import data_range

__all__ = ["evaluate"]

_MEASURE = {"lossy": measure_lossy, "bounded": measure_bounded, "lossless": measure_lossless}


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
    absent = missing_peers(peers, known_peers(options.mode))
    options = replace(options, peers=tuple(name for name in peers if name not in absent))
    with workers(options.jobs) as run, ExitStack() as stack:
        archive = replace(options.archive, base=_planned_base(options))
        archives: Archives | None = None
        for source, candidate, item, variable in _variables(sources, archive):
            if archives is None or archives.candidate is not candidate:
                stack.close()
                archives = stack.enter_context(closing(Archives(candidate)))
            volumes = {volume.name: volume for volume in open_item(candidate).volumes}
            result = _evaluate_volume(
                volumes[variable.volume], variable, item.prior, options, run, progress or Silent(),
                archives,
            )  # fmt: skip
            notes = (*result.notes, *item.notes, *map(": ".join, absent.items()))
            name = source.title or f"{candidate.name}/{result.name}"
            yield replace(result, name=name, group=source.group, notes=notes)


def _planned_base(options: EvaluateOptions) -> str:
    """Base method that volumes are planned for: one with a network, where networks can run.

    The plan names the prior of the domain. ``auto`` takes none that nobody asked for, as archives
    that have no room for one.
    """
    bases = [variant.removeprefix(WHOLE).split(":")[0] for variant in options.variants]
    needing = (base for base in bases if base != AUTO and REGISTRY.may_need_prior(base))
    return next(needing, "psc" if has_extra("prior") else options.archive.base)


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
    archives: Archives,
) -> VolumeResult:
    """Measure one volume, or its middle, which is read into memory.

    Returns
    -------
    VolumeResult
        Without points when all measured values are equal.
    """
    box = _middle(volume.array.shape, options.middle)
    values = np.asarray(volume.array[box])
    spec = replace(variable.spec, shape=values.shape)
    variable = replace(variable, spec=spec)
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    measured = ~special_mask(values, variable.spec.special_values)
    peak = data_range(values, measured)
    uses_prior = variable.kept.needs_prior and any(
        REGISTRY.may_need_prior(base)
        for base in (
            v.removeprefix(WHOLE).partition("@")[0].split(":")[0] for v in options.variants
        )
        if base != AUTO or options.archive.prior is not None
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
        values, measured, _stack(values, measured), peak, variable, prior, run, progress, archives
    )
    points, methods, notes = _MEASURE[options.mode](work, options)
    return replace(
        result,
        points=tuple(points),
        comparisons=tuple(compare(points, options.mode)),
        methods=methods,
        notes=(*result.notes, *notes),
    )


def _middle(shape: tuple[int, ...], extent: tuple[int, ...]) -> tuple[slice, ...]:
    """The box that is measured: all, or the middle of the last axes and the first of the others."""
    if not extent:
        return tuple(slice(0, n) for n in shape)
    lead = max(len(shape) - 3, 0)
    wanted = extent[3 - (len(shape) - lead) :]
    starts = [max((n - m) // 2, 0) for n, m in zip(shape[lead:], wanted, strict=True)]
    inner = [slice(a, a + min(m, n)) for a, m, n in zip(starts, wanted, shape[lead:], strict=True)]
    return (*[slice(0, 1)] * lead, *inner)


def _stack(values: NDArray[Any], measured: NDArray[np.bool_]) -> NDArray[Any]:
    """Slices (n, y, x) for lossy peers, special values replaced by the mean of the others."""
    if not measured.all():
        values = values.copy()
        values[~measured] = np.asarray(values[measured].mean(dtype=np.float64), values.dtype)
    return np.ascontiguousarray(values.reshape(-1, *values.shape[-2:]))
