"""Sources of an inbox that could not be archived: told once, then passed over until they change.

The record stands beside the target (``<target>.refused.json``, for its owner alone, because it
names files), beside the key of pseudonyms where there is one, and for object stores in the cache of
`pipelines.archiving.known_sources`. A source is known there by where it is, how large and how old,
and by the settings: when any of these changes, or psc-archive itself, it is tried again. Losing
the record means that everything is tried and told once more.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psc_volumetric
from adapters.base import Skipped
from adapters.errors import SourceError
from pipelines.archiving.item_report import ItemError, holds_data
from pipelines.archiving.known_sources import fingerprint, index_path
from pipelines.archiving.targets import is_archive_name
from psc_volumetric.archive.addresses import is_url, place_beside
from psc_volumetric.errors import ParameterError, PscError, StorageError

__all__ = ["Refused", "RefusedSources", "is_about_source"]

SUFFIX = ".refused.json"
# What may pass by itself is told by this many runs before it is passed over.
PATIENCE = 3
PASSING = (
    "no-decoder",
    "not-provable",
    "reader-memory",
    "reader-timeout",
    "source-changed",
    "unreadable",
)
# Errors of adapters that say nothing of the source.
_ABOUT_OTHERS = ("bad-limit", "bad-target", "not-found", "target-exists", "target-locked")
_LARGEST = 64 << 20


@dataclass(frozen=True)
class Refused:
    """A source that was refused.

    Attributes
    ----------
    seen : str
        What was seen of its files, see `pipelines.archiving.known_sources.fingerprint`.
    paths : tuple of str
    kind, message : str
        Stable word and sentence of the error.
    hint : str or None
    release : str
        Version of psc-archive that refused it.
    runs : int
        How many runs did.
    """

    seen: str
    paths: tuple[str, ...]
    kind: str
    message: str
    hint: str | None = None
    release: str = psc_volumetric.__version__
    runs: int = 1

    @property
    def is_settled(self) -> bool:
        """Whether trying again is of no use."""
        enough = self.kind not in PASSING or self.runs >= PATIENCE
        return enough and self.release == psc_volumetric.__version__

    def to_dict(self) -> dict[str, Any]:
        """JSON-able record."""
        return {**asdict(self), "paths": list(self.paths)}


def is_about_source(error: Exception) -> bool:
    """Whether an error of one item says something of its source, and not of store or machine."""
    if isinstance(error, SourceError):
        return error.kind not in _ABOUT_OTHERS
    if isinstance(error, PscError):
        return isinstance(error, ParameterError)
    return not isinstance(error, OSError | MemoryError | ImportError)


@dataclass
class RefusedSources:
    """The record of one target; changes are on disk after `save`.

    Attributes
    ----------
    path : Path or None
        None: nothing is remembered.
    retry : bool
        Pass over nothing.
    rows : dict
        What was seen of a source -> why it was refused.
    """

    path: Path | None = None
    retry: bool = False
    rows: dict[str, Refused] = field(default_factory=dict)
    _now: dict[str, Refused] = field(default_factory=dict)

    @classmethod
    def load(
        cls, target: str, keyfile: Path | None = None, *, retry: bool = False
    ) -> RefusedSources:
        """Read the record of a folder; a record that cannot be read is none."""
        path = _place(target, keyfile)
        if path is None:
            return cls()
        try:
            with path.open("rb") as stream:
                rows = json.loads(stream.read(min(_LARGEST, os.fstat(stream.fileno()).st_size)))[
                    "sources"
                ]
            found = [Refused(**{**row, "paths": tuple(row["paths"])}) for row in rows]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            found = []
        return cls(path, retry, {row.seen: row for row in found})

    def pass_over(self, seen: str) -> Refused | None:
        """Why a source need not be tried in this run; None when it has to be."""
        row = self.rows.get(seen)
        if row is None or not row.is_settled or self.retry:
            return None
        self.keep(row)
        return row

    def keep(self, row: Refused) -> None:
        """Note that a source was passed over in this run."""
        self._now[row.seen] = row

    def sort_out(self, left_out: Sequence[Skipped]) -> tuple[list[Skipped], list[Refused]]:
        """Files that discovery left out: those to be told, and those that were told before."""
        told, before = [], []
        for entry in left_out:
            seen = _seen_of(entry.path) if holds_data(entry) else None
            row = None if seen is None else self.pass_over(seen)
            if row is not None:
                before.append(row)
                continue
            told.append(entry)
            if seen is not None:
                error = ItemError(entry.kind, entry.reason, entry.hint)
                self.add(seen, [str(entry.path)], error)
        return told, before

    def add(self, seen: str, paths: Sequence[str], error: ItemError) -> None:
        """Note that this run refused a source."""
        before = self.rows.get(seen)
        runs = 1 if before is None else before.runs + 1
        whole = tuple(str(Path(path).absolute()) for path in paths)
        self.keep(Refused(seen, whole, error.kind, error.message, error.hint, runs=runs))

    def save(self, source: Path) -> None:
        """Write the record: of a source folder what this run found, of others what was there.

        Raises
        ------
        StorageError : kind ``"storage-failed"``.
        """
        root = source.absolute()
        others = {
            seen: row
            for seen, row in self.rows.items()
            if not any(Path(path).is_relative_to(root) for path in row.paths)
        }
        rows = {**others, **self._now}
        if self.path is None or rows == self.rows:
            return
        document = {"sources": [row.to_dict() for row in rows.values()]}
        try:
            _write(self.path, json.dumps(document, indent=1).encode(), empty=not rows)
        except OSError as error:
            raise StorageError(
                f"the record of refused sources {str(self.path)!r} cannot be written "
                f"({error.strerror})",
                kind="storage-failed",
                hint="check the rights and the free space",
            ) from error
        self.rows = rows


def _seen_of(path: Path) -> str | None:
    try:
        return fingerprint([path], {})
    except OSError:
        return None


def _place(target: str, keyfile: Path | None) -> Path | None:
    """Where the record of a target is; None for one archive."""
    text = target.removeprefix("file://").rstrip("/")
    if is_archive_name(text):
        return None
    if keyfile is not None:
        digest = hashlib.sha256(os.fsencode(Path(text).absolute())).hexdigest()[:16]
        return keyfile.with_name(f"{keyfile.name}.{digest}{SUFFIX}")
    if is_url(text):
        return index_path(Path(text)).with_suffix(SUFFIX)
    return place_beside(target, SUFFIX)


def _write(path: Path, data: bytes, *, empty: bool) -> None:
    """Replace the record in one step; an empty one goes."""
    if empty:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
