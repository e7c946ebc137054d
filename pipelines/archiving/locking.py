"""One run at a time on one target: a lock beside it that names its owner.

The lock is the file ``<target>.lock``. On one machine the kernel keeps it (``flock``), so it goes
with the process however that ends. What is written in it is for people, and for machines that share
a folder without sharing locks: there an owner gives a sign of life every minute, and one that was
silent for half an hour is taken to be gone.

Targets in object stores have no lock. Two runs there write the same bricks, and the manifest is
written only where there is none: the second one to seal finds the archive of the first.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from psc_volumetric.archive.addresses import is_url, place_beside
from psc_volumetric.archive.targets import refuse_within_archive
from psc_volumetric.errors import StorageError

__all__ = ["LOCK_SUFFIX", "Owner", "clear_stale", "hold", "lock_path", "owner_of"]

LOCK_SUFFIX = ".lock"
SIGN_OF_LIFE_S = 60.0
SILENT_S = 1800.0
_POLL_S = 0.2
_LARGEST = 4096


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes
    ----------
    pid : int
    started : int
        When that process started, in the system's own count; tells it from a later one with its
        number. 0 where the system does not say.
    host : str
    kernel : str
        Which start of which machine; containers on one machine share it. Empty when unknown.
    since : str
        When the lock was taken, UTC.
    """

    pid: int
    started: int
    host: str
    kernel: str
    since: str

    @classmethod
    def us(cls) -> Owner:
        """Give the owner that stands for this process."""
        pid, now = os.getpid(), datetime.datetime.now(datetime.UTC)
        return cls(
            pid=pid,
            started=_start_of(pid) or 0,
            host=socket.gethostname(),
            kernel=_read("/proc/sys/kernel/random/boot_id").strip(),
            since=now.isoformat(timespec="seconds"),
        )

    @classmethod
    def parse(cls, text: bytes) -> Owner | None:
        """Read what `text` writes; None for anything else, such as a file cut by a full disk."""
        try:
            found = json.loads(text)
            texts = (str(found[name]) for name in ("host", "kernel", "since"))
            return cls(int(found["pid"]), int(found["started"]), *texts)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def text(self) -> bytes:
        """The content of a lock file."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def may_live(self, *, kernel_says_free: bool, silent_s: float) -> bool:
        """Whether the process that wrote this may still be at work.

        Parameters
        ----------
        kernel_says_free : bool
            The kernel gave us the lock: no process of this machine has it.
        silent_s : float
            Time since the last sign of life.
        """
        us = Owner.us()
        if self.host != us.host and (self.kernel != us.kernel or not us.kernel):
            return silent_s < SILENT_S
        return not kernel_says_free and _start_of(self.pid) in (self.started, 0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except OSError:
        return ""


def _start_of(pid: int) -> int | None:
    """When a process of this machine started; 0 when only known to be there, None when it is not.

    Linux: clock ticks since the machine started, the 22nd field of ``/proc/PID/stat``.
    """
    text = _read(f"/proc/{pid}/stat")
    if text:
        return int(text.rpartition(")")[2].split()[19])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def lock_path(target: str) -> Path | None:
    """Where the lock of a target is; None for targets without one (URLs of object stores)."""
    return None if is_url(target) else place_beside(target, LOCK_SUFFIX)


@contextmanager
def hold(
    target: str, *, wait_s: float = 0.0, told: Callable[[Owner | None], None] | None = None
) -> Iterator[None]:
    """Keep other runs away from a target within the block.

    Parameters
    ----------
    target : str
        Path of an archive or a folder; its parents are made. Nothing happens for URLs.
    wait_s : float
        How long to wait for the run that holds it.
    told : callable, optional
        Called once, before waiting, with the owner.

    Raises
    ------
    StorageError : kind ``"target-locked"``, another run holds it; ``"storage-failed"``, the lock
        cannot be made; ``"within-archive"``.
    """
    path = lock_path(target)
    if path is None:
        yield
        return
    refuse_within_archive(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _take(path, wait_s, told)
    except OSError as error:
        raise StorageError(
            f"{target}: cannot keep other runs away, {path.name!r} cannot be made "
            f"({error.strerror})",
            kind="storage-failed",
            hint="check that the folder exists and is writable",
        ) from error
    done = threading.Event()
    signs = threading.Thread(target=_give_signs, args=(handle, done), daemon=True)
    signs.start()
    try:
        yield
    finally:
        done.set()
        signs.join()
        with suppress(OSError):  # somebody tidied up: the lock itself goes with the handle
            path.unlink()
        _open_handles.discard(handle)
        os.close(handle)


def owner_of(target: str) -> tuple[Owner | None, bool]:
    """Who has, or left behind, the lock of a target, and whether that run may be at work.

    Returns
    -------
    owner : Owner or None
        None when there is no lock; nobody is kept from taking it.
    alive : bool
    """
    path = lock_path(target)
    try:
        handle = -1 if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None, False
    if handle < 0:
        return None, False
    try:
        owner = Owner.parse(os.pread(handle, _LARGEST, 0))
        silent_s = time.time() - os.fstat(handle).st_mtime
        free = _flock(handle)  # let go of with the handle
    finally:
        os.close(handle)
    if owner is None:
        return None, free is False
    alive = free is False or owner.may_live(kernel_says_free=free is True, silent_s=silent_s)
    return owner, alive


def clear_stale(target: str) -> None:
    """Remove the lock that a killed run left; one that is held stays."""
    path = lock_path(target)
    if path is not None and path.is_file():
        with suppress(StorageError), hold(target):
            pass


def _take(path: Path, wait_s: float, told: Callable[[Owner | None], None] | None) -> int:
    """Handle of the locked file, which is then ours."""
    end = time.monotonic() + wait_s
    while True:
        handle, owner = _try(path)
        if handle is not None:
            return handle
        if told is not None:
            told(owner)
            told = None
        if time.monotonic() >= end:
            raise StorageError(
                f"another run works on {str(path.with_suffix(''))!r}: {owner or 'unknown owner'}",
                kind="target-locked",
                hint=f"wait until it ends; if it is gone, remove {str(path)!r}",
            )
        time.sleep(_POLL_S)


def _try(path: Path) -> tuple[int | None, Owner | None]:
    """Take the lock if it is free or its owner is gone; else who has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            owner = Owner.parse(os.pread(handle, _LARGEST, 0))
            free = _flock(handle)
            if free is not False and not _is_named(handle, path):
                os.close(handle)  # its owner has just removed it: make a new one
                continue
            silent_s = time.time() - os.fstat(handle).st_mtime
            if free is False or (
                owner and owner.may_live(kernel_says_free=free is True, silent_s=silent_s)
            ):
                os.close(handle)
                return None, owner
            os.ftruncate(handle, 0)
            os.pwrite(handle, Owner.us().text(), 0)
            os.fsync(handle)
        except OSError:
            os.close(handle)
            raise
        _open_handles.add(handle)
        return handle, None


def _flock(handle: int) -> bool | None:
    """Whether the kernel gave us the lock; None where the file system has none to give."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            return None
        raise
    return True


def _is_named(handle: int, path: Path) -> bool:
    """Whether the file we locked is still the one of this name: its owner removes it at the end."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _give_signs(handle: int, done: threading.Event) -> None:
    while not done.wait(SIGN_OF_LIFE_S):
        with suppress(OSError):
            os.utime(handle)


_open_handles: set[int] = set()


def _forget_in_child() -> None:
    """A forked child has our handles; it must not keep a lock when we are gone."""
    for handle in _open_handles:
        with suppress(OSError):
            os.close(handle)
    _open_handles.clear()


os.register_at_fork(after_in_child=_forget_in_child)
