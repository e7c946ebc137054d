"""Small frozen records that travel between a flow and its tasks, and the error tasks raise.

Prefect keeps messages of failed tasks in its database. They therefore name items by number and
errors by kind; the sentence with paths in it travels beside the message, in `ItemTaskError.detail`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.base import Candidate, Skipped
from adapters.errors import SourceError
from pipelines.archiving.archive import BrickJob, ItemReport
from pipelines.archiving.deidentified import check_profile
from pipelines.archiving.plan import ItemPlan
from pipelines.archiving.refused import Refused, is_about_source
from pipelines.archiving.targets import Naming
from psc_volumetric.errors import ParameterError, PscError, StorageError

__all__ = [
    "CHECKS",
    "ArchiveOutcome",
    "ArchivesFailedError",
    "FolderReport",
    "Found",
    "Intake",
    "ItemOutcome",
    "ItemRequest",
    "ItemTaskError",
    "ItemWork",
    "ItemsFailedError",
]

CHECKS = ("none", "shallow", "deep")
_LASTING_STORAGE_KINDS = ("target-exists", "partial-differs", "incomplete")


@dataclass(frozen=True)
class Intake:
    """How files are taken from a source folder.

    Parameters
    ----------
    quiet_s : float
        Only files that were not changed for this long, in seconds; others wait for the next run.
    check : str
        How each sealed archive is read again: ``"none"``, ``"shallow"`` (every object) or
        ``"deep"`` (every tile decoded). The proof before sealing is another thing and always done.
    move_to : str or None
        Folder that gets the source files of archives that were checked; None leaves them.
    pseudonyms : str or None
        Key file: archives are named by a keyed hash, see `pipelines.archiving.pseudonyms`.
    retry_refused : bool
        Also try what an earlier run refused and that did not change since.
    pages : str or None
        Folder that gets a page about each new archive, see `pipelines.reporting`. Pages show the
        data, so Prefect is told their number only.
    deidentify : str or None
        Profile: de-identified copies are archived, under the key of the pseudonyms, see
        `pipelines.archiving.deidentified`. The key itself is read where the flow runs, from its
        file; neither Prefect nor a worker gets it.

    Raises
    ------
    ParameterError : kind ``"bad-check"``, ``"bad-quiet"``; ``"unchecked-move"``, files would move
        away unchecked; ``"bad-deidentify"``, there is no such profile, or no key file.
    """

    quiet_s: float = 0.0
    check: str = "shallow"
    move_to: str | None = None
    pseudonyms: str | None = None
    retry_refused: bool = False
    pages: str | None = None
    deidentify: str | None = None

    def __post_init__(self) -> None:
        check_profile(self.deidentify, has_key=self.pseudonyms is not None)
        if self.check not in CHECKS:
            raise ParameterError(
                f"check must be one of {', '.join(CHECKS)}, found {self.check!r}", kind="bad-check"
            )
        if not 0 <= self.quiet_s < float("inf"):
            raise ParameterError(
                f"quiet must be 0 seconds or more, found {self.quiet_s!r}", kind="bad-quiet"
            )
        if self.move_to is not None and self.check == "none":
            raise ParameterError(
                "sources move away only when their archive was checked",
                kind="unchecked-move",
                hint="leave check at shallow, or do not move sources",
            )


@dataclass(frozen=True)
class ItemRequest:
    """One item found in the source.

    Attributes
    ----------
    number : int
        Its number in this run, from 1.
    candidate : Candidate
        Its files.
    naming : Naming
        What its archive may be called.
    known : str or None
        The archive that an earlier run made of these very files.
    """

    number: int
    candidate: Candidate
    naming: Naming
    known: str | None = None


@dataclass(frozen=True)
class Found:
    """What discovery found.

    Attributes
    ----------
    requests : tuple of ItemRequest
    failed : tuple of Skipped
        Files that may hold data and cannot be archived.
    aside : tuple of Refused
        What an earlier run refused and told, and that did not change since.
    skipped : int
        Files that hold no volume.
    waiting : int
        Items that were changed a short while ago and are left for the next run.
    """

    requests: tuple[ItemRequest, ...] = ()
    failed: tuple[Skipped, ...] = ()
    aside: tuple[Refused, ...] = ()
    skipped: int = 0
    waiting: int = 0


@dataclass(frozen=True, eq=False)
class ItemWork:
    """A planned item and the bricks still to do; no plan when its archive is sealed already."""

    target: str
    plan: ItemPlan | None
    jobs: tuple[BrickJob, ...]


@dataclass(frozen=True)
class ItemOutcome:
    """How one item ended.

    Attributes
    ----------
    number : int
        Its number in this run, from 1.
    kind : str
        Source format.
    status : str
        ``"archived"``, ``"already-archived"`` (sealed by an earlier run from the same files with
        the same settings), ``"failed"``, or ``"aside"`` (refused and told by an earlier run).
    paths : tuple of str
        Source files; like `target` and `error` for people and the names file, not for Prefect.
    target : str or None
        The sealed archive.
    report : ItemReport or None
        Of an archived item.
    error_kind : str or None
        Stable word of the error of a failed item.
    error : str or None
        Why it failed, with places.
    moved : bool
        Whether its files are out of the source folder.
    """

    number: int
    kind: str
    status: str
    paths: tuple[str, ...] = ()
    target: str | None = None
    report: ItemReport | None = None
    error_kind: str | None = None
    error: str | None = None
    moved: bool = False


@dataclass(frozen=True)
class FolderReport:
    """How every item of a folder ended; files that were no item, items left for the next run."""

    items: tuple[ItemOutcome, ...]
    skipped: int
    waiting: int = 0

    @property
    def failed(self) -> tuple[ItemOutcome, ...]:
        """The items that failed."""
        return tuple(item for item in self.items if item.status == "failed")

    def count(self, status: str) -> int:
        """How many items ended so."""
        return sum(item.status == status for item in self.items)


class ItemTaskError(Exception):
    """An error in a task, told by number and kind.

    Parameters
    ----------
    number : int
        Item, 0 for the run as a whole.
    kind : str
        Stable word of the error behind it.
    detail : str
        Its full message.
    lasting : bool
        Whether trying again cannot help.
    of_source : bool
        Whether it says something of the source, so that later runs pass it over.
    """

    def __init__(
        self, number: int, kind: str, detail: str, lasting: bool, of_source: bool = False
    ) -> None:
        what, where = (f"item {number}", "names file") if number else ("the run", "local log")
        super().__init__(f"{what}: error of kind {kind!r}; the {where} has the details")
        self.number = number
        self.kind = kind
        self.detail = detail
        self.lasting = lasting
        self.of_source = of_source

    def __reduce__(self) -> tuple[object, ...]:
        """Keep all fields when a worker process hands the error back."""
        fields = (self.number, self.kind, self.detail, self.lasting, self.of_source)
        return (ItemTaskError, fields)

    @classmethod
    def of(cls, number: int, error: Exception) -> ItemTaskError:
        """Wrap any error; one that nobody foresaw is of kind ``"internal"``."""
        if isinstance(error, ItemTaskError):
            return error
        if isinstance(error, StorageError):
            return cls(number, error.kind, str(error), error.kind in _LASTING_STORAGE_KINDS)
        of_source = is_about_source(error)
        if isinstance(error, PscError | SourceError):
            return cls(number, error.kind, str(error), True, of_source)
        kind = "operating-system" if isinstance(error, OSError) else "internal"
        text = f"{type(error).__name__}: {error}"
        return cls(number, kind, text, kind == "internal", of_source)


class ItemsFailedError(PscError):
    """Some items of a folder have no sealed archive, or are not well; kind ``items-failed``.

    Attributes
    ----------
    report : FolderReport
        All items, also those that were archived.
    """

    def __init__(self, report: FolderReport) -> None:
        failed = [item.number for item in report.failed]
        super().__init__(
            f"{len(failed)} of {len(report.items)} items failed: item(s) "
            f"{', '.join(map(str, failed[:20]))}{' ...' if len(failed) > 20 else ''}",
            kind="items-failed",
            hint="the names file has the reasons; run the flow again to continue",
        )
        self.report = report

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the report when the error crosses a process."""
        return (ItemsFailedError, (self.report,))


@dataclass(frozen=True)
class ArchiveOutcome:
    """How one archive ended in a flow over a folder of archives.

    Attributes
    ----------
    number : int
        Its number in this run, from 1.
    archive : str
        Which one; for people and the names file, not for Prefect.
    status : str
        A word of the flow: ``"ok"``, ``"damaged"``, ``"restored"``, ``"failed"`` ...
    numbers : mapping
        Word -> number or word of ours, for the summary.
    error_kind, error : str or None
        Stable word, and what it says with places.
    """

    number: int
    archive: str
    status: str
    numbers: Mapping[str, int | float | str | None] = field(default_factory=dict)
    error_kind: str | None = None
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """For the summary: no names."""
        shown: dict[str, Any] = {"archive": self.number, "status": self.status}
        return shown | {"error": self.error_kind, **self.numbers}

    def row_with_names(self) -> dict[str, Any]:
        """For the names file."""
        row: dict[str, Any] = {"item": self.number, "archive": self.archive}
        row |= {"status": self.status, **self.numbers}
        return row | ({} if self.error is None else {"error": self.error_kind, "why": self.error})


class ArchivesFailedError(PscError):
    """Some archives of a folder are damaged (kind ``"damage-found"``), or not checked or restored.

    Attributes
    ----------
    outcomes : tuple of ArchiveOutcome
        All archives.
    """

    def __init__(self, outcomes: tuple[ArchiveOutcome, ...], kind: str) -> None:
        failed = [one.number for one in outcomes if one.error_kind is not None]
        super().__init__(
            f"{len(failed)} of {len(outcomes)} archives failed: number(s) "
            f"{', '.join(map(str, failed[:20]))}{' ...' if len(failed) > 20 else ''}",
            kind=kind,
            hint="the names file has names and reasons",
        )
        self.outcomes = outcomes

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the outcomes when the error crosses a process."""
        return (ArchivesFailedError, (self.outcomes, self.kind))
