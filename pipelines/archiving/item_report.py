"""How each item of an archiving run ended: archived, sealed already, or failed and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from adapters.base import Skipped
from adapters.errors import SourceError
from pipelines.log_lines import tell
from psc_volumetric.errors import PscError

__all__ = [
    "ALREADY",
    "ARCHIVED",
    "FAILED",
    "ITEM_ERRORS",
    "ItemError",
    "ItemReport",
    "holds_data",
    "tell_item",
]

log = logging.getLogger(__name__)

MORE_MEMORY = "let the process have more; about 1 GB is enough for each brick at a time"

ARCHIVED = "archived"
ALREADY = "already-archived"
FAILED = "failed"

# What ends one item and not the run: errors told on purpose, and what libraries raise over words of
# a file that nobody foresaw.
ITEM_ERRORS = (
    SourceError,
    PscError,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)

# Kinds of files that are passed over because there is no volume in them to lose.
_WITHOUT_DATA = ("unknown-format", "no-pixels", "dicomdir", "duplicate-copy")


def holds_data(entry: Skipped) -> bool:
    """Whether a file that was left out may hold data, so that leaving it out is a failure."""
    return entry.kind not in _WITHOUT_DATA


@dataclass(frozen=True)
class ItemError:
    """Why an item has no sealed archive: stable word, sentence, and what to do about it."""

    kind: str
    message: str
    hint: str | None

    @classmethod
    def of(cls, error: Exception) -> ItemError:
        """Take over one of `ITEM_ERRORS`."""
        if isinstance(error, (SourceError, PscError)):
            ending = f"; {error.hint}" if error.hint else ""
            return cls(error.kind, str(error).removesuffix(ending), error.hint)
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            return cls("storage", text, "check that the path exists and the disk has free space")
        if isinstance(error, MemoryError):
            return cls("out-of-memory", "there is not enough memory", MORE_MEMORY)
        return cls("internal", text, "this is a fault of the program; please report it")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return dict(vars(self))


@dataclass(frozen=True)
class ItemReport:
    """How one item ended.

    Attributes
    ----------
    name, target, kind : str
    state : str
        ``"archived"``, ``"already-archived"`` (sealed before, from the same source with the same
        settings) or ``"failed"``. The fields below ``error`` are empty but for the first state.
    error : ItemError or None
        Of a failed item.
    prior : str or None
        The one that its bricks need.
    prior_inside : bool or None
        Whether that is in the archive; None without a prior.
    variables : tuple of dict
        Per variable: name, shape, method and how many bricks have which, mode, bytes, bpv, rmse,
        max_error, psnr_db (peak: sampled data range), target and what was reached, in stored units.
    archive_bytes, brick_bytes, source_bytes : int
        The whole tree with its manifest; the coded bricks; the stored values uncoded.
    manifest : str or None
        Digest of the manifest, for `verify --expect`.
    bricks, resumed : int
        Bricks in all, and how many an earlier run had finished.
    seconds : float
        Of this run.
    notes : tuple of str
    """

    name: str
    target: str
    kind: str
    state: str = ARCHIVED
    error: ItemError | None = None
    prior: str | None = None
    prior_inside: bool | None = None
    variables: tuple[dict[str, Any], ...] = ()
    archive_bytes: int = 0
    brick_bytes: int = 0
    source_bytes: int = 0
    manifest: str | None = None
    bricks: int = 0
    resumed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            **vars(self),
            "error": None if self.error is None else self.error.to_dict(),
            "variables": list(self.variables),
            "notes": list(self.notes),
        }


def tell_item(report: ItemReport) -> None:
    """Log how an item ended: the event ``item``."""
    why = report.error
    tell(
        log,
        "item",
        level=logging.INFO if why is None else logging.ERROR,
        private={
            "name": report.name,
            "archive": report.target,
            "message": None if why is None else why.message,
            "hint": None if why is None else why.hint,
            "notes": list(report.notes),
        },
        kind=report.kind,
        state=report.state,
        error=None if why is None else why.kind,
        source_bytes=report.source_bytes,
        archive_bytes=report.archive_bytes,
        bricks=report.bricks,
        resumed=report.resumed,
        seconds=round(report.seconds, 3),
    )
