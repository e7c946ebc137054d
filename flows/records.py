"""Small frozen records that travel between a flow and its tasks, and the error tasks raise.

Prefect keeps messages of failed tasks in its database. They therefore name items by number and
errors by kind; the sentence with paths in it travels beside the message, in `ItemTaskError.detail`.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters.base import Candidate, Skipped
from adapters.errors import SourceError
from pipelines.archiving.archive import BrickJob, ItemReport
from pipelines.archiving.plan import ItemPlan
from pipelines.archiving.targets import Naming
from psc_volumetric.errors import PscError, StorageError

__all__ = [
    "FolderReport",
    "Found",
    "ItemOutcome",
    "ItemRequest",
    "ItemTaskError",
    "ItemWork",
    "ItemsFailedError",
]

_LASTING_STORAGE_KINDS = ("target-exists", "partial-differs", "incomplete")


@dataclass(frozen=True)
class ItemRequest:
    """One item found in the source: its number in this run, its files, what it may be called."""

    number: int
    candidate: Candidate
    naming: Naming


@dataclass(frozen=True)
class Found:
    """What discovery found.

    Attributes
    ----------
    requests : tuple of ItemRequest
    failed : tuple of Skipped
        Files that may hold data and cannot be archived.
    skipped : int
        Files that hold no volume.
    """

    requests: tuple[ItemRequest, ...]
    failed: tuple[Skipped, ...]
    skipped: int


@dataclass(frozen=True, eq=False)
class ItemWork:
    """A planned item and the bricks still to do; no plan when it is sealed already."""

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
        the same settings) or ``"failed"``.
    report : ItemReport or None
        Of an archived item.
    error : str or None
        Why it failed, with places; for people and local logs, not for a shared database.
    """

    number: int
    kind: str
    status: str
    report: ItemReport | None = None
    error: str | None = None


@dataclass(frozen=True)
class FolderReport:
    """How every item of a folder ended, and how many files were no item."""

    items: tuple[ItemOutcome, ...]
    skipped: int


class ItemTaskError(Exception):
    """An expected error in a task, told by number and kind.

    Parameters
    ----------
    number : int
        Item, 0 for the whole folder.
    kind : str
        Stable word of the error behind it.
    detail : str
        Its full message.
    lasting : bool
        Whether trying again cannot help.
    """

    def __init__(self, number: int, kind: str, detail: str, lasting: bool) -> None:
        what = f"item {number}" if number else "source folder"
        super().__init__(f"{what}: error of kind {kind!r}; the report of the flow has the details")
        self.number = number
        self.kind = kind
        self.detail = detail
        self.lasting = lasting

    def __reduce__(self) -> tuple[object, ...]:
        """Keep all fields when a worker process hands the error back."""
        return (ItemTaskError, (self.number, self.kind, self.detail, self.lasting))

    @classmethod
    def of(cls, number: int, error: Exception) -> ItemTaskError:
        """Wrap one of ``pipelines.archiving.item_report.ITEM_ERRORS``."""
        if isinstance(error, StorageError):
            return cls(number, error.kind, str(error), error.kind in _LASTING_STORAGE_KINDS)
        if isinstance(error, PscError | SourceError):
            return cls(number, error.kind, str(error), True)
        kind = "operating-system" if isinstance(error, OSError) else "internal"
        return cls(number, kind, f"{type(error).__name__}: {error}", kind == "internal")


class ItemsFailedError(PscError):
    """Some items of a folder have no sealed archive; kind ``items-failed``.

    Attributes
    ----------
    report : FolderReport
        All items, also those that were archived.
    """

    def __init__(self, report: FolderReport) -> None:
        failed = [item.number for item in report.items if item.status == "failed"]
        super().__init__(
            f"{len(failed)} of {len(report.items)} items have no sealed archive: item(s) "
            f"{', '.join(map(str, failed))}",
            kind="items-failed",
            hint="`report` has the reasons; run the flow again to continue",
        )
        self.report = report

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the report when the error crosses a process."""
        return (ItemsFailedError, (self.report,))
