"""Repairing an archive from replicas, object by object, with a log of what was done."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.archiving.locking import hold
from pipelines.checking.event_log import EventLog
from pipelines.checking.scrub import ScrubOptions, log_scrub
from pipelines.checking.trust import Trust
from pipelines.checking.verify import VerifyReport, verify, verify_lines
from pipelines.collection import folder_around, refuse_folder
from pipelines.progress import Progress, Silent
from psc_volumetric.archive.mending import Trouble, mend
from psc_volumetric.archive.places import refuse_unmendable
from psc_volumetric.archive.stores import is_url, open_store, target_text
from psc_volumetric.archive.targets import target_state, tidy_up
from psc_volumetric.errors import ParameterError

__all__ = ["RepairReport", "repair", "repair_lines"]

LOGGED = 100


@dataclass(frozen=True)
class RepairReport:
    """What a repair found and did.

    Attributes
    ----------
    archive : str
    manifest : str
        Digest of the manifest that the archive was held to.
    mended, left : tuple of Trouble
        Damaged objects that a replica had, and those that none had.
    aside : tuple of str
        Objects that were moved to ``<archive>.aside``: they did not belong to the archive.
    failures : dict
        Replicas that could not be read, and why.
    dry : bool
        Nothing was written.
    check : VerifyReport or None
        The archive afterwards; None when nothing was written.
    """

    archive: str
    manifest: str
    mended: tuple[Trouble, ...]
    left: tuple[Trouble, ...]
    aside: tuple[str, ...]
    failures: dict[str, str]
    dry: bool
    check: VerifyReport | None

    @property
    def is_whole(self) -> bool:
        """Whether the archive is whole now, or would be."""
        return not self.left and (self.check is None or not self.check.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {
            "archive": self.archive,
            "manifest": self.manifest,
            "whole": self.is_whole,
            "dry_run": self.dry,
            "mended": [asdict(trouble) for trouble in self.mended],
            "left": [asdict(trouble) for trouble in self.left],
            "aside": list(self.aside),
            "failures": self.failures,
            "check": None if self.check is None else self.check.to_dict(),
        }


def repair(
    archive: str,
    replicas: Sequence[str],
    *,
    expect: str | None = None,
    dry: bool = False,
    log: EventLog | None = None,
    progress: Progress | None = None,
) -> RepairReport:
    """Put good objects in the place of damaged ones, and check the archive afterwards.

    Parameters
    ----------
    archive : str
        Folder, zip file, or URL that can be written to.
    replicas : sequence of str
        Copies of it, in the order in which they are asked; they may be damaged themselves.
    expect : str, optional
        Digest of the archive's manifest, from elsewhere.
    dry : bool
        Say what would be done, write nothing.
    log : EventLog, optional
        Where it is written down; None takes the log beside the archive's folder.
    progress : Progress, optional

    Raises
    ------
    FormatError : kind ``"foreign-replica"``: the manifest is lost, and no replica is known to be
        of this archive; ``"not-sealed"``.
    StorageError : kinds ``"not-found"``, ``"unsupported-target"``, ``"target-locked"``.
    ParameterError : a replica is the archive itself (kind ``"same-place"``); a folder of archives.
    """
    start = time.perf_counter()
    refuse_folder(archive)
    refuse_unmendable(archive)
    trust = Trust(expect)
    for replica in replicas:
        _refuse_same(archive, replica)
    events = None if dry else log or EventLog.of(folder_around(archive))
    with ExitStack() as opened, hold(archive):
        stores = [open_store(replica) for replica in replicas]
        for store in stores:
            opened.callback(store.close)
        if not dry and target_state(archive) == "sealed":
            tidy_up(archive)
        done = mend(
            archive, stores, expect=trust.expect, dry=dry, progress=_telling(progress or Silent())
        )
        check = None if dry else verify(archive, trust=trust)
    report = RepairReport(
        archive,
        done.manifest.digest,
        tuple(done.mended),
        tuple(done.left),
        tuple(done.aside),
        done.failures,
        dry,
        check,
    )
    if events is not None:
        _write_down(events, report, replicas)
        if check is not None:  # which also tells `status` that the archive is whole again
            log_scrub(events, check, ScrubOptions(), seconds=time.perf_counter() - start)
    return report


def _telling(shown: Progress) -> Any:
    def tell(done: int, total: int) -> None:
        if done == 1:
            shown.begin("objects", total)
        shown.advance()

    return tell


def _refuse_same(archive: str, replica: str) -> None:
    same = replica.rstrip("/") == archive.rstrip("/")
    if not is_url(archive) and not is_url(replica):
        same = os.path.realpath(archive) == os.path.realpath(replica)
    if same:
        raise ParameterError(
            f"{target_text(replica)!r} is the archive itself",
            kind="same-place",
            hint="name another copy of it",
        )


def _write_down(log: EventLog, report: RepairReport, replicas: Sequence[str]) -> None:
    log.add(
        "repair",
        report.archive,
        "whole" if report.is_whole else "damaged",
        manifest=report.manifest,
        replicas=[target_text(replica) for replica in replicas],
        mended=[asdict(trouble) for trouble in report.mended[:LOGGED]],
        left=[asdict(trouble) for trouble in report.left[:LOGGED]],
        aside=list(report.aside[:LOGGED]),
        count=[len(report.mended), len(report.left), len(report.aside)],
    )


def repair_lines(report: RepairReport) -> list[str]:
    """The outcome for people."""
    word = "would be mended" if report.dry else "mended"
    lines = [f"{word:<9} {t.key} ({t.kind}), from {t.replica}" for t in report.mended]
    lines += [f"aside     {key}" for key in report.aside]
    lines += [f"left      {t.key} ({t.kind}): no replica has it" for t in report.left]
    lines += [f"note: {replica}: {why}" for replica, why in report.failures.items()]
    if not (report.mended or report.left or report.aside):
        lines.append("nothing was damaged")
    return lines if report.check is None else [*lines, *verify_lines(report.check)]
