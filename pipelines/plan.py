"""What an archiving run would do, found out without writing anything.

Discovery, priors, brick grids and intensity mappings are settled here, once; the brick jobs that
follow are small frozen records, so that any process can do any of them and get the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from adapters import isolation
from adapters.base import Candidate, FileRecord, Skipped, SourceItem, Volume
from adapters.errors import SourceError
from adapters.originals import KEPT_KINDS, ORIGINAL, as_original
from pipelines.intensity import SampledRange
from pipelines.item_report import ITEM_ERRORS, ItemError, holds_data
from pipelines.modes import VariableMode, decide
from pipelines.options import CT_PRIOR, ArchiveOptions, choose_prior
from pipelines.roi import box_text, own_axes, roi_from_indices, roi_from_mm
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
    kept : VariableMode
        What is promised, and how.
    exact : tuple of slice or None
        Region that is kept exactly though the rest is not.
    """

    spec: VariableSpec
    volume: str
    kept: VariableMode
    exact: tuple[slice, ...] | None = None

    @property
    def method(self) -> str:
        """``"psc"`` when it has lossy levels, else ``"lossless"``."""
        return "lossless" if self.kept.base == "none" else "psc"

    @property
    def reason(self) -> str | None:
        """Why it is kept more exactly than was asked for, in words."""
        return self.kept.reason

    @property
    def range(self) -> SampledRange | None:
        """Stored values behind the intensity mapping; None where they were not sampled."""
        return self.kept.range

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
            "mode": self.kept.mode,
            "max_error_allowed": self.kept.max_error,
            "exact_roi": None if self.exact is None else box_text(self.exact, self.spec.dims),
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
    files : tuple of FileRecord
        The source files as they were when the plan was made.
    """

    candidate: Candidate
    target: str
    options: ArchiveOptions
    prior: str | None
    variables: tuple[VariablePlan, ...]
    notes: tuple[str, ...]
    files: tuple[FileRecord, ...]

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
    """Everything found in a source: archives to make in ``target``, what is left out, and why."""

    items: tuple[ItemPlan, ...]
    skipped: tuple[Skipped, ...]
    options: ArchiveOptions
    target: str

    @property
    def failed(self) -> tuple[Skipped, ...]:
        """Those left out that may hold data."""
        return tuple(entry for entry in self.skipped if holds_data(entry))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        return {
            "options": self.options.to_dict(),
            "items": [item.to_dict() for item in self.items],
            "skipped": [
                {
                    "path": str(entry.path),
                    "reason": entry.reason,
                    "kind": entry.kind,
                    "hint": entry.hint,
                    "holds_data": holds_data(entry),
                }
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
        At least one item. Items that cannot be archived are listed as skipped.

    Raises
    ------
    SourceError, PscError : nothing can be archived; the error of the first item, with notes on
        the others.
    ParameterError : several items and one archive as target (kind ``"several-items"``).
    """
    open_item.cache_clear()
    found = isolation.discover(Path(source), keep=True)
    if is_archive_name(target) and len(found.candidates) > 1:
        raise ParameterError(
            f"expected one item for the archive {target!r}, found {len(found.candidates)}",
            kind="several-items",
            hint="name a folder as target; it gets one archive per item",
        )
    items: list[ItemPlan] = []
    skipped = list(found.skipped)
    errors: list[Exception] = []
    for candidate in found.candidates:
        try:
            items.append(plan_item(candidate, target_for(candidate.name, target), options))
        except ITEM_ERRORS as error:
            errors.append(error)
            why = ItemError.of(error)
            skipped.append(Skipped(candidate.paths[0], why.message, why.kind, why.hint))
    if not items:
        for other in errors[1:]:
            errors[0].add_note(str(other))
        raise errors[0]
    return ArchivePlan(tuple(items), tuple(skipped), options, target)


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
    return isolation.open_source(candidate)


@lru_cache(maxsize=2)
def brick_prior(name: str) -> Prior:
    """Load a prior once per process."""
    return load_prior(name)


def plan_item(candidate: Candidate, target: str, options: ArchiveOptions) -> ItemPlan:
    """Decide how one candidate is archived; opens it and reads a thin sample of each volume.

    A sound source without a volume that can be coded is kept as it is.

    Raises
    ------
    SourceError : it cannot be opened.
    PriorMismatchError : the prior does not exist.
    """
    try:
        return _plan_volumes(candidate, target, options)
    except SourceError as error:
        if error.kind not in KEPT_KINDS or candidate.kind == ORIGINAL:
            raise
        return _plan_volumes(as_original(candidate, error.message), target, options)


def _plan_volumes(candidate: Candidate, target: str, options: ArchiveOptions) -> ItemPlan:
    item = open_item(candidate)
    if not item.volumes and not item.arrays and candidate.kind != ORIGINAL:
        raise SourceError("no volume found", kind="no-volume", path=candidate.paths[0])
    decided = [(volume, decide(volume, options)) for volume in item.volumes]
    ranges = [kept.range for _, kept in decided if kept.range is not None]
    notes = [*item.notes, *(note for sampled in ranges for note in sampled.notes)]
    name, tile, digest = None, PLAIN_TILE, None
    if any(kept.needs_prior for _, kept in decided):
        suggested = item.suggested_prior
        if suggested is None and any(sampled.hounsfield for sampled in ranges):
            suggested = CT_PRIOR
        name, note = choose_prior(options.prior, suggested, tuple(installed_priors()))
        prior = brick_prior(name)
        tile, digest = prior.tile_shape, prior.digest
        notes += [note] if note else []
    elif options.prior is not None:
        brick_prior(options.prior)
    axes = frozenset(dim for volume in item.volumes for dim in volume.dims)
    variables: list[VariablePlan] = []
    taken: set[str] = set()
    for volume, kept in decided:
        key = free_name(volume.name, taken)
        taken.add(key)
        exact = _exact_region(volume, options, axes) if kept.mode != "lossless" else None
        shape, prior_digest = (tile, digest) if kept.needs_prior else (PLAIN_TILE, None)
        parameters = _parameters(volume, options, kept, exact)
        spec = _spec(volume, key, shape, prior_digest, parameters, kept.range)
        variables.append(VariablePlan(spec, volume.name, kept, exact))
    if variables and (options.exact_roi or options.exact_roi_mm):
        _check_region_is_used(variables, options)
    return ItemPlan(candidate, target, options, name, tuple(variables), tuple(notes), item.files)


def _exact_region(
    volume: Volume, options: ArchiveOptions, axes: frozenset[str]
) -> tuple[slice, ...] | None:
    """Box of the region to keep exactly, or None; whole along what only others of ``axes`` have.

    Raises
    ------
    ParameterError : the region names other axes or is outside the volume.
    """
    shape = tuple(volume.array.shape)
    if options.exact_roi is not None:
        text = own_axes(options.exact_roi, dims=volume.dims, others=axes)
        return None if text is None else roi_from_indices(text, dims=volume.dims, shape=shape)
    if options.exact_roi_mm is not None:
        return roi_from_mm(options.exact_roi_mm, affine=volume.affine, shape=shape)
    return None


def _check_region_is_used(variables: Sequence[VariablePlan], options: ArchiveOptions) -> None:
    if all(variable.exact is None for variable in variables):
        raise ParameterError(
            f"expected a variable that mode {options.mode} changes, found none: everything is kept "
            "exactly anyway",
            kind="needless-roi",
            hint="leave --roi-lossless out",
        )


def _parameters(
    volume: Volume,
    options: ArchiveOptions,
    kept: VariableMode,
    exact: tuple[slice, ...] | None,
) -> dict[str, Any]:
    """Record of how a variable is coded; ``volume`` is its name in the source.

    The step of a target is not known yet: rate control adds it.
    """
    record: dict[str, Any] = {"volume": volume.name, **kept.to_dict()}
    if exact is not None:
        record["exact_roi"] = box_text(exact, volume.dims)
    if kept.max_error is not None:
        record["max_error_wanted"] = [options.max_error, options.max_error_unit]
    if kept.base == "none" or kept.range is None:
        return record
    coding = options.parameters().to_dict()
    if options.target is not None:
        record["target"] = list(options.target)
        del coding["step"]
    return {**record, **coding, "low": kept.range.low, "high": kept.range.high}


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
            raw_dtype=volume.raw_dtype,
        )
    except PscError as error:
        raise SourceError(
            f"variable {volume.name!r} cannot be coded: {error}", kind="unsupported-volume"
        ) from error
