"""What an archiving run would do, found out without writing anything.

Discovery, priors, brick grids and intensity mappings are settled here, once; the brick jobs that
follow are small frozen records, so that any process can do any of them and get the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from adapters import isolation
from adapters.base import Candidate, Skipped, SourceItem, Volume
from adapters.errors import SourceError
from adapters.originals import KEPT_KINDS, ORIGINAL, as_original
from adapters.source_files import FileStates, file_states
from pipelines.archiving.deidentified import Deidentifier
from pipelines.archiving.item_report import ITEM_ERRORS, ItemError
from pipelines.archiving.kept_sources import original_notes, reads_originals
from pipelines.archiving.known_sources import KnownSources
from pipelines.archiving.modes import VariableMode, decide
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.planned import (
    ArchivePlan,
    ItemPlan,
    KnownItem,
    VariablePlan,
    seen_of,
)
from pipelines.archiving.prior_choice import check_ships, may_carry_prior, prior_name
from pipelines.archiving.refused import Refused, RefusedSources, is_about_source
from pipelines.archiving.targets import Namer, Naming, is_archive_name, namings, place_of
from pipelines.archiving.variable_specs import PLAIN_TILE, kept_variables, spec_of
from pipelines.restoring.roi import box_text, own_axes, roi_from_indices, roi_from_mm
from psc_volumetric.archive.naming import free_name
from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import Prior, load_prior
from psc_volumetric.prior.bundle import LATENT

__all__ = [
    "ArchivePlan",
    "ItemPlan",
    "KnownItem",
    "VariablePlan",
    "brick_prior",
    "open_item",
    "plan",
    "plan_item",
    "plan_named",
]


def plan(
    source: Path,
    target: str,
    options: ArchiveOptions,
    *,
    namer: Namer | None = None,
    refused: RefusedSources | None = None,
    deidentifier: Deidentifier | None = None,
) -> ArchivePlan:
    """Find what a file or folder holds and decide how each item is archived.

    Parameters
    ----------
    source : Path
        A file or a folder, with any mixture of formats.
    target : str
        One archive when it ends like one (``.psc.zarr``, ``.psc.zarr.zip``), else a folder that
        gets ``<name>.psc.zarr`` per item, see `pipelines.archiving.targets`.
    options : ArchiveOptions
    namer : callable, optional
        Gives the name of an item in the place of its path or series.
    refused : RefusedSources, optional
        The source is an inbox: it may be empty, and what an earlier run refused is passed over.
    deidentifier : Deidentifier, optional
        Plan for de-identified copies; they are made again when the plan is carried out.

    Returns
    -------
    ArchivePlan
        At least one item, if only a known one; none when `refused` is given and there is nothing.
        Items that cannot be archived are listed as skipped.

    Raises
    ------
    SourceError, PscError : nothing can be archived; the error of the first item, with notes on
        the others.
    ExtraMissingError : a method or prior that was asked for takes what is not installed.
    ParameterError : several items and one archive as target (kind ``"several-items"``).
    """
    _opened.cache_clear()
    discover = isolation.discover if refused is None else isolation.look
    found = discover(Path(source), keep=True)
    if is_archive_name(target) and len(found.candidates) > 1:
        raise ParameterError(
            f"expected one item for the archive {target!r}, found {len(found.candidates)}",
            kind="several-items",
            hint="name a folder as target; it gets one archive per item",
        )
    index = KnownSources.load(target, is_folder=not is_archive_name(target))
    items: list[ItemPlan] = []
    known: list[KnownItem] = []
    skipped, aside = _told(found.skipped, refused)
    errors: list[Exception] = []
    names = namings(found.candidates, target, namer)

    stamp = None if deidentifier is None else deidentifier.stamp

    for candidate, naming in zip(found.candidates, names, strict=True):
        try:
            old = None if refused is None else refused.pass_over(seen_of(candidate, options, stamp))
            if old is not None:
                aside.append(old)
                continue
            taken = {item.target for item in items}
            planned = plan_named(candidate, naming, options, index, taken, deidentifier)
            if isinstance(planned, KnownItem):
                known.append(planned)
            else:
                items.append(planned)
        except ITEM_ERRORS as error:
            errors.append(error)
            why = ItemError.of(error)
            skipped.append(Skipped(candidate.paths[0], why.message, why.kind, why.hint))
            if refused is not None and is_about_source(error):
                seen = seen_of(candidate, options, stamp)
                refused.add(seen, [*map(str, candidate.paths)], why)
    if not items and not known and refused is None:
        for other in errors[1:]:
            errors[0].add_note(str(other))
        raise errors[0]
    return ArchivePlan(tuple(items), tuple(skipped), options, target, tuple(known), tuple(aside))


def _told(
    left_out: Sequence[Skipped], refused: RefusedSources | None
) -> tuple[list[Skipped], list[Refused]]:
    """Files that discovery left out: those to be told, and those that were told before."""
    if refused is None:
        return list(left_out), []
    return refused.sort_out(left_out)


def plan_named(
    candidate: Candidate,
    naming: Naming,
    options: ArchiveOptions,
    index: KnownSources,
    taken: Collection[str] = (),
    deidentifier: Deidentifier | None = None,
) -> ItemPlan | KnownItem:
    """Plan one item and choose its target, none of those taken; a known item is not read.

    Raises
    ------
    SourceError, PscError : as `plan_item`.
    """
    seen = seen_of(candidate, options, None if deidentifier is None else deidentifier.stamp)
    archive = index.find(seen)
    if archive is not None:
        return KnownItem(candidate.label, candidate.kind, archive)
    clean, warnings = candidate, tuple[str, ...]()
    if deidentifier is not None:
        clean, warnings = deidentifier.copy_of(candidate)
    try:
        item = plan_item(clean, naming.target, options)
    finally:
        if deidentifier is not None:
            deidentifier.drop(clean)  # the disk holds those of one item at a time
    target, state = place_of(naming, item.files, item.provenance, taken)
    return replace(
        item,
        target=target,
        state=state,
        source_path=naming.path,
        seen=seen,
        paths=candidate.paths,
        notes=(*item.notes, *warnings),
    )


def open_item(candidate: Candidate) -> SourceItem:
    """Open a source once per process while its files stay the same."""
    return _opened(candidate, file_states(candidate.paths))


@lru_cache(maxsize=2)
def _opened(candidate: Candidate, _: FileStates) -> SourceItem:
    return isolation.open_source(candidate)


@lru_cache(maxsize=2)
def brick_prior(name: str, prompt: str | None = None) -> Prior:
    """Load a prior once per process, and tell it a prompt."""
    prior = load_prior(name)
    return prior if prompt is None else prior.told(prompt)


def plan_item(candidate: Candidate, target: str, options: ArchiveOptions) -> ItemPlan:
    """Decide how one candidate is archived; opens it and reads a thin sample of each volume.

    A sound source without a volume that can be coded is kept as it is.

    Raises
    ------
    SourceError : it cannot be opened.
    PriorMismatchError : the prior does not exist.
    ParameterError : it is to be left out of the archive and does not ship.
    """
    try:
        return _plan_volumes(candidate, target, options)
    except SourceError as error:
        if error.kind not in KEPT_KINDS or candidate.kind == ORIGINAL:
            raise
        return _plan_volumes(as_original(candidate, error.message), target, options)


def _plan_volumes(candidate: Candidate, target: str, options: ArchiveOptions) -> ItemPlan:
    item = open_item(candidate)
    if not any((candidate.kind == ORIGINAL, item.volumes, item.arrays, item.blobs, item.groups)):
        raise SourceError("no volume found", kind="no-volume", path=candidate.paths[0])
    may_carry, passed_over = may_carry_prior(item, options)
    inside = reads_originals(item, options)
    volumes = () if inside else item.volumes
    decided = [(v, decide(v, options, may_carry=may_carry)) for v in volumes]
    ranges = [kept.range for _, kept in decided if kept.range is not None]
    notes = [*item.notes, *(note for sampled in ranges for note in sampled.notes)]
    notes += original_notes(item, options)
    name, tile, digest = None, PLAIN_TILE, None
    if any(kept.needs_prior for _, kept in decided):
        name, note = prior_name(item, options, ranges)
        notes += [note] if note else []
    elif options.prior is not None:
        check_ships(brick_prior(options.prior), options)
    elif ranges and passed_over:
        notes.append(passed_over)
    if name is None:
        decided = [(volume, replace(kept, needs_prior=False)) for volume, kept in decided]
        options = _without_prompt(item, options)
    else:
        options = _with_prompt(item, options, brick_prior(name))
        prior = brick_prior(name, options.prompt)
        check_ships(prior, options)
        tile, digest = prior.voxels or PLAIN_TILE, prior.digest
    axes = frozenset(dim for volume in item.volumes for dim in volume.dims)
    variables: list[VariablePlan] = []
    taken: set[str] = set()
    for volume, kept in decided:
        key = free_name(volume.name, taken)
        taken.add(key)
        exact = _exact_region(volume, options, axes) if kept.mode != "lossless" else None
        shape, prior_digest = (tile, digest) if kept.needs_prior else (PLAIN_TILE, None)
        parameters = _parameters(volume, key, options, kept, exact)
        spec = spec_of(volume, key, shape, prior_digest, parameters, kept.range)
        variables.append(VariablePlan(spec, volume.name, kept, exact))
    if variables and (options.exact_roi or options.exact_roi_mm):
        _check_region_is_used(variables, options)
    return ItemPlan(
        candidate,
        target,
        options,
        name,
        tuple(variables),
        tuple(notes),
        item.files,
        identifies=item.identifies,
        kept=tuple(kept_variables(item.volumes)) if inside else (),
    )


def _with_prompt(item: SourceItem, options: ArchiveOptions, prior: Prior) -> ArchiveOptions:
    """Options with what the prior is told of an item.

    Raises
    ------
    ParameterError : a prompt for DICOM (kind ``"bad-prompt"``): it could say who the patient is.
    """
    if item.words is None or prior.kind != LATENT:
        return options
    _refuse_typed_words(options)
    reads = prior.space is not None and prior.space.words is not None
    return replace(options, prompt=item.words if reads else None)


def _without_prompt(item: SourceItem, options: ArchiveOptions) -> ArchiveOptions:
    """Options without a prompt that nothing is coded by; it is refused for what others are.

    Raises
    ------
    ParameterError : typed for DICOM, too long, or for a prior that reads none.
    """
    if options.prompt is None:
        return options
    if item.words is not None:
        _refuse_typed_words(options)
    if options.prior is not None:
        brick_prior(options.prior, options.prompt)
    return replace(options, prompt=None)


def _refuse_typed_words(options: ArchiveOptions) -> None:
    if options.prompt is not None:
        raise ParameterError(
            "a prompt for DICOM is made of its headers, in words of a closed list, so that nothing "
            "in an archive tells who the patient is",
            kind="bad-prompt",
            hint="leave --prompt out",
        )


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
    name: str,
    options: ArchiveOptions,
    kept: VariableMode,
    exact: tuple[slice, ...] | None,
) -> dict[str, Any]:
    """Record of how a variable is coded, and its name in the source where that is another one.

    The step of a target is not known yet: rate control adds it.
    """
    record = {"volume": None if volume.name == name else volume.name, **kept.to_dict()}
    if exact is not None:
        record["exact_roi"] = box_text(exact, volume.dims)
    if kept.max_error is not None and options.max_error is not None:
        record["max_error_wanted"] = [options.max_error, options.max_error_unit]
    if kept.base == "none" or kept.range is None:
        return record
    coding = options.parameters().to_dict()
    if not kept.needs_prior:
        coding = {"step": coding["step"]}
    if options.target is not None:
        record["target"] = list(options.target)
        del coding["step"]
    if options.prompt is not None:
        coding["prompt"] = options.prompt
    return {**record, **coding, "low": kept.range.low, "high": kept.range.high}
