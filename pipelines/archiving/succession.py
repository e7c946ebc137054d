"""Archives that supersede others: the new one points back by digest, the old one stays as it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.archiving.choices import SUPERSEDES
from pipelines.archiving.planned import ArchivePlan
from pipelines.archiving.targets import ABSENT
from psc_volumetric.archive.documents import convert
from psc_volumetric.archive.opened import OpenArchive
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.stores import target_text
from psc_volumetric.errors import ParameterError, StorageError

__all__ = [
    "Predecessor",
    "digest_of_superseded",
    "predecessor_of",
    "superseding",
]


@dataclass(frozen=True)
class Predecessor:
    """The archive that another one supersedes; not its name, which may be a person's.

    Attributes
    ----------
    manifest : str
        Digest of its manifest.
    source : str or None
        SHA-256 over the digests of its source files.
    created : str or None
    """

    manifest: str
    source: str | None = None
    created: str | None = None

    @classmethod
    def of(cls, archive: OpenArchive) -> Predecessor:
        """What a successor records of an archive."""
        return cls(archive.manifest.digest, archive.document.source.sha256, archive.created)

    def to_dict(self) -> dict[str, Any]:
        """As the provenance has it."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def predecessor_of(archive: OpenArchive) -> Predecessor | None:
    """The archive that this one supersedes, if it says so.

    Raises
    ------
    FormatError : what it says makes no sense.
    """
    recorded = archive.document.provenance.get(SUPERSEDES)
    where = f"{archive.name}: {SUPERSEDES}"
    return None if recorded is None else convert(recorded, Predecessor, where=where)


def digest_of_superseded(archive: str) -> str:
    """Digest of the manifest that an archive points back to.

    Raises
    ------
    ParameterError : it supersedes none (kind ``"no-predecessor"``).
    """
    with ArchiveReader.open(archive) as reader:
        recorded = predecessor_of(reader)
    if recorded is None:
        raise ParameterError(
            f"{target_text(archive)}: does not record that it supersedes an archive",
            kind="no-predecessor",
            hint="`psc-archive info` shows what it records",
        )
    return recorded.manifest


def superseding(planned: ArchivePlan, old: str | None) -> ArchivePlan:
    """The same plan, of one archive that records which one it supersedes.

    Parameters
    ----------
    planned : ArchivePlan
    old : str or None
        Path or URL of the old archive; None: the plan as it is.

    Raises
    ------
    ParameterError : the plan is of several archives (kind ``"several-items"``).
    StorageError : the new archive is sealed already, and does not point back (kind
        ``"target-exists"``).
    FormatError, StorageError : the old archive cannot be opened.
    """
    if old is None:
        return planned
    targets = [i.target for i in planned.items] + [known.target for known in planned.known]
    if len(targets) != 1:
        raise ParameterError(
            f"expected one item to supersede {old!r}, found {len(targets)}",
            kind="several-items",
            hint="archive what changed one by one",
        )
    with ArchiveReader.open(old) as reader:
        record = Predecessor.of(reader)
    if not planned.items or planned.items[0].state != ABSENT:
        _refuse_other(targets[0], record)
    items = tuple(replace(item, supersedes=record.to_dict()) for item in planned.items)
    return replace(planned, items=items)


def _refuse_other(target: str, record: Predecessor) -> None:
    """Refuse a sealed archive that does not point back to this one."""
    with ArchiveReader.open(target) as sealed:
        if predecessor_of(sealed) != record:
            raise StorageError(
                f"{target!r} is sealed already, and does not say that it supersedes that archive",
                kind="target-exists",
                hint="archives are written once; choose another name for the new one",
            )
