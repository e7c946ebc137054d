"""Writing so that nothing half-written is ever left unseen, and nothing is ever replaced.

Files are written in ``<target>.unfinished`` beside the target and moved when all are there. The
folder is in plain sight and says what it is: what a killed run leaves may hold patient data. The
next run for that target removes it; a run at work keeps it with a lock of the kernel, which goes
with the process however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adapters.errors import SourceError

__all__ = ["UNFINISHED", "clear_unfinished", "staged_file", "staged_folder"]

UNFINISHED = ".unfinished"
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
NOTE = "WHAT-IS-THIS.txt"
_NOTE_TEXT = (
    "psc-archive is restoring files here, or was stopped while it did. They are not complete and\n"
    "may hold patient data. Unless a restore is running, this folder can be removed; the next\n"
    "restore to the same target removes it.\n"
)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give a folder that becomes ``target`` when the block ends without an error.

    Raises
    ------
    SourceError : kind ``"target-exists"``, the target is a file or a folder that is not empty;
        ``"target-locked"``, another run restores to it.
    """
    clear_unfinished(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise _exists(target)
    with _workplace(target) as work:
        made = work / "files"
        made.mkdir()
        yield made
        for path in (*sorted(made.rglob("*"), reverse=True), made):
            _sync(path)
        try:
            made.rename(target)
        except OSError as error:
            if error.errno in _TAKEN:  # by another run, after we looked
                raise _exists(target) from error
            raise
        _sync(target.parent)


@contextmanager
def staged_file(*targets: Path) -> Iterator[list[Path]]:
    """Give names that take the place of ``targets`` when the block ends without an error.

    Raises
    ------
    SourceError : kind ``"target-exists"``, ``"target-locked"``.
    """
    clear_unfinished(*targets)
    for target in targets:
        if target.exists():
            raise _exists(target)
    with _workplace(targets[0]) as work:
        staged = [work / target.name for target in targets]
        yield staged
        for source in staged:
            _sync(source)
        placed: list[Path] = []
        try:
            for source, target in zip(staged, targets, strict=True):
                _place(source, target)
                placed.append(target)
            _sync(targets[0].parent)
        except (OSError, SourceError):
            for target in placed:
                target.unlink()
            raise


def clear_unfinished(*targets: Path) -> None:
    """Remove what a killed run left for these targets, with names that it had given already.

    Nothing happens while another run is at work, or where the folder is not one of ours.
    """
    work = _work(targets[0])
    if not work.is_dir():
        return
    try:
        handle = _claim(work, targets[0])
    except SourceError:
        return
    try:
        for target in targets:
            source = work / target.name
            if source.is_file() and target.is_file() and source.samefile(target):
                target.unlink()
        _remove(work)
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    """Have a file or folder on the disk before anything depends on it."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _work(target: Path) -> Path:
    return target.with_name(target.name + UNFINISHED)


def _empty(work: Path) -> None:
    """Remove everything but the note: it goes last, so that a kill leaves a folder that is ours."""
    for left in work.iterdir():
        if left.name == NOTE:
            continue
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _remove(work: Path) -> None:
    with suppress(OSError):
        _empty(work)
        (work / NOTE).unlink(missing_ok=True)
        work.rmdir()


def _place(source: Path, target: Path) -> None:
    """Give a file its name, never in place of another that came meanwhile."""
    try:
        target.hardlink_to(source)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError:  # a file system without hard links
        if target.exists():
            raise _exists(target) from None
        source.rename(target)


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """The folder beside the target, empty but for its note, and ours within the block."""
    work = _work(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle = _claim(work, target)
    try:
        _empty(work)
        (work / NOTE).write_text(_NOTE_TEXT, "utf-8")
        yield work
    finally:
        _remove(work)
        os.close(handle)


def _claim(work: Path, target: Path) -> int:
    """Handle of the locked folder, made if need be.

    Raises
    ------
    SourceError : another run has it, or it is not one of ours.
    """
    while True:
        with suppress(FileExistsError):
            work.mkdir()
        try:
            handle = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its owner has just removed it
        except OSError as error:
            raise _foreign(work) from error
        if not _lock(handle):
            os.close(handle)
            raise SourceError(
                f"another run restores to it at this moment, in {work.name!r}",
                kind="target-locked",
                path=target,
                hint="wait until it ends, or choose another target",
            )
        if _is_named(handle, work):
            break
        os.close(handle)
    if any(work.iterdir()) and not (work / NOTE).is_file():
        os.close(handle)
        raise _foreign(work)
    return handle


def _lock(handle: int) -> bool:
    """Whether the folder is ours; a file system without locks has no second run to tell of."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_named(handle: int, work: Path) -> bool:
    try:
        there = work.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _foreign(work: Path) -> SourceError:
    return SourceError(
        "expected no such file or folder, or one that an unfinished restore left",
        kind="target-exists",
        path=work,
        hint="rename it, or choose another target",
    )


def _exists(target: Path) -> SourceError:
    return SourceError(
        "the target exists already",
        kind="target-exists",
        path=target,
        hint="choose another target; existing files are never replaced",
    )
