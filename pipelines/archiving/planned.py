"""What a run will do, as records: variables, items, and everything found in a source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.base import Candidate, FileRecord, Skipped
from pipelines.archiving.item_report import holds_data
from pipelines.archiving.known_sources import fingerprint
from pipelines.archiving.modes import VariableMode
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.refused import Refused
from pipelines.archiving.targets import ABSENT
from pipelines.archiving.value_range import SampledRange
from pipelines.restoring.roi import box_text
from psc_volumetric.archive.kept import KeptVariable
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.extras import EXTRAS, has_extra
from psc_volumetric.methods.parameters import EFFORTS
from psc_volumetric.methods.registry import AUTO, REGISTRY
from psc_volumetric.prior.finding import shipped_name

__all__ = ["ArchivePlan", "ItemPlan", "KnownItem", "VariablePlan", "provenance_of"]


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
    def is_lossy(self) -> bool:
        """Whether it has lossy levels."""
        return self.kept.base != "none"

    @property
    def method(self) -> str:
        """``"lossless"``, or the base method asked for; ``"auto"`` is the best in each brick."""
        return self.kept.base if self.is_lossy else "lossless"

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
        """Number of tiles that a network sees, at most."""
        return math.prod(self.spec.tile_grid_shape) if self.kept.needs_prior else 0

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
    state : str
        What is at the target, see `pipelines.archiving.targets.place_of`.
    source_path : str or None
        What the archive records as the path of its source.
    seen : str
        What was seen of the files before they were read, see `pipelines.archiving.known_sources`.
    paths : tuple of Path
        Files of the source, where `candidate` has de-identified copies.
    identifies : bool
        Whether a header that goes into the archive names a person.
    kept : tuple of KeptVariable
        Variables whose values are read out of the original, which is kept.
    supersedes : dict or None
        The archive that this one supersedes, see `pipelines.archiving.succession`.
    """

    candidate: Candidate
    target: str
    options: ArchiveOptions
    prior: str | None
    variables: tuple[VariablePlan, ...]
    notes: tuple[str, ...]
    files: tuple[FileRecord, ...]
    state: str = ABSENT
    source_path: str | None = None
    seen: str = ""
    paths: tuple[Path, ...] = ()
    identifies: bool = False
    kept: tuple[KeptVariable, ...] = ()
    supersedes: dict[str, Any] | None = None

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
        """Network evaluations: one a slice or a tile, or of every tile at its full effort.

        None for ``paper``.
        """
        if self.prior is not None and self.prior.endswith(REGISTRY.ending("posterior")):
            specs = [variable.spec for variable in self.variables if variable.kept.needs_prior]
            return sum(math.prod(spec.shape[:-2]) for spec in specs)
        if self.options.lossy_base == "two-stage":
            return sum(variable.tiles for variable in self.variables)
        if self.options.setting != "fast":
            return None
        steps, particles = EFFORTS[self.options.effort]
        return steps * particles * sum(variable.tiles for variable in self.variables)

    @property
    def priors_outside(self) -> dict[str, str]:
        """Digest -> name of the priors of variables that are left out of the archive."""
        if not self.options.no_prior_inside:
            return {}
        digests = {variable.spec.prior for variable in self.variables}
        return {d: name for d in digests if d is not None and (name := shipped_name(d)) is not None}

    @property
    def provenance(self) -> dict[str, Any]:
        """What decides what the archive promises: kind of source, and options."""
        return provenance_of(self.candidate, self.options)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        return {
            "name": self.candidate.label,
            "kind": self.candidate.kind,
            "files": len(self.candidate.paths),
            "target": self.target,
            "state": self.state,
            "prior": self.prior,
            "prior_inside": None if self.prior is None else not self.priors_outside,
            "bricks": self.bricks,
            "source_bytes": self.source_bytes,
            "network_evaluations": self.evaluations,
            "variables": [variable.to_dict() for variable in self.variables],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class KnownItem:
    """A source that the index of the target folder knows; it was not read again."""

    name: str
    kind: str
    target: str


@dataclass(frozen=True, eq=False)
class ArchivePlan:
    """Everything found in a source: archives to make in ``target``, what is left out, and why.

    ``known`` are sources that were archived before and look the same; ``aside`` are those that an
    earlier run refused and told.
    """

    items: tuple[ItemPlan, ...]
    skipped: tuple[Skipped, ...]
    options: ArchiveOptions
    target: str
    known: tuple[KnownItem, ...] = ()
    aside: tuple[Refused, ...] = ()

    @property
    def failed(self) -> tuple[Skipped, ...]:
        """Those left out that may hold data."""
        return tuple(entry for entry in self.skipped if holds_data(entry))

    @property
    def notes(self) -> tuple[str, ...]:
        """What lossy bricks go without, for want of an extra, and what is in the headers."""
        kept = [variable.kept for item in self.items for variable in item.variables]
        auto = [mode for mode in kept if mode.base == AUTO]
        lacking = []
        if any(not mode.needs_prior for mode in auto) and not has_extra("prior"):
            lacking.append("prior")
        if (auto or any(mode.base == "av1" for mode in kept)) and not has_extra("av1"):
            lacking.append("av1")
        extras = [EXTRAS[name] for name in lacking]
        notes = [f"without {e.name!r} {e.without}; {e.remedy}" for e in extras]
        naming = sum(item.identifies and item.state == ABSENT for item in self.items)
        if naming:
            notes.append(
                f"headers of {naming} item(s) name persons, and archives keep them (in source/); "
                "--deidentify leaves that out, `psc-archive strip` makes a copy without headers"
            )
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary."""
        return {
            "notes": list(self.notes),
            "options": self.options.to_dict(),
            "items": [item.to_dict() for item in self.items],
            "known": [dict(vars(item)) for item in self.known],
            "aside": [row.to_dict() for row in self.aside],
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


def seen_of(candidate: Candidate, options: ArchiveOptions, deidentified: str | None = None) -> str:
    """What the index of a target knows a source by: its files as they are seen, and how.

    Parameters
    ----------
    candidate : Candidate
    options : ArchiveOptions
    deidentified : str, optional
        `Deidentifier.stamp`, where de-identified copies are archived.

    Raises
    ------
    FileNotFoundError : a file is gone.
    """
    how = provenance_of(candidate, options)
    return fingerprint(
        candidate.paths, how if deidentified is None else {**how, "deidentified": deidentified}
    )


def provenance_of(candidate: Candidate, options: ArchiveOptions) -> dict[str, Any]:
    """What decides what an archive promises: kind of source, and options."""
    chosen = {"mode": options.mode, **options.chosen()}
    for name in ("device", "prior", "no_proof"):
        chosen.pop(name, None)
    return {"source_kind": candidate.kind, "options": chosen}
