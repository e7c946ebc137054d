"""Checking a folder of archives night by night, with a log of what was found.

A night may check everything, a share of the objects of every archive, or the archives of one part
of several, so that all were read after that many nights.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.checking.event_log import EventLog
from pipelines.checking.trust import Trust
from pipelines.checking.verify import VerifyReport, verify_here
from pipelines.collection import archives_at
from pipelines.log_lines import tell
from pipelines.progress import Progress
from psc_volumetric.archive.checking import Finding, Sample
from psc_volumetric.archive.stores import is_url, is_zip_name, open_store, target_text
from psc_volumetric.errors import InstallationError, ParameterError, PscError, StorageError

__all__ = [
    "ScrubOptions",
    "archives_to_scrub",
    "log_scrub",
    "scrub",
    "scrub_archive",
    "tell_checked",
]

logger = logging.getLogger(__name__)

LOGGED_FINDINGS = 100
TONIGHT = "today"
LEVELS = {"ok": logging.INFO, "not-checked": logging.WARNING, "damaged": logging.ERROR}


@dataclass(frozen=True)
class ScrubOptions:
    """How a scrub checks.

    Parameters
    ----------
    deep : bool
        Also decode, and compare the digest of every tile.
    sample : float or str
        Which objects of each archive to read: a share (``0.05``, ``"5%"``), or ``"3/7"``, the
        third of seven parts; that every object is there is always checked.
    part : str or None
        ``"3/7"``: only the archives of the third of seven parts; ``"today/7"``: another part each
        day, all after seven days. An archive stays in its part.
    seed : int
        Which sample.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    public_keys : tuple of str
        Files with public keys: each archive must be signed by one of them. Empty: nobody is asked
        for.

    Raises
    ------
    ParameterError : kind ``"bad-sample"`` or ``"bad-part"``.
    """

    deep: bool = False
    sample: float | str = 1.0
    part: str | None = None
    seed: int = 0
    device: str = "auto"
    public_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Sample.of(self.sample)
        self.chosen_part()

    def chosen_part(self, today: datetime.date | None = None) -> tuple[int, int]:
        """Number of the part, from 0, and how many there are; (0, 1) is all.

        Parameters
        ----------
        today : date, optional
            The day that ``"today/N"`` is about; None is today, UTC.
        """
        if self.part is None:
            return 0, 1
        which, _, of = self.part.partition("/")
        day = (today or datetime.datetime.now(datetime.UTC).date()).toordinal()
        if of.isdecimal() and int(of) > 0:
            if which == TONIGHT:
                return day % int(of), int(of)
            if which.isdecimal() and 1 <= int(which) <= int(of):
                return int(which) - 1, int(of)
        raise ParameterError(
            f"expected a part such as 3/7 or today/7, found {self.part!r}", kind="bad-part"
        )


def archives_to_scrub(target: str, options: ScrubOptions) -> list[str]:
    """The archives in a folder or bucket that belong to the chosen part; see `archives_at`.

    A target that is one archive is always chosen.

    Raises
    ------
    FormatError : kind ``"not-an-archive"``: a file that is not named as one, and is none.
    StorageError : kind ``"not-found"``, no archive there; ``"storage-failed"``.
    """
    found = archives_at(target)
    if found is None:
        if not is_zip_name(target) and Path(target.removeprefix("file://")).is_file():
            open_store(target)  # of a zip file that cannot be opened the check tells
        return [target]
    if not found:
        raise StorageError(
            f"{target}: expected a folder of archives, found none in it",
            kind="not-found",
            hint="check the path",
        )
    number, parts = options.chosen_part()
    base = target.rstrip("/") + "/"
    return [path for path in found if _part_of(path.removeprefix(base), parts) == number]


def _part_of(name: str, parts: int) -> int:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % parts


def scrub_archive(
    archive: str, options: ScrubOptions, progress: Progress | None = None
) -> VerifyReport:
    """Check one archive as deep as this machine can; one that cannot be opened is a finding.

    Raises
    ------
    InstallationError : psc-archive is not whole here: nothing is known of the archive.
    StorageError : nothing is there, or its storage fails: nothing is known of the archive.
    """
    trust = Trust.of(key_files=tuple(map(Path, options.public_keys)))
    try:
        return verify_here(
            archive,
            sample=options.sample,
            deep=options.deep,
            seed=options.seed,
            device=options.device,
            trust=trust,
            progress=progress,
        )
    except (InstallationError, StorageError):
        raise
    except PscError as error:
        return _unread(archive, options, error)


def _unread(archive: str, options: ScrubOptions, error: PscError) -> VerifyReport:
    finding = Finding("", error.kind, str(error))
    return VerifyReport(target_text(archive), options.deep, options.sample, {}, (finding,))


def log_scrub(
    log: EventLog, report: VerifyReport, options: ScrubOptions, *, seconds: float
) -> None:
    """Write down what a check found: at most the first hundred findings, and how many there are.

    Where bricks were to be decoded and could not, a line of its own says so before that of the
    check of their bytes; it is the only one where nothing could be checked.
    """
    lacking = report.not_decoded
    if lacking is not None:
        options = replace(options, deep=False)
        log.add("scrub", report.archive, "not-checked", error=lacking.kind, why=lacking.message)
    if not report.was_read:
        tell_checked(report, seconds=round(seconds, 3))
        return
    findings = [finding.to_dict() for finding in report.findings[:LOGGED_FINDINGS]]
    details: dict[str, Any] = {
        "how": asdict(options),
        "checked": report.checked,
        "seconds": round(seconds, 3),
        "findings": findings,
        "count": len(report.findings),
    }
    outcome = "damaged" if report.findings else "ok"
    log.add("scrub", report.archive, outcome, **details)
    tell_checked(report, seconds=details["seconds"])


def tell_checked(report: VerifyReport, *, seconds: float | None = None) -> None:
    """Log what a check found, the first hundred findings of it: the event ``archive-checked``."""
    findings = [finding.to_dict() for finding in report.findings[:LOGGED_FINDINGS]]
    tell(
        logger,
        "archive-checked",
        level=LEVELS[report.outcome],
        private={"archive": report.archive, "findings": findings},
        outcome=report.outcome,
        problems=len(report.findings),
        seconds=seconds,
    )


def scrub(
    target: str,
    options: ScrubOptions,
    log: EventLog | None = None,
    progress: Progress | None = None,
) -> list[VerifyReport]:
    """Check a folder or bucket of archives, one after the other.

    Parameters
    ----------
    target : str
        Folder, URL of a bucket or of a part of it, or one archive.
    options : ScrubOptions
    log : EventLog, optional
        Where each check is written down; None takes the one beside the target.
    progress : Progress, optional

    Returns
    -------
    list of VerifyReport
        One for each archive that was checked; those with findings are damaged, and those that this
        machine cannot decode say so.

    Raises
    ------
    InstallationError : psc-archive is not whole here.
    StorageError : no archive, it alone was named and its storage fails, or the log cannot be
        written.
    """
    events = log or EventLog.of(target)
    reports = []
    for archive in archives_to_scrub(target, options):
        start = time.perf_counter()
        try:
            report = scrub_archive(archive, options, progress)
        except (InstallationError, StorageError) as error:
            if archive == target or isinstance(error, InstallationError):
                if is_url(archive) or Path(archive).absolute().parent.is_dir():  # else mistyped
                    events.add("scrub", archive, "not-checked", error=error.kind, why=str(error))
                raise
            report = _unread(archive, options, error)
        log_scrub(events, report, options, seconds=time.perf_counter() - start)
        reports.append(report)
    return reports
