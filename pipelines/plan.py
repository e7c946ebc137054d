"""What an archiving run would do, found out without writing anything.

Discovery, priors, brick grids and intensity mappings are settled here, once; the brick jobs that
follow are small frozen records, so that any process can do any of them and get the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import adapters
from adapters.base import Candidate, Skipped, SourceItem, Volume
from adapters.errors import SourceError
from pipelines.intensity import SampledRange, judge
from pipelines.options import CT_PRIOR, ArchiveOptions, choose_prior
from psc_volumetric.archive.layout import SUFFIXES, VariableSpec
from psc_volumetric.archive.naming import free_name
from psc_volumetric.errors import ParameterError, PscError
from psc_volumetric.parameters import EFFORTS
from psc_volumetric.prior import Prior, installed_priors, load_prior
from psc_volumetric.tiling import default_brick_shape

__all__ = [
    "ArchivePlan",
    "ItemPlan",
    "VariablePlan",
    "brick_prior",
    "is_archive_name",
    "open_item",
    "plan",
    "plan_item",
    "target_for",
]

SUFFIX = SUFFIXES[0]
PLAIN_TILE = (8, 64, 64)


@dataclass(frozen=True, eq=False)
class VariablePlan:
    """How one volume becomes one array of the archive.

    Attributes
    ----------
    spec : VariableSpec
        The array.
    volume : str
        Name of the volume in the source item.
    method : str
        ``"psc"`` or ``"lossless"`` (the prior cannot code it).
    reason : str or None
        Why it is lossless, in words.
    range : SampledRange or None
        Stored values behind the intensity mapping; None without measured variation.
    """

    spec: VariableSpec
    volume: str
    method: str
    reason: str | None
    range: SampledRange | None

    @property
    def bricks(self) -> int:
        """Number of bricks."""
        return math.prod(self.spec.grid_shape)

    @property
    def tiles(self) -> int:
        """Number of tiles the network sees."""
        return math.prod(self.spec.tile_grid_shape) if self.method == "psc" else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        return {
            "name": self.spec.name,
            "shape": list(self.spec.shape),
            "dims": list(self.spec.dims),
            "dtype": self.spec.dtype.name,
            "brick_shape": list(self.spec.brick_shape),
            "bricks": self.bricks,
            "tiles": self.tiles,
            "source_bytes": self.spec.nbytes,
            "method": self.method,
            "reason": self.reason,
        }


@dataclass(frozen=True, eq=False)
class ItemPlan:
    """One archive to be made.

    Attributes
    ----------
    candidate : Candidate
        The source files.
    target : str
        Path or URL of the archive.
    options : ArchiveOptions
    prior : str or None
        Name of the prior; None when no variable needs one.
    variables : tuple of VariablePlan
    notes : tuple of str
        Warnings in words, without patient identifiers.
    """

    candidate: Candidate
    target: str
    options: ArchiveOptions
    prior: str | None
    variables: tuple[VariablePlan, ...]
    notes: tuple[str, ...]

    @property
    def bricks(self) -> int:
        """Number of bricks of all variables."""
        return sum(variable.bricks for variable in self.variables)

    @property
    def source_bytes(self) -> int:
        """Bytes of the stored values, uncoded."""
        return sum(variable.spec.nbytes for variable in self.variables)

    @property
    def evaluations(self) -> int | None:
        """Network evaluations if every tile uses its full effort; None for ``paper``."""
        if self.options.setting != "fast":
            return None
        steps, particles = EFFORTS[self.options.effort]
        return steps * particles * sum(variable.tiles for variable in self.variables)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        return {
            "name": self.candidate.name,
            "kind": self.candidate.kind,
            "files": len(self.candidate.paths),
            "target": self.target,
            "prior": self.prior,
            "bricks": self.bricks,
            "source_bytes": self.source_bytes,
            "network_evaluations": self.evaluations,
            "variables": [variable.to_dict() for variable in self.variables],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class ArchivePlan:
    """Everything found in a source: archives to make, and what is left out and why."""

    items: tuple[ItemPlan, ...]
    skipped: tuple[Skipped, ...]
    options: ArchiveOptions

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        return {
            "options": self.options.to_dict(),
            "items": [item.to_dict() for item in self.items],
            "skipped": [
                {"path": str(entry.path), "reason": entry.reason, "kind": entry.kind}
                for entry in self.skipped
            ],
        }


def plan(source: Path, target: str, options: ArchiveOptions) -> ArchivePlan:
    """Find what a file or folder holds and decide how each item is archived.

    Parameters
    ----------
    source : Path
        A file or a folder, with any mixture of formats.
    target : str
        One archive when it ends like one (``.psc.zarr``, ``.psc.zarr.zip``), else a folder that
        gets ``<name>.psc.zarr`` per item.
    options : ArchiveOptions

    Returns
    -------
    ArchivePlan
        At least one item. Items whose source cannot be opened are listed as skipped.

    Raises
    ------
    SourceError : nothing can be archived; with a single candidate, its own error.
    ParameterError : several items and one archive as target (kind ``"several-items"``).
    PriorMismatchError : the prior does not exist.
    """
    open_item.cache_clear()
    found = adapters.discover(Path(source))
    if is_archive_name(target) and len(found.candidates) > 1:
        raise ParameterError(
            f"expected one item for the archive {target!r}, found {len(found.candidates)}",
            kind="several-items",
            hint="name a folder as target; it gets one archive per item",
        )
    items: list[ItemPlan] = []
    skipped = list(found.skipped)
    for candidate in found.candidates:
        try:
            items.append(plan_item(candidate, target_for(candidate.name, target), options))
        except SourceError as error:
            if len(found.candidates) == 1:
                raise
            skipped.append(Skipped(candidate.paths[0], str(error), error.kind))
    if not items:
        raise SourceError(
            f"none of {len(found.candidates)} items can be archived, the first because: "
            f"{skipped[-1].reason}",
            kind="nothing-archivable",
            path=Path(source),
        )
    return ArchivePlan(tuple(items), tuple(skipped), options)


def is_archive_name(target: str) -> bool:
    """Whether a target names one archive rather than a folder for several."""
    return target.rstrip("/").lower().endswith(SUFFIXES)


def target_for(name: str, target: str) -> str:
    """Path or URL of the archive of one item."""
    if is_archive_name(target):
        return target.rstrip("/")
    return f"{target.rstrip('/') or target}/{name}{SUFFIX}"


@lru_cache(maxsize=2)
def open_item(candidate: Candidate) -> SourceItem:
    """Open a source once per process; brick jobs of one item follow one another."""
    return adapters.open_source(candidate)


@lru_cache(maxsize=2)
def brick_prior(name: str) -> Prior:
    """Load a prior once per process."""
    return load_prior(name)


def plan_item(candidate: Candidate, target: str, options: ArchiveOptions) -> ItemPlan:
    """Decide how one candidate is archived; opens it and reads a thin sample of each volume.

    Raises
    ------
    SourceError : it cannot be opened, or has nothing that can be archived.
    PriorMismatchError : the prior does not exist.
    """
    item = open_item(candidate)
    judged = [(volume, *judge(volume)) for volume in item.volumes]
    notes = [*item.notes, *(note for _, sampled, _ in judged if sampled for note in sampled.notes)]
    if not judged:
        raise SourceError("no volume found", kind="nothing-found", path=candidate.paths[0])
    name, tile, digest = None, PLAIN_TILE, None
    if any(reason is None for _, _, reason in judged):
        hounsfield = any(sampled is not None and sampled.hounsfield for _, sampled, _ in judged)
        suggested = item.suggested_prior or (CT_PRIOR if hounsfield else None)
        name, note = choose_prior(options.prior, suggested, tuple(installed_priors()))
        prior = brick_prior(name)
        tile, digest = prior.tile_shape, prior.digest
        notes += [note] if note else []
    elif options.prior is not None:
        brick_prior(options.prior)
    variables: list[VariablePlan] = []
    taken: set[str] = set()
    for volume, sampled, reason in judged:
        key = free_name(volume.name, taken)
        taken.add(key)
        spec = _spec(
            volume,
            key,
            tile if reason is None else PLAIN_TILE,
            digest if reason is None else None,
            _parameters(volume, options, sampled if reason is None else None),
            sampled,
        )
        method = "psc" if reason is None else "lossless"
        variables.append(VariablePlan(spec, volume.name, method, reason, sampled))
    return ItemPlan(candidate, target, options, name, tuple(variables), tuple(notes))


def _parameters(
    volume: Volume, options: ArchiveOptions, sampled: SampledRange | None
) -> dict[str, Any]:
    """Record of how a variable is coded; ``volume`` is its name in the source."""
    if sampled is None:
        return {"volume": volume.name, "method": "lossless"}
    return {
        "volume": volume.name,
        "method": "psc",
        **options.parameters().to_dict(),
        "low": sampled.low,
        "high": sampled.high,
    }


def _spec(
    volume: Volume,
    name: str,
    tile: tuple[int, int, int],
    prior: str | None,
    parameters: dict[str, Any],
    sampled: SampledRange | None,
) -> VariableSpec:
    shape = tuple(volume.array.shape)
    z, y, x = ((1,) * (3 - min(len(shape), 3)) + shape)[-3:]
    try:
        return VariableSpec(
            name=name,
            shape=shape,
            dtype=np.dtype(volume.array.dtype),
            dims=volume.dims,
            brick_shape=default_brick_shape((z, y, x), tile),
            tile_shape=tile,
            unit=volume.unit,
            slope=volume.slope,
            intercept=volume.intercept,
            affine=volume.affine,
            spacing_mm=volume.spacing_mm,
            special_values=sampled.special_values if sampled else volume.special_values,
            attrs=volume.attrs,
            coordinates=(),
            prior=prior,
            parameters=parameters,
        )
    except PscError as error:
        raise SourceError(
            f"variable {volume.name!r} cannot be archived: {error}", kind=error.kind
        ) from error
