"""Where the archive of an item goes, and what is there already.

In a folder, archives are called after the file they come from: its path below the source folder,
without the suffix, so that the tree of the sources is the tree of the archives. Where another file
of that stem is about, the suffix stays (``scan.nii.psc.zarr``). DICOM items are called by what the
adapter says, never by words of a header or a path. An archive that was sealed stays where it is
under its name: a source that changed since gets ``-2``, ``-3`` ... behind its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath
from typing import Any

from adapters.base import Candidate, FileRecord
from pipelines.archiving.options import ArchiveOptions
from psc_volumetric.archive.documents import Node, decode
from psc_volumetric.archive.layout import ATTRIBUTE, METADATA_KEY, SUFFIXES
from psc_volumetric.archive.packing import work_place
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.archive.source import source_digest
from psc_volumetric.archive.stores import open_store
from psc_volumetric.archive.targets import target_state
from psc_volumetric.errors import FormatError

__all__ = [
    "ABSENT",
    "OTHER",
    "OTHER_SETTINGS",
    "SAME",
    "Namer",
    "Naming",
    "is_archive_name",
    "namings",
    "place_of",
    "state_at",
]

SUFFIX = SUFFIXES[0]
ABSENT, SAME, OTHER_SETTINGS, OTHER = "absent", "same", "other-settings", "other"
_FILE_SUFFIXES = (
    ".nii.gz",
    ".hdr.gz",
    ".img.gz",
    ".nii",
    ".hdr",
    ".img",
    ".nc",
    ".nc4",
    ".cdf",
)

# Gives the name of an item in the place of its path or series: a pseudonym.
Namer = Callable[[str], str]


@dataclass(frozen=True)
class Naming:
    """What the archive of an item may be called.

    Attributes
    ----------
    target : str
        The archive itself, or the folder that gets it.
    stem, full : str
        Relative names without and with the suffix of the file; equal for DICOM and pseudonyms.
    crowded : bool
        Whether another file of this run has the same stem.
    path : str or None
        What the archive records as the path of its source.
    """

    target: str
    stem: str
    full: str
    crowded: bool
    path: str | None


def is_archive_name(target: str) -> bool:
    """Whether a target names one archive rather than a folder for several."""
    return target.rstrip("/").lower().endswith(SUFFIXES)


def namings(candidates: Sequence[Candidate], target: str, namer: Namer | None) -> list[Naming]:
    """Give the names that items may have; the order of the items does not matter."""
    stems = Counter(_stem(candidate) for candidate in candidates)
    return [_naming(c, target, namer, crowded=stems[_stem(c)] > 1) for c in candidates]


def _naming(candidate: Candidate, target: str, namer: Namer | None, *, crowded: bool) -> Naming:
    if namer is not None:
        name = namer(str(candidate.place or candidate.key))
        return Naming(target, name, name, crowded=False, path=None)
    path = None if candidate.place is None else _readable(str(candidate.place))
    full = candidate.name if candidate.place is None else _below(candidate.place)
    return Naming(target, _stem(candidate), full, crowded, path)


def _stem(candidate: Candidate) -> str:
    place = candidate.place
    if place is None:
        return candidate.name
    lower = place.name.lower()
    suffix = next((s for s in _FILE_SUFFIXES if lower.endswith(s) and lower != s), "")
    return _below(place.with_name(place.name[: len(place.name) - len(suffix)]))


def _below(place: PurePosixPath) -> str:
    """The path as a name; a folder that is called like an archive must not become part of one."""
    folders = (f"{part}_" if is_archive_name(part) else part for part in place.parent.parts)
    return str(PurePosixPath(*folders, place.name))


def _readable(text: str) -> str:
    """Text for a document: file names may hold bytes that are no text."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def place_of(
    naming: Naming,
    files: Sequence[FileRecord],
    provenance: Mapping[str, Any],
    taken: Collection[str] = (),
) -> tuple[str, str]:
    """Choose where the archive of an item goes.

    Parameters
    ----------
    naming : Naming
    files : sequence of FileRecord
        The source as it is now.
    provenance : mapping
        ``source_kind`` and ``options`` that the archive would record.
    taken : collection of str
        Targets of other items of this run.

    Returns
    -------
    target : str
    state : str
        What is there: ``"absent"`` (nothing, or this archive unfinished), ``"same"`` (sealed from
        this source with these settings), ``"other-settings"`` (from this source) or ``"other"``
        (only when the target names one archive).
    """
    if is_archive_name(naming.target):
        target = naming.target.rstrip("/")
        return target, state_at(target, files, provenance)[0]
    other_settings = None
    for name in dict.fromkeys((naming.stem, naming.full)):
        for target in _family(naming.target, name):
            state, _ = state_at(target, files, provenance)
            if state == SAME:
                return target, state
            if state == OTHER_SETTINGS:
                other_settings = other_settings or target
            if state == ABSENT and target not in taken:
                break
    if other_settings is not None:
        return other_settings, OTHER_SETTINGS
    for target in _family(naming.target, _base(naming, files, provenance)):
        state, _ = state_at(target, files, provenance)
        if state == ABSENT and target not in taken:
            return target, state
    raise AssertionError("there is always a next name")


def _base(naming: Naming, files: Sequence[FileRecord], provenance: Mapping[str, Any]) -> str:
    """The name without a number: the stem, unless it is or would be another file's."""
    if naming.stem == naming.full:
        return naming.stem
    state, recorded = state_at(_target(naming.target, naming.stem), files, provenance)
    if state == ABSENT:
        return naming.full if naming.crowded else naming.stem
    return naming.stem if recorded == naming.path else naming.full


def _family(folder: str, name: str) -> Iterator[str]:
    yield _target(folder, name)
    for number in count(2):
        yield _target(folder, f"{name}-{number}")


def _target(folder: str, name: str) -> str:
    return f"{folder.rstrip('/') or folder}/{name}{SUFFIX}"


def state_at(
    target: str, files: Sequence[FileRecord], provenance: Mapping[str, Any]
) -> tuple[str, str | None]:
    """What is at a target, for an item, and the path of the source that it records."""
    found = target_state(target)
    if found == "absent":
        return ABSENT, None
    if found == "unfinished":
        root = _unfinished(target)
        if root is None or root.get("source") == source_digest(files):
            return ABSENT, None
        return OTHER, root.get("provenance", {}).get("source_path")
    try:
        with ArchiveReader.open(target) as reader:
            recorded = reader.metadata
    except FormatError:
        return OTHER, None
    made = recorded.get("provenance", {})
    path = made.get("source_path")
    if recorded.get("source") != source_digest(files):
        return OTHER, path
    same = _promise(made.get("options", {})) == _promise(provenance["options"])
    return (SAME if same else OTHER_SETTINGS), path


def _promise(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide what an archive gives back; those it does not name as they are now.

    How exact values are coded makes an archive smaller or larger, no other one.
    """
    chosen = {**ArchiveOptions().to_dict(), **options}
    exact = chosen["mode"] == "lossless" and chosen["preview"] in (None, "none")
    without = {"coders", "device", "levels", "prior", "no_proof", "preview_size"}
    without |= {"base", "effort", "setting", "speed"} if exact else set()
    return {name: value for name, value in chosen.items() if name not in without}


def _unfinished(target: str) -> dict[str, Any] | None:
    """The metadata of an unfinished archive; None before they are written, or when unreadable."""
    store = open_store(work_place(target))
    try:
        data = store.get(METADATA_KEY)
        if data is None:
            return None
        root = decode(data, Node, where=target).attributes.get(ATTRIBUTE)
        return root if isinstance(root, dict) else None
    except FormatError:
        return None
    finally:
        store.close()
