"""Many archives restored, each into a folder of its own that appears when it is complete."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.collection import archives_at
from pipelines.restoring.restore import RestoreOptions, RestoreReport, restore
from psc_volumetric.archive.layout import SUFFIXES
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.errors import ParameterError, StorageError

__all__ = ["Restoration", "restorations", "restore_complete"]

RECORD = ".restored.json"
FILLED = "filled_bricks"
LONGEST = 1 << 20  # bytes of a record


@dataclass(frozen=True)
class Restoration:
    """An archive, and the folder that gets what it was made of."""

    archive: str
    target: str


def restorations(archives: str, target: Path, wanted: Path | None = None) -> list[Restoration]:
    """What is to be restored from a folder of archives, and where to.

    Parameters
    ----------
    archives : str
        Folder of archives, URL of a bucket or of a part of it, or one archive.
    target : Path
        Folder that gets one folder for each archive, called as the archive without its suffix.
    wanted : Path, optional
        Text file with one archive on a line, by its path below `archives`; empty lines and lines
        that begin with ``#`` are passed over. None is all.

    Raises
    ------
    ParameterError : kind ``"no-list"``; ``"not-in-folder"``, the list names what is not there.
    StorageError : kind ``"not-found"``, no archive in the folder.
    """
    found = archives_at(archives)
    base = archives.rstrip("/")
    if found is None:
        return [Restoration(archives, str(target / _stem(base.rpartition("/")[2])))]
    names = [path.removeprefix(f"{base}/") for path in found]
    if not names:
        raise StorageError(
            f"{archives}: expected a folder of archives, found none in it",
            kind="not-found",
            hint="check the path",
        )
    chosen = names if wanted is None else _listed(wanted, names)
    return [Restoration(f"{base}/{name}", str(target / _stem(name))) for name in chosen]


def _stem(name: str) -> str:
    ending = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    return name[: len(name) - len(ending)]


def _listed(wanted: Path, names: list[str]) -> list[str]:
    try:
        lines = wanted.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(
            f"the list of wanted archives {str(wanted)!r} cannot be read ({error})", kind="no-list"
        ) from error
    chosen = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    unknown = [name for name in chosen if name not in set(names)]
    if unknown:
        raise ParameterError(
            f"{str(wanted)!r} names {len(unknown)} archive(s) that are not in the folder, the "
            f"first is {unknown[0]!r}",
            kind="not-in-folder",
            hint="`psc-archive ls` lists them",
        )
    return list(dict.fromkeys(chosen))


def restore_complete(one: Restoration, options: RestoreOptions) -> RestoreReport | None:
    """Restore one archive into a folder that gets its name when all files are in it.

    Beside the folder stands what was restored, of which archive (``.NAME.restored.json``).

    Returns
    -------
    RestoreReport or None
        None when the folder is there: an earlier run restored the same.

    Raises
    ------
    StorageError : kind ``"target-exists"``: something else is in the folder, such as another level.
    StorageError, FormatError, ... : as `restore`; nothing stays.
    """
    target = Path(one.target)
    with ArchiveReader.open(one.archive) as reader:
        made = {"manifest": reader.manifest.digest, **options.choice}
    record = target.with_name(f".{target.name}{RECORD}")
    if target.is_dir():
        _check_same(target, record, made)
        return None
    unfinished = target.with_name(f".{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        report = restore(one.archive, unfinished, options)
        _write(record, {**made, FILLED: len(report.damage.findings)})
        unfinished.rename(target)
        for mask in map(Path, report.damage.masks):
            if mask.parent == target.parent:  # of a folder of DICOM files, beside it
                mask.rename(mask.with_name(mask.name.replace(unfinished.name, target.name, 1)))
    except OSError as error:
        raise StorageError(
            f"{one.target}: cannot be written ({error.strerror})",
            kind="storage-failed",
            hint="check the rights and the free space",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


def _check_same(target: Path, record: Path, made: dict[str, Any]) -> None:
    """Refuse a folder that holds something else than what would be restored now."""
    try:
        with record.open("rb") as stream:
            before = json.loads(stream.read(LONGEST))
    except (OSError, ValueError, RecursionError):
        before = None
    wanted = {**made, FILLED: 0}
    if before == wanted:
        return
    found = before if isinstance(before, dict) else {}
    differs = ", ".join(name for name in wanted if found.get(name) != wanted[name])
    what = f"files that differ in: {differs}" if found else "a folder that no run has recorded"
    raise StorageError(
        f"{str(target)!r}: expected what this run restores, found {what}",
        kind="target-exists",
        hint="choose another target, or remove the folder first",
    )


def _write(record: Path, made: dict[str, Any]) -> None:
    beside = record.with_name(f"{record.name}.partial")
    beside.unlink(missing_ok=True)
    with beside.open("x", encoding="utf-8") as stream:  # never through a link
        stream.write(json.dumps(made) + "\n")
    beside.replace(record)
