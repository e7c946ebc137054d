"""One brick at a time: small frozen jobs that any process can do, always with the same bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from adapters.base import Candidate
from pipelines.options import ArchiveOptions
from pipelines.plan import ItemPlan, VariablePlan, brick_prior, open_item
from psc_volumetric.archive.writer import ArchiveWriter
from psc_volumetric.codec import IntensityMapping, encode_brick

__all__ = ["BrickJob", "BrickResult", "encode_brick_job", "jobs_of"]


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
    box : tuple of (start, stop)
        Voxels of the array that the brick covers.
    brick_shape : (z, y, x)
        Nominal shape.
    low, high : float or None
        Stored values that map to -1 and +1; None for a network-free method.
    special_values : tuple of numbers
    prior : str or None
        Name or folder of the prior; None for a network-free method.
    options : ArchiveOptions
    """

    candidate: Candidate
    target: str
    variable: str
    volume: str
    position: tuple[int, ...]
    box: tuple[tuple[int, int], ...]
    brick_shape: tuple[int, int, int]
    low: float | None
    high: float | None
    special_values: tuple[float | int, ...]
    prior: str | None
    options: ArchiveOptions


@dataclass(frozen=True)
class BrickResult:
    """What became of a brick.

    Attributes
    ----------
    variable, position
        Which one.
    method : str
        ``"constant"``, ``"lossless"`` or ``"psc"``.
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


def jobs_of(item: ItemPlan, variable: VariablePlan, position: tuple[int, ...]) -> BrickJob:
    """The job of one brick of a plan."""
    spec, sampled = variable.spec, variable.range
    coded = variable.method == "psc" and sampled is not None
    return BrickJob(
        candidate=item.candidate,
        target=item.target,
        variable=spec.name,
        volume=variable.volume,
        position=position,
        box=tuple((part.start, part.stop) for part in spec.box(position)),
        brick_shape=spec.brick_shape,
        low=sampled.low if coded and sampled else None,
        high=sampled.high if coded and sampled else None,
        special_values=spec.special_values,
        prior=item.prior if coded else None,
        options=item.options,
    )


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
    item = open_item(job.candidate)
    volume = next(v for v in item.volumes if v.name == job.volume)
    values = np.asarray(volume.array[tuple(slice(start, stop) for start, stop in job.box)])
    values = values.reshape(((1,) * (3 - min(values.ndim, 3)) + values.shape)[-3:])
    coded = job.prior is not None and job.low is not None and job.high is not None
    brick = encode_brick(
        values,
        position=job.position,
        shape=job.brick_shape,
        mapping=IntensityMapping(job.low, job.high)
        if job.low is not None and job.high is not None
        else None,
        parameters=job.options.parameters(),
        prior=brick_prior(job.prior) if coded and job.prior is not None else None,
        special_values=job.special_values,
        device=job.options.device,
    )
    writer = ArchiveWriter.open_partial(job.target)
    record = writer.write_brick(job.variable, job.position, brick, values=values)
    return BrickResult(
        variable=job.variable,
        position=job.position,
        method=record.method,
        nbytes=record.size,
        voxels=values.size,
        seconds=time.perf_counter() - begin,
    )
