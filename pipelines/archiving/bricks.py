"""One brick at a time: small frozen jobs that any process can do, always with the same bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters import isolation
from adapters.base import Candidate
from pipelines.archiving.modes import VariableMode
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.plan import ItemPlan, VariablePlan, brick_prior
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.codec import BrickOptions, EncodedBrick, IntensityMapping, encode_brick
from psc_volumetric.layers.guarantee import Guarantee
from psc_volumetric.threads import in_order

__all__ = [
    "BrickJob",
    "BrickResult",
    "encode_brick_job",
    "encode_brick_jobs",
    "encoded",
    "jobs_of",
    "stored_brick",
    "voxels",
]

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class BrickJob:
    """All that a process needs to encode one brick; holds names and numbers, no voxels.

    Attributes
    ----------
    candidate : Candidate
        Source files.
    target : str
        Unfinished archive the brick goes into.
    variable, volume : str
        Name of the array in the archive and of the volume in the source.
    position : tuple of int
        Chunk grid index, all axes.
    shape, dtype : tuple of int, str
        Of the volume.
    box : tuple of (start, stop)
        Voxels of the array that the brick covers.
    brick_shape, tile_shape : (z, y, x)
        Nominal shapes.
    kept : VariableMode
        What is promised, and how.
    exact : tuple of (start, stop) or None
        Voxels of the array to keep exactly though the rest is not.
    special_values : tuple of numbers
    prior : str or None
        Name or folder of the prior; None for a method without a network.
    step : float or None
        Quantiser step that rate control found; None takes that of the options.
    options : ArchiveOptions
    is_draft : bool
        Whether bytes and errors need only be told roughly.
    """

    candidate: Candidate
    target: str
    variable: str
    volume: str
    position: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    box: Box
    brick_shape: tuple[int, int, int]
    tile_shape: tuple[int, int, int]
    kept: VariableMode
    exact: Box | None
    special_values: tuple[float | int, ...]
    prior: str | None
    step: float | None
    options: ArchiveOptions
    is_draft: bool = False


@dataclass(frozen=True)
class BrickResult:
    """What became of a brick.

    Attributes
    ----------
    variable, position
        Which one.
    method : str
        Base method, layers and their coders: ``"psc"``, ``"none+lossless:context"``.
    nbytes, voxels : int
        Bytes of the brick; voxels of the source in it.
    seconds : float
        Reading, encoding and writing.
    """

    variable: str
    position: tuple[int, ...]
    method: str
    nbytes: int
    voxels: int
    seconds: float


def jobs_of(
    item: ItemPlan, variable: VariablePlan, position: tuple[int, ...], step: float | None = None
) -> BrickJob:
    """The job of one brick of a plan."""
    spec = variable.spec
    return BrickJob(
        candidate=item.candidate,
        target=item.target,
        variable=spec.name,
        volume=variable.volume,
        position=position,
        shape=spec.shape,
        dtype=spec.dtype.name,
        box=_pairs(spec.box(position)),
        brick_shape=spec.brick_shape,
        tile_shape=spec.tile_shape,
        kept=variable.kept,
        exact=None if variable.exact is None else _pairs(variable.exact),
        special_values=spec.special_values,
        prior=item.prior if variable.kept.needs_prior else None,
        step=step,
        options=item.options,
    )


def _pairs(box: Sequence[slice]) -> Box:
    return tuple((part.start, part.stop) for part in box)


def voxels(job: BrickJob) -> NDArray[Any]:
    """Stored values of a brick, (z, y, x).

    Raises
    ------
    SourceError : the voxels cannot be read.
    """
    box = [slice(start, stop) for start, stop in job.box]
    dtype = np.dtype(job.dtype)
    values = isolation.read_voxels(job.candidate, job.volume, job.shape, dtype, box)
    return values.reshape(((1,) * (3 - min(values.ndim, 3)) + values.shape)[-3:])


def encoded(job: BrickJob) -> tuple[NDArray[Any], EncodedBrick]:
    """Read the voxels of a brick and encode them; nothing is written.

    Raises
    ------
    SourceError : the voxels cannot be read.
    PriorMismatchError : the prior does not exist here.
    """
    values = voxels(job)
    sampled = job.kept.range
    brick = encode_brick(
        values,
        position=job.position,
        shape=job.brick_shape,
        mapping=None if sampled is None else IntensityMapping(sampled.low, sampled.high),
        parameters=job.options.parameters(job.step),
        prior=None if job.prior is None else brick_prior(job.prior, job.options.prompt),
        guarantee=Guarantee(
            job.kept.mode,
            job.kept.max_error,
            coders=job.options.coder_names,
            budget=job.kept.budget,
            is_proven_later=_is_proven_later(job),
            is_light=job.options.is_light,
        ),
        options=BrickOptions(
            special_values=job.special_values,
            is_thorough=job.options.is_thorough,
            is_draft=job.is_draft,
            device=job.options.device,
            base=job.kept.base,
            exact_mask=_exact_mask(job, (values.shape[0], values.shape[1], values.shape[2])),
            tile_shape=job.tile_shape,
            limits=job.kept.limits,
        ),
    )
    return values, brick


def _is_proven_later(job: BrickJob) -> bool:
    """Whether the proof before sealing compares the only exact level with the source.

    A refinement decodes to nothing that is farther from the level below than its bound.
    """
    if job.options.no_proof or job.exact is not None:
        return False
    if job.kept.budget is not None:
        return True
    return (job.kept.mode == "lossless") != (job.kept.max_error is not None)


def _exact_mask(job: BrickJob, shape: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """Voxels of the brick to keep exactly; None when there are none."""
    if job.exact is None:
        return None
    inside = [
        (max(first, start) - start, min(last, stop) - start)
        for (start, stop), (first, last) in zip(job.box, job.exact, strict=True)
    ]
    if any(first >= last for first, last in inside):
        return None
    mask = np.zeros(shape, dtype=bool)
    spatial = inside[-3:]
    box = [slice(0, 1)] * (3 - len(spatial)) + [slice(first, last) for first, last in spatial]
    mask[tuple(box)] = True
    return mask


def encode_brick_job(job: BrickJob) -> BrickResult:
    """Read, encode and store one brick of an unfinished archive.

    Parameters
    ----------
    job : BrickJob

    Returns
    -------
    BrickResult

    Raises
    ------
    SourceError : the voxels cannot be read.
    PriorMismatchError : the prior does not exist here.
    StorageError : the archive is not there, is sealed, or cannot be written.

    Notes
    -----
    Doing a job twice writes the same bytes. Memory is bounded by one brick.
    """
    begin = time.perf_counter()
    values, brick = encoded(job)
    return _written(job, values, brick, begin)


def encode_brick_jobs(jobs: Sequence[BrickJob], told: Callable[[BrickResult], None]) -> None:
    """Do several jobs on all cores; bricks are stored one by one in the order of the jobs.

    Parameters
    ----------
    jobs : sequence of BrickJob
    told : callable
        Called with what became of each brick, in order.

    Raises
    ------
    SourceError, PriorMismatchError, StorageError : as `encode_brick_job`, of the first job that
        fails; those before it are stored.

    Notes
    -----
    Memory is bounded by one brick more than there are cores.
    """

    def begun(job: BrickJob) -> tuple[float, NDArray[Any], EncodedBrick]:
        return time.perf_counter(), *encoded(job)

    with in_order(begun, jobs) as bricks:
        for job, (begin, values, brick) in zip(jobs, bricks, strict=True):
            told(_written(job, values, brick, begin))


def _written(job: BrickJob, values: NDArray[Any], brick: EncodedBrick, begin: float) -> BrickResult:
    writer = ArchiveWriter.open_partial(job.target)
    record = writer.write_brick(job.variable, job.position, brick, values=values)
    return BrickResult(
        variable=job.variable,
        position=job.position,
        method=brick.method,
        nbytes=record.size,
        voxels=values.size,
        seconds=time.perf_counter() - begin,
    )


def stored_brick(job: BrickJob) -> BrickResult | None:
    """What became of a brick that is stored whole already; None when it is still to do.

    For schedulers that lose a worker with the results it had: what was stored is read and compared
    with its record, which takes far less than encoding it again.

    Raises
    ------
    StorageError : the archive is not there, or is sealed.
    """
    start = time.perf_counter()
    record = ArchiveWriter.open_partial(job.target).brick_state(job.variable, job.position)
    if record is None:
        return None
    return BrickResult(
        variable=job.variable,
        position=job.position,
        method=record.method,
        nbytes=record.size,
        voxels=math.prod(last - first for first, last in job.box),
        seconds=time.perf_counter() - start,
    )
