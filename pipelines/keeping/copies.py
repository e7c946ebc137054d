"""Copies of archives in other places: of one (`copy`), or of all that a folder has (`sync`).

Nothing is ever replaced or removed: where another archive stands under a name, it stays and is
told of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.archiving.locking import hold
from pipelines.checking.tombstones import tombstones_in
from pipelines.collection import archives_at, refuse_folder
from pipelines.progress import Progress, Silent
from pipelines.scratch import scratch_folder
from psc_volumetric.archive.companions import SIGNATURE_SUFFIX, read_companion, write_companion
from psc_volumetric.archive.copying import Copied, copy_archive
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.stores import is_url, is_web, is_zip_name, target_text, upload_file
from psc_volumetric.errors import (
    FormatError,
    ParameterError,
    PscError,
    StorageError,
    UnsupportedVersionError,
)

__all__ = [
    "COPIED",
    "DAMAGED",
    "DIFFERS",
    "FAILED",
    "THERE",
    "CopyRow",
    "SyncReport",
    "copy",
    "copy_lines",
    "sync",
    "sync_failures",
    "sync_lines",
]

COPIED, THERE, DIFFERS, DAMAGED, FAILED = "copied", "there", "differs", "damaged", "failed"


@dataclass(frozen=True)
class CopyRow:
    """How copying one archive ended.

    Attributes
    ----------
    archive : str
        The copy; of `sync`, its name below the folder.
    state : str
        ``"copied"``; ``"there"``, sealed already; ``"differs"``, another archive has this name and
        stays; ``"damaged"``, the archive or the copy that is there; ``"failed"``.
    manifest : str or None
        Digest of the manifest.
    objects, found, bytes : int
        Objects written now, those written before, and bytes written now.
    kind, message : str or None
        Of what went wrong.
    """

    archive: str
    state: str
    manifest: str | None = None
    objects: int = 0
    found: int = 0
    bytes: int = 0
    kind: str | None = None
    message: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return asdict(self)


@dataclass(frozen=True)
class SyncReport:
    """What a `sync` did.

    Attributes
    ----------
    source, target : str
    rows : tuple of CopyRow
        One for each archive of the source.
    extra : tuple of str
        Archives that only the target has; they stay.
    retired : tuple of str
        Those of them that were retired in the source.
    """

    source: str
    target: str
    rows: tuple[CopyRow, ...]
    extra: tuple[str, ...]
    retired: tuple[str, ...] = ()

    def having(self, *states: str) -> list[CopyRow]:
        """The rows that ended so."""
        return [row for row in self.rows if row.state in states]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        rows = [row.to_dict() for row in self.rows]
        beside = {"extra": list(self.extra), "retired": list(self.retired)}
        return {"source": self.source, "target": self.target, "archives": rows, **beside}


def copy(
    source: str, target: str, *, check: bool = False, progress: Progress | None = None
) -> CopyRow:
    """Copy one archive, or go on with a copy that was begun.

    Parameters
    ----------
    source, target : str
        Folder, zip file or URL; the kinds may differ.
    check : bool
        Read the copy back and compare it; also one that is there already.
    progress : Progress, optional
        Told about every object.

    Raises
    ------
    FormatError : the archive is damaged, or the copy when it is read back; nothing is sealed. Kind
        ``"copy-damaged"``: the copy that is there already lacks objects.
    StorageError : kinds ``"target-exists"``, ``"partial-differs"``, ``"target-locked"``.
    ParameterError : a folder of archives.
    """
    refuse_folder(source)
    with hold(target):
        copied = _copied(source, target, check=check, progress=progress)
        _take_along(source, target)
    if copied.absent:
        raise FormatError(
            f"{target}: a copy is there, and {len(copied.absent)} of its objects are missing, the "
            f"first is {copied.absent[0]}",
            kind="copy-damaged",
            hint=f"`psc-archive repair {target} --from {target_text(source)}` puts them in",
        )
    return _row(target, copied)


def _take_along(source: str, target: str) -> None:
    """Copy the signature, which is over bytes that the copy has too; one that is there stays.

    An address that is good for one object only gives none.
    """
    try:
        signature = read_companion(source, SIGNATURE_SUFFIX)
    except StorageError as error:
        if not is_web(source) or error.kind != "access-denied":
            raise
        signature = None
    if signature is not None:
        write_companion(target, SIGNATURE_SUFFIX, signature)


def _row(archive: str, copied: Copied) -> CopyRow:
    state = THERE if copied.was_there else COPIED
    return CopyRow(
        archive, state, copied.manifest.digest, copied.moved, copied.found, copied.nbytes
    )


def _copied(source: str, target: str, *, check: bool, progress: Progress | None) -> Copied:
    shown, last = progress or Silent(), 0

    def tell(done: int, total: int) -> None:
        nonlocal last
        if not last:
            shown.begin(f"copying {target.rstrip('/').rpartition('/')[2]}", total)
        shown.advance(done - last)
        last = done

    if is_zip_name(target) and is_url(target):
        return _uploaded(source, target, check=check)
    return copy_archive(source, target, check=check, progress=tell)


def _uploaded(source: str, target: str, *, check: bool) -> Copied:
    """Pack the archive on this machine and write the zip file to its URL in one step."""
    with ArchiveReader.open(source) as reader:
        nbytes = reader.manifest.size
    with scratch_folder(target, 2 * nbytes, purpose="packing the copy") as folder:
        packed = folder / "copy.zip"
        copied = copy_archive(source, packed, check=check)
        if upload_file(packed, target):
            return copied
    return copy_archive(source, target, check=check)  # there already: this one, or refused


def sync(
    source: str, target: str, *, check: bool = False, progress: Progress | None = None
) -> SyncReport:
    """Copy what a folder of archives has and another one has not; one failure stops no other.

    Parameters
    ----------
    source, target : str
        Folder, or URL of a bucket or of a part of it.
    check : bool
        Also read and compare the copies, those that were there too.
    progress : Progress, optional

    Returns
    -------
    SyncReport

    Raises
    ------
    ParameterError : kind ``"not-a-folder"``: one archive, or a web server, which lists nothing.
    StorageError : kind ``"not-found"``, no archive in the source; ``"target-locked"``.
    """
    found = archives_at(source)
    if found is None:
        raise ParameterError(
            f"expected a folder of archives, found {target_text(source)!r}",
            kind="not-a-folder",
            hint="`psc-archive copy` copies one archive",
        )
    if not found:
        raise StorageError(
            f"{source}: expected a folder of archives, found none in it",
            kind="not-found",
            hint="check the path",
        )
    base, to = source.rstrip("/"), target.rstrip("/")
    names = [path.removeprefix(f"{base}/") for path in found]
    with hold(target):
        there = _names_at(target)
        rows = [_synced(f"{base}/{n}", f"{to}/{n}", n, check, progress) for n in names]
        stones = _copy_tombstones(base, to)
    extra = tuple(sorted(there - set(names)))
    return SyncReport(source, target, tuple(rows), extra, tuple(n for n in extra if n in stones))


def _copy_tombstones(source: str, target: str) -> set[str]:
    """Take along what is left of archives that were retired; gives their names."""
    stones = tombstones_in(source)
    for name, archive in stones.items():
        suffix = name.removeprefix(archive)
        if (data := read_companion(f"{source}/{archive}", suffix)) is not None:
            write_companion(f"{target}/{archive}", suffix, data)
    return set(stones.values())


def _names_at(target: str) -> set[str]:
    """Names of the archives in the target, which need not be there yet."""
    if not is_url(target) and not Path(target.removeprefix("file://")).exists():
        return set()
    found = archives_at(target)
    if found is None:
        raise ParameterError(
            f"expected a folder for archives, found the archive {target!r}",
            kind="not-a-folder",
            hint="name the folder that is to hold the copies",
        )
    return {path.removeprefix(f"{target.rstrip('/')}/") for path in found}


def _synced(source: str, target: str, name: str, check: bool, progress: Progress | None) -> CopyRow:
    try:
        copied = _copied(source, target, check=check, progress=progress)
        _take_along(source, target)
    except PscError as error:
        states = {"target-exists": DIFFERS}
        damaged = isinstance(error, FormatError) and not isinstance(error, UnsupportedVersionError)
        state = DAMAGED if damaged else states.get(error.kind, FAILED)
        return CopyRow(name, state, kind=error.kind, message=str(error))
    if copied.absent:
        lost = f"{len(copied.absent)} objects of the copy are missing; repair it"
        return CopyRow(name, DAMAGED, copied.manifest.digest, kind="missing-key", message=lost)
    return _row(name, copied)


def copy_lines(row: CopyRow) -> list[str]:
    """The outcome for people."""
    if row.state == THERE:
        return [f"there     {row.archive}: sealed by an earlier run, manifest {row.manifest}"]
    again = f", {row.found} from an earlier run" if row.found else ""
    return [
        f"copied    {row.archive} ({row.objects} objects, {row.bytes} bytes{again})",
        f"          manifest {row.manifest}",
    ]


def sync_lines(report: SyncReport) -> list[str]:
    """The outcome for people: what was done, then how much of each."""
    lines = [
        f"copied    {row.archive} ({row.objects} objects, {row.bytes} bytes)"
        for row in report.having(COPIED)
    ]
    lines += [
        f"only in {report.target}: {name}" + (", retired" if name in report.retired else "")
        for name in report.extra
    ]
    counts = ", ".join(
        f"{len(report.having(state))} {state}"
        for state in (COPIED, THERE, DIFFERS, DAMAGED, FAILED)
        if report.having(state) or state in (COPIED, THERE)
    )
    return [*lines, f"{len(report.rows)} archives: {counts}"]


def sync_failures(rows: Sequence[CopyRow]) -> list[str]:
    """What was not copied and why, for stderr."""
    return [
        f"error[{row.kind}]: {row.archive}: {row.state}: {' '.join((row.message or '').split())}"
        for row in rows
        if row.kind is not None
    ]
