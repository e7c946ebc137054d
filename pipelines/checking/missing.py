"""Which sources of a folder no archive holds yet, found without reading those that are known.

A source is archived when the index of the target knows it as it is now, or when an archive records
its digest; only sources that the index does not know are read for that. Of de-identified copies the
index alone knows the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import isolation
from adapters.base import Candidate
from pipelines.archiving.item_report import ITEM_ERRORS, ItemError, holds_data
from pipelines.archiving.known_sources import KnownSources
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.planned import seen_of
from pipelines.archiving.refused import Refused
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.source import source_digest
from psc_volumetric.errors import ParameterError, PscError

__all__ = ["Missing", "missing_sources"]


@dataclass(frozen=True)
class Missing:
    """A source that no archive holds.

    Attributes
    ----------
    path : str
        Its first file.
    files : int
    late : bool
        Whether it was there when the last run began.
    error : str or None
        Kind of the error why it cannot be archived.
    """

    path: str
    files: int
    late: bool
    error: str | None = None


def missing_sources(
    source: Path,
    target: str,
    archives: Sequence[str],
    last_run: Mapping[str, Any] | None,
    refused: Mapping[str, Refused],
) -> list[Missing]:
    """Look through a folder for sources that are not archived, and not refused either.

    Parameters
    ----------
    source : Path
    target : str
        Folder or URL of the archives.
    archives : sequence of str
        The sealed ones.
    last_run : mapping or None
        Line of the event log of the last run.
    refused : mapping
        Record of refused sources, by what was seen of them.

    Raises
    ------
    SourceError : kind ``"not-found"``: the source is not there.
    """
    found = isolation.look(source, keep=True)
    options, stamp = _options(last_run), (last_run or {}).get("deidentified")
    index = KnownSources.load(target, is_folder=True)
    told = {path for row in refused.values() for path in row.paths}
    unknown = [c for c in found.candidates if index.find(_seen(c, options, stamp)) is None]
    unknown = [c for c in unknown if str(c.paths[0].absolute()) not in told]
    recorded = _recorded_digests(archives) if unknown else frozenset()
    begun = _begin_of(last_run)
    missing = [one for c in unknown if (one := _missing(c, recorded, begun)) is not None]
    for entry in found.skipped:
        if holds_data(entry) and str(entry.path.absolute()) not in told:
            late = _is_late([entry.path], begun)
            missing.append(Missing(str(entry.path), 1, late, entry.kind))
    return missing


def _options(last_run: Mapping[str, Any] | None) -> ArchiveOptions:
    """Those of the last run, which are part of what the index knows a source by."""
    try:
        return ArchiveOptions.from_dict((last_run or {}).get("options", {}))
    except (TypeError, AttributeError, ParameterError):  # of another release, or of others
        return ArchiveOptions()


def _seen(candidate: Candidate, options: ArchiveOptions, stamp: str | None) -> str:
    try:
        return seen_of(candidate, options, stamp)
    except FileNotFoundError:
        return ""


def _missing(candidate: Candidate, recorded: frozenset[str], begun: float | None) -> Missing | None:
    path, files = str(candidate.paths[0]), len(candidate.paths)
    try:
        digest = str(source_digest(isolation.open_source(candidate).files)["sha256"])
    except ITEM_ERRORS as error:
        late = _is_late(candidate.paths, begun)
        return Missing(path, files, late, ItemError.of(error).kind)
    if digest in recorded:
        return None
    return Missing(path, files, _is_late(candidate.paths, begun))


def _recorded_digests(archives: Iterable[str]) -> frozenset[str]:
    """Digests of the sources of archives; one that cannot be opened holds nothing for sure."""
    digests = set()
    for archive in archives:
        try:
            with ArchiveReader.open(archive) as reader:
                digests.add(str(reader.metadata.get("source", {}).get("sha256")))
        except PscError:
            continue
    return frozenset(digests)


def _begin_of(last_run: Mapping[str, Any] | None) -> float | None:
    """When the last run began, in seconds since 1970."""
    if last_run is None or "began" not in last_run:
        return None
    return float(last_run["began"]) - float(last_run.get("quiet_s", 0))


def _is_late(paths: Sequence[Path], begun: float | None) -> bool:
    """Whether files were there, unchanged since, when the last run looked."""
    if begun is None:
        return False
    try:
        return max(path.stat().st_ctime for path in paths) < begun
    except FileNotFoundError:
        return False
