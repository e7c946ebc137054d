"""Sources that were archived before, known by path, size and times before they are read again.

Each target folder has a small file in the user's cache (``PSC_ARCHIVE_CACHE``, else ``psc-archive``
in ``XDG_CACHE_HOME`` or ``~/.cache``) with one line for each source: a digest of where the files
are, how large and how old, and of the settings; the archive; the digest of its manifest. It is a
cache and nothing else: without it, or where anything differs, the files are hashed again and
compared with what the archives themselves record. It holds no paths of sources.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from psc_volumetric.archive.layout import MANIFEST_KEY
from psc_volumetric.archive.stores import is_url

__all__ = ["KnownSources", "fingerprint", "index_path"]

CACHE_VARIABLE = "PSC_ARCHIVE_CACHE"
_LARGEST = 256 << 20


def index_path(folder: Path) -> Path:
    """Where the index of a target folder is kept."""
    given = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME")
    caches = Path(home) if home else Path("~/.cache").expanduser()
    cache = Path(given) if given else caches / "psc-archive"
    return cache / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.index"


def fingerprint(paths: Sequence[Path], provenance: Mapping[str, Any]) -> str:
    """Digest of what is seen of files without reading them, and of the settings.

    The time of the last change of the inode is part of it: tools may set the other times back.
    """
    digest = hashlib.sha256(json.dumps(provenance, sort_keys=True).encode())
    for path in paths:
        found = path.stat()
        seen = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(os.fsencode(path.absolute()) + repr(seen).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class KnownSources:
    """The index of one target folder; `load` gives an empty one for any other target.

    Attributes
    ----------
    folder : Path or None
    rows : dict
        Fingerprint -> relative name of the archive and SHA-256 of its manifest.
    """

    folder: Path | None
    rows: dict[str, tuple[str, str]]

    @classmethod
    def load(cls, target: str, *, is_folder: bool) -> KnownSources:
        """Read the index of a target; what cannot be read is not known."""
        text = target.removeprefix("file://")
        if not is_folder or is_url(text):
            return cls(None, {})
        folder, rows = Path(text), {}
        try:
            with index_path(folder).open("rb") as stream:
                lines = stream.read(min(_LARGEST, os.fstat(stream.fileno()).st_size)).splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                seen, archive, manifest = json.loads(line)
            except (ValueError, TypeError, RecursionError):
                continue  # torn by a kill, or not ours
            if all(isinstance(text, str) for text in (seen, archive, manifest)):
                rows[seen] = (archive, manifest)
        return cls(folder, rows)

    def find(self, seen: str) -> str | None:
        """Path of the archive that holds a source; None when that is not certain."""
        if self.folder is None or seen not in self.rows:
            return None
        name, manifest = self.rows[seen]
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            return None
        archive = self.folder / name
        return str(archive) if _manifest_digest(archive) == manifest else None

    def add(self, seen: str, archive: str) -> None:
        """Remember an archive that is sealed now; where that fails, files are hashed again."""
        if self.folder is None:
            return
        path = Path(archive.removeprefix("file://"))
        manifest = _manifest_digest(path)
        if manifest is None or not path.is_relative_to(self.folder):
            return
        row = [seen, path.relative_to(self.folder).as_posix(), manifest]
        if self.rows.get(seen) == (row[1], row[2]):
            return
        line = json.dumps(row).encode() + b"\n"
        try:
            place = index_path(self.folder)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError:
            return
        with os.fdopen(handle, "wb", buffering=0) as stream:
            stream.write(b"\n" + line)  # a line that was torn ends here
        self.rows[seen] = (row[1], row[2])


def _manifest_digest(archive: Path) -> str | None:
    try:
        with (archive / MANIFEST_KEY).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
