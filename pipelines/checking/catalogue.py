"""All archives of a folder or bucket, a row each, from a small index where nothing has changed.

The index is an SQLite file in the user's cache, one for each folder: what an archive says of
itself, under a digest of its place and of its manifest's size and times. It is a cache and nothing
else: without it, or where anything differs, the archive is opened again. It holds neither names nor
paths, since both may name patients. Archives at URLs are opened every time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sqlite3
from collections.abc import Container, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.archiving.known_sources import index_path
from pipelines.archiving.succession import predecessor_of
from pipelines.checking.event_log import EventLog
from pipelines.checking.tombstones import read_tombstone, tombstones_in
from pipelines.checking.verified import seen_before, verified_when
from pipelines.collection import archives_at, archives_in, folder_of
from psc_volumetric.archive.companions import read_companion
from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.errors import ParameterError, PscError

__all__ = ["COLUMNS", "Condition", "archive_named", "catalogue", "own_checks"]

Row = dict[str, Any]
COLUMNS = (
    "name",
    "state",
    "mode",
    "kind",
    "modality",
    "variables",
    "dtype",
    "shape",
    "spacing_mm",
    "source_bytes",
    "bytes",
    "ratio",
    "created",
    "checked",
    "manifest",
)
NUMBERS = ("source_bytes", "bytes", "ratio")
MOST_NAMES = 100  # of variables in a row: what archives say of themselves may be long
LONGEST, LONGEST_TEXT = 256, 1000  # characters
FOUND = re.compile(r"(\w+)\s*(<=|>=|!=|=|<|>)\s*(.*)", re.S)


class Condition:
    """What rows are asked for, such as ``mode=lossy``, ``bytes>1e6`` or ``created>=2026-11``.

    Raises
    ------
    ParameterError : kind ``"bad-condition"``.
    """

    def __init__(self, text: str) -> None:
        found = FOUND.fullmatch(text.strip())
        if found is None or found[1] not in COLUMNS:
            raise ParameterError(
                f"expected a column, one of = != < > <= >=, and a value, found {text!r}",
                kind="bad-condition",
                hint=f"columns are {', '.join(COLUMNS)}",
            )
        self.column, self.sign, self.value = found[1], found[2], found[3].strip()
        if self.column in NUMBERS and not _is_number(self.value):
            raise ParameterError(
                f"column {self.column!r} holds numbers: expected one to compare with, found "
                f"{self.value!r}",
                kind="bad-condition",
                hint=f"write it as {self.column!r} and a number such as 5000000 or 1e6, no unit",
            )

    def holds(self, row: Row) -> bool:
        """Whether a row is asked for; one without a value is not, but by ``!=``."""
        here = row.get(self.column)
        if here is None:
            return self.sign == "!="
        if isinstance(here, (int, float)):
            try:
                there: Any = float(self.value)
            except ValueError:
                return self.sign == "!="
        else:
            here, there = _text(here), self.value
            if self.sign in ("=", "!=") and isinstance(row[self.column], list):
                return (there in row[self.column] or there == here) == (self.sign == "=")
        answers: dict[str, bool] = {
            "=": here == there,
            "!=": here != there,
            "<": here < there,
            ">": here > there,
            "<=": here <= there,
            ">=": here >= there,
        }
        return answers[self.sign]


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def catalogue(
    target: str,
    *,
    where: Iterable[str] = (),
    sort: str = "name",
    reverse: bool = False,
    index: Path | None = None,
) -> list[Row] | None:
    """Rows of the archives in a folder or below the URL of a bucket; None for one archive.

    Parameters
    ----------
    target : str
    where : iterable of str
        Conditions, which all hold; see `Condition`.
    sort : str
        One of `COLUMNS`; rows without a value come last.
    reverse : bool
        The largest first.
    index : Path, optional
        Use this index file instead of the one in the user's cache.

    Returns
    -------
    list of dict
        With the keys `COLUMNS`, as far as they are known.

    Raises
    ------
    ParameterError : kinds ``"bad-condition"``, ``"bad-sort"``.
    StorageError : the folder cannot be read.
    """
    if sort not in COLUMNS:
        raise ParameterError(
            f"sort must be one of {', '.join(COLUMNS)}, found {sort!r}", kind="bad-sort"
        )
    conditions = [Condition(text) for text in where]
    folder = folder_of(target)
    if folder is not None:
        names = [path.relative_to(folder).as_posix() for path in archives_in(folder)]
        rows = _known_rows(folder, names, index or index_path(folder).with_suffix(".sqlite"))
    else:
        found = archives_at(target)
        if found is None:
            return None
        base = target.rstrip("/")
        rows = [{"name": one.removeprefix(f"{base}/"), **_opened(one)} for one in found]
    rows += _tombstone_rows(target.rstrip("/"))
    _add_successors(rows)
    _add_checks(target, rows)
    kept = [row for row in rows if all(condition.holds(row) for condition in conditions)]
    known = [row for row in kept if row.get(sort) is not None]
    known.sort(key=lambda row: _sortable(row[sort]), reverse=reverse)
    return known + [row for row in kept if row.get(sort) is None]


def _known_rows(folder: Path, names: Sequence[str], path: Path) -> list[Row]:
    keys = {name: _fingerprint(folder / name) for name in names}
    before = _read(path)
    rows, now = [], {}
    for name in names:
        key = keys[name]
        row = before.get(key) if key else None
        if row is None:
            row = _opened(str(folder / name))
        if key and row["state"] == "sealed":
            now[key] = row
        rows.append({"name": name, **row})
    if now != before:
        _write(path, now)
    return rows


def _fingerprint(archive: Path) -> str | None:
    """Digest of what is seen of an archive from outside; None where nothing is."""
    told = archive / MANIFEST_KEY if archive.is_dir() else archive
    try:
        found = told.stat()
    except OSError:
        return None
    seen = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return hashlib.sha256(os.fsencode(archive.absolute()) + repr(seen).encode()).hexdigest()


def _opened(archive: str) -> Row:
    """What an archive says of itself; of one that cannot be opened, why."""
    try:
        with ArchiveReader.open(archive) as reader:
            old = predecessor_of(reader)
            specs = [*reader.variables.values(), *(kept.spec for kept in reader.kept.values())]
            main = max(specs, key=lambda spec: spec.nbytes, default=None)
            source = reader.document.source
            size = reader.manifest.size + len(reader.manifest.to_bytes())
            kind = reader.metadata.get("provenance", {}).get("source_kind")
            spacing = None if main is None or main.spacing_mm is None else main.spacing_mm
            return {
                "state": "sealed",
                "mode": reader.mode,
                "kind": _word(kind),
                "modality": _word(None if main is None else main.attrs.get("modality")),
                "variables": [spec.name[:LONGEST] for spec in specs[:MOST_NAMES]],
                "dtype": None if main is None else main.dtype.name,
                "shape": None if main is None else list(main.shape),
                "spacing_mm": None if spacing is None else [float(s) for s in spacing],
                "source_bytes": source.bytes,
                "bytes": size,
                "ratio": source.bytes / size if source.bytes else None,
                "created": _word(reader.created),
                "manifest": reader.manifest.digest,
                "supersedes": None if old is None else old.manifest,
            }
    except PscError as error:
        return {"state": error.kind}


def _word(value: Any) -> str | None:
    """A short text of an archive, such as what made a volume in the words of DICOM; else None."""
    return value if isinstance(value, str) and len(value) <= LONGEST else None


def _add_successors(rows: list[Row]) -> None:
    """By which archive of the folder one was superseded."""
    newer = {row["supersedes"]: row["name"] for row in rows if row.get("supersedes")}
    for row in rows:
        if row.get("manifest") in newer:
            row["superseded_by"] = newer[row["manifest"]]


def _tombstone_rows(target: str) -> list[Row]:
    """Archives that were removed on purpose."""
    rows: list[Row] = []
    for name, archive in tombstones_in(target).items():
        try:
            data = read_companion(f"{target}/{archive}", name.removeprefix(archive))
            stone = read_tombstone(data or b"", name)
            said = {"retired": stone.retired, "by": stone.by, "reason": stone.reason}
            what = {key: text[:LONGEST_TEXT] for key, text in said.items()}
            manifest = _word(stone.manifest)
            rows.append({"name": name, "state": "retired", "manifest": manifest, **what})
        except PscError as error:
            rows.append({"name": name, "state": error.kind})
    return rows


def _add_checks(target: str, rows: list[Row]) -> None:
    """When each archive was last found whole: by the event log, or by a ``verify`` of one's own."""
    names = {row["name"]: row for row in rows}
    for event in EventLog.of(target).events():
        if event.get("event") == "scrub" and event.get("outcome") == "ok":
            name = archive_named(str(event.get("archive", "")), names)
            if name is not None:
                names[name]["checked"] = event.get("time")
    base = target.rstrip("/")
    asked = [(f"{base}/{row['name']}", row.get("manifest")) for row in rows]
    for row, time in zip(rows, verified_when(asked), strict=True):
        if time is not None and row["state"] == "sealed":
            row["checked"] = max(time, row.get("checked") or "")


def archive_named(recorded: str, names: Container[str]) -> str | None:
    """The archive of a folder that a line of its log is about; it may have had another path."""
    parts = PurePosixPath(recorded).parts
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((tail for tail in tails if tail in names), None)


def own_checks(target: str, names: Iterable[str]) -> dict[str, str]:
    """When a ``verify`` of one's own last found archives whole; no others are opened.

    Parameters
    ----------
    target : str
        Folder or bucket.
    names : iterable of str
        Of archives, relative to it.
    """
    base, folder = target.rstrip("/"), folder_of(target)
    seen = seen_before(f"{base}/{name}" for name in names)
    index = _read(index_path(folder).with_suffix(".sqlite")) if seen and folder else {}
    asked = []
    for archive in seen:
        key = _fingerprint(folder / archive.removeprefix(f"{base}/")) if folder else None
        row = index.get(key or "") or _opened(archive)
        asked.append((archive, row.get("manifest")))
    times = zip(seen, verified_when(asked), strict=True)
    return {one.removeprefix(f"{base}/"): time for one, time in times if time is not None}


def _read(path: Path) -> dict[str, Row]:
    """Rows of an index; none where it cannot be read."""
    if not path.is_file():
        return {}
    with suppress(sqlite3.Error, ValueError, RecursionError):
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as index:
            found = index.execute("SELECT key, row FROM archives").fetchall()
        rows = {str(key): json.loads(row) for key, row in found}
        if all(
            isinstance(row, dict) and row.get("state") == "sealed" and "modality" in row
            for row in rows.values()
        ):
            return rows
    return {}


def _write(path: Path, rows: dict[str, Row]) -> None:
    """Put an index in its place; a cache that cannot be written is none."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError, sqlite3.Error):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(beside)) as index, index:
            index.execute("CREATE TABLE archives (key TEXT PRIMARY KEY, row TEXT NOT NULL)")
            lines = [(key, json.dumps(row)) for key, row in rows.items()]
            index.executemany("INSERT INTO archives VALUES (?, ?)", lines)
        beside.replace(path)
    with suppress(OSError):
        beside.unlink()


def _text(value: Any) -> str:
    return " x ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _sortable(value: Any) -> Any:
    if isinstance(value, list):
        return [(isinstance(part, str), part) for part in value]
    return value
