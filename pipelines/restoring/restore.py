"""Archives back to their source format: whole or a region, at any quality level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import adapters
from adapters.base import RestoreInfo
from adapters.staging import clear_unfinished
from pipelines.collection import only_archive
from pipelines.progress import Progress, Silent
from pipelines.restoring.decoded import restored_volumes, touched
from pipelines.restoring.derived_source import DERIVED, STRIPPED
from pipelines.restoring.opening import open_with_key, readable_source
from pipelines.restoring.options import RestoreOptions
from pipelines.restoring.proof import (
    PROMISES,
    FileProof,
    describe,
    outcome_counts,
    prove,
    remove_written,
)
from pipelines.restoring.rescue import FILLED, NO_DAMAGE, Damage, Rescue, levels_of
from pipelines.restoring.roi import box_text, own_axes, roi_from_indices, roi_from_mm
from pipelines.restoring.roi_coordinates import roi_from_coordinates
from pipelines.restoring.viewed import as_view, viewer_of
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.archive.levels import Level, is_exact_at, level_number
from psc_volumetric.archive.naming import node_path
from psc_volumetric.archive.quota import Cost, Deadline, cost_of
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.targets import refuse_within_archive
from psc_volumetric.bitstream.index import BrickIndex
from psc_volumetric.errors import ParameterError, StorageError
from psc_volumetric.views import ViewRequest

__all__ = [
    "RestoreOptions",
    "RestorePlan",
    "RestoreReport",
    "dry_restore",
    "plan_restore",
    "restore",
    "restore_info",
]


@dataclass(frozen=True)
class RestorePlan:
    """Region per variable and what decoding it involves.

    Attributes
    ----------
    boxes : dict
        Variable name -> one half-open slice per axis.
    level : int, str or None
    levels : int
        Quality levels the archive has.
    """

    boxes: dict[str, tuple[slice, ...]]
    level: Level
    levels: int
    dims: dict[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        return {
            "level": self.level,
            "levels": self.levels,
            "variables": {
                name: {
                    "region": box_text(box, self.dims[name]),
                    "shape": [part.stop - part.start for part in box],
                }
                for name, box in self.boxes.items()
            },
        }


@dataclass(frozen=True)
class RestoreReport:
    """What was written.

    Attributes
    ----------
    files : tuple of str
    kind : str
        Source format.
    lossless : bool
        Whether every restored value is the source's.
    max_error : float or None
        Bound that lossy values keep, in stored units; None when there is none.
    plan : RestorePlan
    proofs : tuple of FileProof
        What each file is, compared with its source; same order as ``files``.
    notes : tuple of str
    damage : Damage
        What could not be read and was filled.
    """

    files: tuple[str, ...]
    kind: str
    lossless: bool
    max_error: float | None
    plan: RestorePlan
    proofs: tuple[FileProof, ...]
    notes: tuple[str, ...]
    damage: Damage = NO_DAMAGE

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "kind": self.kind,
            "lossless": self.lossless,
            "max_error": self.max_error,
            "files": list(self.files),
            "outcomes": outcome_counts(self.proofs),
            "proofs": [proof.to_dict() for proof in self.proofs],
            "notes": list(self.notes),
            "damage": self.damage.to_dict(),
            **self.plan.to_dict(),
        }


def plan_restore(reader: ArchiveReader, options: RestoreOptions) -> RestorePlan:
    """Work out the region of every variable that is asked for.

    Raises
    ------
    ParameterError : unknown variable or axis; a region outside a volume (kind ``"roi-outside"``).
    """
    known = reader.variables | {name: kept.spec for name, kept in reader.kept.items()}
    chosen = options.variables or tuple(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ParameterError(
            f"expected variables among {', '.join(known)}, found {unknown[0]!r}",
            kind="unknown-variable",
            hint="`psc-archive ls` lists them",
        )
    specs = [known[name] for name in chosen]
    axes = frozenset(dim for spec in specs for dim in spec.dims)
    boxes = {spec.name: _box(reader, spec, options, axes) for spec in specs}
    skip = options.skip_damaged
    coded = [name for name in chosen if name in reader.variables]
    levels = max((levels_of(reader, name, skip_damaged=skip) for name in coded), default=0)
    return RestorePlan(boxes, options.level, levels, {s.name: s.dims for s in specs})


def dry_restore(archive: str, target: Path, options: RestoreOptions) -> RestorePlan:
    """What `restore` would do; the same errors for region and target, nothing decoded."""
    archive = only_archive(archive)
    with open_with_key(archive, options.identity) as reader:
        plan = plan_restore(reader, options)
        refuse_existing(readable_source(reader).kind, target)
    return plan


def _box(
    reader: ArchiveReader, spec: VariableSpec, options: RestoreOptions, axes: frozenset[str]
) -> tuple[slice, ...]:
    """Region of one variable, whole along the axes that only others of ``axes`` have."""
    if options.roi_mm is not None:
        return roi_from_mm(options.roi_mm, affine=spec.affine, shape=spec.shape)
    whole = tuple(slice(0, size) for size in spec.shape)
    if options.roi is not None:
        text = own_axes(options.roi, dims=spec.dims, others=axes)
        return whole if text is None else roi_from_indices(text, dims=spec.dims, shape=spec.shape)
    if options.roi_coords is not None:
        text = own_axes(options.roi_coords, dims=spec.dims, others=axes)
        known = {name: reader.coordinate(name) for name in spec.coordinates}
        found = {  # those of the variable's own group, then those above it
            known[name].dims[0]: known[name]
            for name in sorted(known, key=lambda name: name.count("/"))
            if known[name].dims == (name.rpartition("/")[2],)
        }
        if text is not None:
            return roi_from_coordinates(
                text,
                dims=spec.dims,
                shape=spec.shape,
                coordinates={name: np.asarray(c.values) for name, c in found.items()},
                attrs={name: c.attrs for name, c in found.items()},
            )
    return whole


def restore(
    archive: str, target: Path, options: RestoreOptions, progress: Progress | None = None
) -> RestoreReport:
    """Decode an archive, or a region of it, and write the source format again.

    Parameters
    ----------
    archive : str
        Path or URL of a sealed archive.
    target : Path
        DICOM: a folder, new or empty. Other formats: a file name, or a folder.
    options : RestoreOptions
    progress : Progress, optional
        Told about every variable.

    Returns
    -------
    RestoreReport

    Raises
    ------
    FormatError : the archive is damaged; nothing is written.
    ParameterError : the region is outside the volume.
    StorageError : the target exists (kind ``"target-exists"``), or is inside an archive
        (``"within-archive"``).
    LimitExceededError : it costs more than the quota (kind ``"quota"``); nothing is written.
    ParameterError : the fill value does not fit a variable (kind ``"bad-fill"``).
    SourceError : the source format cannot be written.
    UnsupportedVersionError : another release reads it, or knows its source format.
    ProofError : a file that was promised to be its source is not (kind ``"not-the-source"``);
        nothing stays written.

    Notes
    -----
    Bricks are decoded while the files are written; memory is bounded by a row of bricks, see
    `pipelines.restoring.decoded.DecodedArray`.
    """
    shown = progress or Silent()
    archive = only_archive(archive)
    with open_with_key(archive, options.identity, device=options.device) as reader:
        plan = plan_restore(reader, options)
        source = readable_source(reader)
        refuse_within_archive(target)
        clear_unfinished(target)
        refuse_existing(source.kind, target)
        coded = {name: box for name, box in plan.boxes.items() if name in reader.variables}
        rescue = Rescue.of(reader, coded, plan.level, options.fill, options.skip_damaged)
        level = plan.level if coded else None  # originals have no levels
        info = rescue.told(restore_info(reader, coded, level, rescue))
        info = as_view(info, options.view, source.kind, allows_dicom=options.generated_dicom)
        notes = _notes(reader, tuple(coded), info)
        bricks = sum(1 for name, box in coded.items() for _ in touched(reader.variables[name], box))
        cost = _cost(reader, coded, plan.level, rescue, options.view)
        clock = options.quota.begin(cost, f"restoring {reader.name}")
        shown.begin("restoring", bricks)
        told = partial(_one_more, clock, shown)
        instead = rescue.salvage or viewer_of(reader, options.view)
        volumes = restored_volumes(reader, plan.boxes, plan.level, told, instead)
        with volumes as arrays:
            written = adapters.restore_source(
                source.kind, source.document, source.blobs, arrays, target, info
            )
        try:
            damage = rescue.finish(source.kind, target, written)
        except StorageError:  # without their mask the files would say less than is known
            remove_written(written)
            raise
    if source.document.get(DERIVED):
        written = [replace(file, outcome=STRIPPED) for file in written]
    if damage:
        written = [replace(file, outcome=FILLED) for file in written]
    promises = source.document.get(PROMISES, [])
    proofs = (
        prove(source.kind, written, source.files, promises)
        if options.prove and not source.document.get(DERIVED) and not damage
        else tuple(describe(file, None, proven=False) for file in written)
    )
    return RestoreReport(
        files=tuple(str(file.path) for file in written),
        kind=source.kind,
        lossless=info.lossless,
        max_error=info.max_error,
        plan=plan,
        proofs=proofs,
        notes=tuple(notes),
        damage=damage,
    )


def _one_more(clock: Deadline, shown: Progress) -> None:
    """Another brick was decoded."""
    clock.check()
    shown.advance()


def _cost(
    reader: ArchiveReader,
    boxes: Mapping[str, tuple[slice, ...]],
    level: Level,
    rescue: Rescue,
    view: ViewRequest,
) -> Cost:
    """What restoring reads, decodes and draws."""
    beside = [sum(reader.manifest.chunks(node_path(name))) for name in reader.arrays]
    headers = sum(entry.size for entry in reader.manifest.under("source/").values())
    total = Cost(headers + sum(beside))
    for name, box in boxes.items():
        spec = reader.variables[name]
        good = (p for p in touched(spec, box) if not rescue.is_damaged(name, p))
        headers_of = [reader.brick_index(name, position) for position in good]
        bricks = ((index, level_number(index, level)) for index in headers_of)
        cost = cost_of(spec, [part.stop - part.start for part in box], bricks)
        if view.is_generated:
            drawing = sum(view.evaluations(index.fields) for index in headers_of)
            cost = replace(cost, evaluations=drawing)
        total += cost
    return total


def _notes(reader: ArchiveReader, names: Sequence[str], info: RestoreInfo) -> list[str]:
    """What has to be said beside the outcome."""
    before = any(reader.variables[name].attrs.get("lossy_before") for name in names)
    note = "the source was already compressed with loss: its values are not those of the scanner"
    drawn = [] if info.generated is None else [f"{info.generated}: drawn, not measured"]
    return [*([note] if before else []), *drawn]


def restore_info(
    reader: ArchiveReader,
    boxes: Mapping[str, tuple[slice, ...]],
    level: Level,
    rescue: Rescue | None = None,
) -> RestoreInfo:
    """Whether the values are the source's, compression ratio, method and bound, for labels.

    Bricks that `rescue` knows to be damaged are left out.
    """
    stored, raw, exact = 0, 0, True
    bounds: list[float | None] = []
    methods: set[str] = set()
    for name, box in boxes.items():
        spec = reader.variables[name]
        for position in touched(spec, box):
            if rescue is not None and rescue.is_damaged(name, position):
                continue
            index = reader.brick_index(name, position)
            number = level_number(index, level)
            stored += index.level_nbytes(number)
            raw += math.prod(index.valid) * spec.dtype.itemsize
            last = number == index.levels - 1
            if is_exact_at(index, level) or (last and _in_exact_region(spec, box, position)):
                continue
            exact = False
            bounds.append(_bound(index, number))
            methods.add("BOUNDED" if bounds[-1] is not None else index.method.upper())
    known = [bound for bound in bounds if bound is not None]
    return RestoreInfo(
        lossless=exact,
        ratio=raw / stored if stored else None,
        method=" ".join(sorted(methods)) or "EXACT",
        level=level,
        max_error=max(known) if known and len(known) == len(bounds) else None,
    )


def _bound(index: BrickIndex, level: int) -> float | None:
    """Bound that a brick's level keeps: its own, or that of the one an exact region lies in."""
    layers = index.layers[: max(0, level - index.base_levels + 1)]
    bounds = [layer.grid.bound for layer in layers if layer.grid is not None]
    return bounds[-1] if bounds else None


def _in_exact_region(spec: VariableSpec, box: Sequence[slice], position: tuple[int, ...]) -> bool:
    """Whether what a region has of a brick lies in the region that was kept exactly."""
    text = spec.parameters.get("exact_roi")
    if text is None:
        return False
    kept = roi_from_indices(str(text), dims=spec.dims, shape=spec.shape)
    return all(
        k.start <= max(part.start, brick.start) and min(part.stop, brick.stop) <= k.stop
        for k, part, brick in zip(kept, box, spec.box(position), strict=True)
    )


def refuse_existing(kind: str, target: Path) -> None:
    """Refuse a target that would have to be replaced, before anything is decoded.

    Raises
    ------
    StorageError : kind ``"target-exists"``.
    """
    taken = target.is_dir() and kind == "dicom" and any(target.iterdir())
    if taken or (target.exists() and not target.is_dir()):
        raise StorageError(
            f"the target {str(target)!r} exists already",
            kind="target-exists",
            hint="nothing is ever replaced; choose another name",
        )
