"""Writing so that nothing half-written is ever left, and nothing is ever replaced.

Also what every format checks before it writes, and how it says that values were restored with loss.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from adapters.base import RestoreInfo
from adapters.errors import SourceError

__all__ = [
    "check_stored_type",
    "check_volumes_exist",
    "file_target",
    "loss_note",
    "staged_file",
    "staged_folder",
    "unusable_record",
]


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes ``target`` when the block ends without an error.

    Raises
    ------
    SourceError : kind ``"target-exists"``, the target is a file or a folder that is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise _exists(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def staged_file(*targets: Path) -> Iterator[list[Path]]:
    """Give temporary names beside ``targets`` that take their place when the block ends well.

    Raises
    ------
    SourceError : kind ``"target-exists"``.
    """
    for target in targets:
        if target.exists():
            raise _exists(target)
    folder = targets[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".restore.", suffix=".partial", dir=folder))
    try:
        staged = [work / target.name for target in targets]
        yield staged
        for source, target in zip(staged, targets, strict=True):
            source.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def file_target(target: Path, own_name: str, suffixes: Sequence[str]) -> Path:
    """Choose the file to write: ``target`` itself, or the source's own name inside it.

    A target with one of ``suffixes`` is a file; anything else is a folder.
    """
    if target.is_dir() or not target.name.lower().endswith(tuple(suffixes)):
        return target / own_name
    return target


def _exists(target: Path) -> SourceError:
    return SourceError(
        "the target exists already",
        kind="target-exists",
        path=target,
        hint="choose another target; existing files are never replaced",
    )


def check_volumes_exist(
    asked: Sequence[tuple[str, tuple[int, ...]]], known: dict[str, tuple[int, ...]]
) -> None:
    """Check names and full shapes of volumes to restore against the source's record.

    Raises
    ------
    SourceError : kind ``"bad-region"``.
    """
    if not asked:
        raise SourceError("expected at least one volume to restore, found none", kind="bad-region")
    for name, shape in asked:
        if name not in known or known[name] != shape:
            raise SourceError(
                f"expected one of the volumes {known!r}, found {name!r} of shape {shape!r}",
                kind="bad-region",
            )
    names = [name for name, _ in asked]
    if len(set(names)) != len(names):
        raise SourceError(f"a volume is listed twice: {names!r}", kind="bad-region")


def check_stored_type(found: np.dtype[np.generic], stored: np.dtype[np.generic], what: str) -> None:
    """Check that values to restore have the type the source stores, in native byte order.

    Raises
    ------
    SourceError : kind ``"bad-region"``.
    """
    if found != stored.newbyteorder("="):
        raise SourceError(
            f"{what}: expected values of the stored type {stored.name!r}, found {found.name!r}",
            kind="bad-region",
        )


def unusable_record(format_name: str, error: Exception) -> SourceError:
    """Give the error for a record from an archive that ``error`` shows to be damaged."""
    return SourceError(
        f"the stored {format_name} record cannot be used ({type(error).__name__})",
        kind="bad-document",
        hint="verify the archive",
    )


def loss_note(info: RestoreInfo) -> str:
    """Say in a file's own comments that its values are not those of its source."""
    ratio = "unknown" if info.ratio is None else f"{info.ratio:.4g}"
    bound = "" if info.max_error is None else f"; largest error {info.max_error:g} stored units"
    return (
        f"values restored with loss by psc-archive; method {info.method}; level {info.level}; "
        f"ratio {ratio}{bound}"
    )
