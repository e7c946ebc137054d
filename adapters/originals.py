"""Source files kept verbatim: those that cannot be made again, and those that hold no volume.

Compressed DICOM, gzip streams and NetCDF-4 files depend on the library that wrote them. Whoever
needs these very bytes back asks for them to be kept: they travel as blobs beside the headers, so
the archive then holds such a file twice, once coded and once as it was. A file without a volume to
code is an item of the kind ``"original"``, which has nothing but its files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from adapters.base import (
    IDENTICAL,
    Candidate,
    Discovery,
    Promise,
    RestoredVolume,
    RestoreInfo,
    SourceItem,
    WrittenFile,
)
from adapters.errors import SourceError
from adapters.kept import Blocks
from adapters.output import file_target, unusable_record
from adapters.source_files import file_records, open_plain, safe_target, source_paths
from adapters.staging import staged_file, staged_folder

__all__ = [
    "KEPT_KINDS",
    "ORIGINAL",
    "BlobBytes",
    "FileBlob",
    "OriginalAdapter",
    "as_original",
    "blocks_of",
    "keep_originals",
    "original_blob",
    "original_of",
    "restore_originals",
    "write_original",
]

ORIGINAL = "original"

# Why a sound file of a known format may have no volume to code.
KEPT_KINDS = (
    "bad-affine",
    "duplicate-position",
    "mixed-series",
    "no-decoder",
    "no-volume",
    "unsupported-dtype",
    "unsupported-pixels",
    "unsupported-samples",
    "unsupported-type",
    "unsupported-volume",
)

_BLOCK = 1 << 20
_KEY = "originals"
_VOLUMES = "original_volumes"
_NAMES = "original_names"


@dataclass(frozen=True)
class FileBlob:
    """Bytes of a file, read block by block each time they are asked for.

    Attributes
    ----------
    path : Path
    nbytes : int
        As it was when its digest was made.
    """

    path: Path
    nbytes: int

    def blocks(self) -> Iterator[bytes]:
        """All bytes, in order.

        Raises
        ------
        SourceError : kind ``"unreadable"``, or ``"source-changed"`` where it has another size.
        """
        left = self.nbytes
        try:
            with open_plain(self.path) as stream:
                while block := stream.read(min(_BLOCK, left + 1)):
                    left -= len(block)
                    if left < 0:
                        break
                    yield block
        except OSError as error:
            reason = f"cannot read: {error.strerror}"
            raise SourceError(reason, kind="unreadable", path=self.path) from error
        if left:
            raise SourceError(
                f"expected {self.nbytes} bytes, the file has another size by now",
                kind="source-changed",
                path=self.path,
                hint="run the same command again when nothing writes to it any more",
            )


class BlobBytes(Mapping[str, bytes]):
    """Blobs in memory, each when it is asked for.

    Parameters
    ----------
    blobs : mapping
    """

    def __init__(self, blobs: Mapping[str, bytes | Blocks]) -> None:
        self._blobs = blobs

    def __getitem__(self, name: str) -> bytes:
        return b"".join(blocks_of(self._blobs, name))

    def __contains__(self, name: object) -> bool:
        return name in self._blobs

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)


class _Stored(Protocol):
    """Blobs of an archive, which can be had block by block."""

    def blocks(self, name: str) -> Iterator[bytes]:
        """All bytes of a blob, in order."""


def blocks_of(blobs: Mapping[str, bytes | Blocks], name: str) -> Iterator[bytes]:
    """A blob in blocks, wherever it is (KeyError)."""
    if hasattr(blobs, "blocks"):
        stored: _Stored = cast(_Stored, blobs)
        return stored.blocks(name)
    blob = blobs[name]
    return blob.blocks() if not isinstance(blob, bytes) else iter((blob,))


def write_original(blobs: Mapping[str, bytes | Blocks], name: str, place: Path) -> None:
    """Write a blob to a file; its folder is made (KeyError where there is no such blob)."""
    blocks = blocks_of(blobs, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as stream:
        stream.writelines(blocks)


def original_blob(number: int) -> str:
    """Name of the blob that is a source file, by its number."""
    return f"original/{number:06d}"


def as_original(candidate: Candidate, reason: str) -> Candidate:
    """Give the candidate that keeps the same files as they are, and why."""
    return replace(candidate, kind=ORIGINAL, reason=reason)


def keep_originals(item: SourceItem, candidate: Candidate, *, every: bool = False) -> SourceItem:
    """Give the item with files as blobs, which then come back as they were.

    Parameters
    ----------
    item, candidate
        As opened from one another. The files are read when they are written down.
    every : bool
        All files, not only those whose promise falls short of ``IDENTICAL``.
    """
    blobs: dict[str, bytes | Blocks] = dict(item.blobs)
    kept, files = {}, list(item.files)
    for number, path in enumerate(source_paths(item.files, candidate.paths)):
        if files[number].promise.kind == IDENTICAL and not every:
            continue
        name = original_blob(number)
        blobs[name] = FileBlob(path, files[number].size)
        kept[str(number)] = name
        files[number] = files[number].promising(Promise(IDENTICAL))
    document = {**item.document, _KEY: kept}
    if every:
        document |= {
            _NAMES: [file.name for file in files],
            _VOLUMES: len(item.volumes) + len(item.arrays),
        }
    return replace(item, document=document, blobs=blobs, files=tuple(files))


def original_of(
    document: dict[str, Any], blobs: Mapping[str, bytes | Blocks], number: int
) -> bytes | None:
    """Give a source file that was kept verbatim, or None.

    Raises
    ------
    KeyError : the document names a blob that is not there.
    """
    name = document.get(_KEY, {}).get(str(number))
    return None if name is None else b"".join(blocks_of(blobs, name))


def restore_originals(
    document: Mapping[str, Any],
    blobs: Mapping[str, bytes | Blocks],
    volumes: Sequence[RestoredVolume],
    target: Path,
    info: RestoreInfo,
    *,
    folder: bool,
) -> list[WrittenFile] | None:
    """Write an item whose files were all kept verbatim; None when a part or a level is asked for.

    With ``folder`` the target is a folder also for a single file.

    Raises
    ------
    SourceError : kind ``"target-exists"``, ``"bad-document"``, ``"unsafe-name"``.
    """
    whole = all(volume.is_whole for volume in volumes) and info.level is None
    if _NAMES not in document or not whole or len(volumes) != document.get(_VOLUMES):
        return None
    try:
        names = [str(name) for name in document[_NAMES]]
        kept = [str(document[_KEY][str(number)]) for number in range(len(names))]
        absent = [name for name in kept if name not in blobs]
        if absent:
            raise KeyError(absent[0])
    except (KeyError, TypeError) as error:
        raise unusable_record(ORIGINAL, error) from error
    if len(names) == 1 and not folder:
        own = safe_target(target, names[0]).name
        suffixes = [suffix.lower() for suffix in Path(own).suffixes[-1:]] or [own.lower()]
        place = file_target(target, own, suffixes)
        with staged_file(place) as staged:
            write_original(blobs, kept[0], staged[0])
        return [WrittenFile(place, 0, IDENTICAL)]
    with staged_folder(target) as work:
        for name, blob in zip(names, kept, strict=True):
            write_original(blobs, blob, safe_target(work, name))
    return [WrittenFile(target / name, number, IDENTICAL) for number, name in enumerate(names)]


class OriginalAdapter:
    """Files of a known format that hold nothing to code; see ``adapters.base.Adapter``."""

    kind = ORIGINAL

    def sniff(self, path: Path) -> bool:
        """Accept none: other adapters say that a file has no volume."""
        return False

    def discover(self, files: Sequence[Path]) -> Discovery:
        """Find none."""
        return Discovery((), ())

    def open(self, candidate: Candidate) -> SourceItem:
        """Take the files as they are."""
        item = SourceItem(
            kind=ORIGINAL,
            name=candidate.name,
            volumes=(),
            document={"document_version": 0},
            blobs={},
            files=file_records(candidate.paths),
            suggested_prior=None,
            notes=(f"kept as it is, without a volume: {candidate.reason}",),
        )
        return keep_originals(item, candidate, every=True)

    def restore(
        self,
        document: dict[str, Any],
        blobs: Mapping[str, bytes],
        volumes: Sequence[RestoredVolume],
        target: Path,
        info: RestoreInfo,
    ) -> list[WrittenFile]:
        """Write the files as they were."""
        written = restore_originals(document, blobs, volumes, target, info, folder=False)
        if written is None:
            raise SourceError(
                "the files were kept as a whole: no part and no level of them can be restored",
                kind="bad-region",
            )
        return written

    def content_sha256(self, path: Path) -> str:
        """Digest of the bytes."""
        return file_records([path])[0].sha256
